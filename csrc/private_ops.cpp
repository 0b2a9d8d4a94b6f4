#include "private_ops.h"

namespace roialign_ext {
namespace {

Tensor private_pool(const Tensors& input, const Tensor& boxes, const OptionalTensor& u, const OptionalTensor& v,
                    const OptionalTensor& argmax, const Sizes& output_size, const std::vector<double>& scales,
                    const OptionalNumbers& rule_args, int64_t sampling_ratio, StringHandle rule,
                    double extrapolation_value) {
  const Geometry geometry = make_geometry(take_text(rule), scales, rule_args, sampling_ratio);
  check_pool_args(input, boxes, u, v, argmax, output_size, geometry, extrapolation_value);
  return pool(input, boxes, u, v, argmax, output_size, geometry, extrapolation_value);
}

std::tuple<Tensor, Tensor> private_max_pool(const Tensors& input, const Tensor& boxes, const Sizes& output_size,
                                            const std::vector<double>& scales, const OptionalNumbers& rule_args,
                                            int64_t sampling_ratio, StringHandle rule) {
  const Geometry geometry = make_geometry(take_text(rule), scales, rule_args, sampling_ratio);
  check_max_pool_args(input, boxes, output_size, geometry);
  return max_pool(input, boxes, output_size, geometry);
}

Tensors private_pool_grad_input(const Tensor& grad, const Tensor& boxes, const OptionalTensor& u,
                                const OptionalTensor& v, const OptionalTensor& argmax, const Sizes& input_size,
                                bool channels_last, const std::vector<double>& scales, const OptionalNumbers& rule_args,
                                int64_t sampling_ratio, StringHandle rule) {
  const Geometry geometry = make_geometry(take_text(rule), scales, rule_args, sampling_ratio);
  check_pool_grad_input_args(grad, boxes, u, v, argmax, input_size, geometry);
  return pool_grad_input(grad, boxes, u, v, argmax, input_size, channels_last, geometry);
}

Tensor private_pool_grad_boxes(const Tensor& grad, const Tensors& input, const Tensor& boxes, const OptionalTensor& v,
                               const OptionalTensor& argmax, const std::vector<double>& scales,
                               const OptionalNumbers& rule_args, int64_t sampling_ratio, StringHandle rule) {
  const Geometry geometry = make_geometry(take_text(rule), scales, rule_args, sampling_ratio);
  check_pool_grad_boxes_args(grad, input, boxes, v, argmax, geometry);
  return pool_grad_boxes(grad, input, boxes, v, argmax, geometry);
}

}  // namespace

void register_private_ops(torch::stable::detail::StableLibrary& library) {
  library.impl("_pool", TORCH_BOX(&private_pool));
  library.impl("_max_pool", TORCH_BOX(&private_max_pool));
  library.impl("_pool_grad_input", TORCH_BOX(&private_pool_grad_input));
  library.impl("_pool_grad_boxes", TORCH_BOX(&private_pool_grad_boxes));
}

}  // namespace roialign_ext
