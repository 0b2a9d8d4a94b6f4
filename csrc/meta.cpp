// Shapes, dtypes and memory formats of the results, without data: fake tensors, export and compilation run on these.
#include <torch/library.h>

#include <ATen/ops/empty.h>

#include "checks.h"

namespace roialign_ext {
namespace {

using at::Tensor;

Tensor empty_bins(const Tensor& input, const Tensor& boxes, c10::SymIntArrayRef output_size, at::ScalarType dtype) {
  return at::empty_symint({boxes.sym_size(0), input.sym_size(1), output_size[0], output_size[1]},
                          input.options().dtype(dtype).memory_format(input.suggest_memory_format()));
}

Tensor pool_meta(at::TensorList input, const Tensor& boxes, const OptionalTensor& u, const OptionalTensor& v,
                 const OptionalTensor& winners, c10::SymIntArrayRef output_size, at::ArrayRef<double> scales,
                 at::ArrayRef<double> canonical, int64_t sampling_ratio, std::string_view rule,
                 double extrapolation_value) {
  check_pool_args(input, boxes, u, v, winners, output_size, {scales, canonical, sampling_ratio, rule},
                  extrapolation_value);
  return empty_bins(input[0], boxes, output_size, input[0].scalar_type());
}

std::tuple<Tensor, Tensor> pool_max_meta(at::TensorList input, const Tensor& boxes, c10::SymIntArrayRef output_size,
                                         at::ArrayRef<double> scales, at::ArrayRef<double> canonical,
                                         int64_t sampling_ratio, std::string_view rule) {
  check_pool_max_args(input, boxes, output_size, {scales, canonical, sampling_ratio, rule});
  return {empty_bins(input[0], boxes, output_size, input[0].scalar_type()),
          empty_bins(input[0], boxes, output_size, at::kInt)};
}

std::vector<Tensor> pool_grad_input_meta(const Tensor& grad, const Tensor& boxes, const OptionalTensor& u,
                                         const OptionalTensor& v, const OptionalTensor& winners,
                                         c10::SymIntArrayRef input_size, bool channels_last,
                                         at::ArrayRef<double> scales, at::ArrayRef<double> canonical,
                                         int64_t sampling_ratio, std::string_view rule) {
  check_pool_grad_input_args(grad, boxes, u, v, winners, input_size, {scales, canonical, sampling_ratio, rule});
  const auto format = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  std::vector<Tensor> result;
  for (size_t i = 2; i < input_size.size(); i += 2) {
    result.push_back(at::empty_symint({input_size[0], input_size[1], input_size[i], input_size[i + 1]},
                                      grad.options().memory_format(format)));
  }
  return result;
}

Tensor pool_grad_boxes_meta(const Tensor& grad, at::TensorList input, const Tensor& boxes, const OptionalTensor& v,
                            const OptionalTensor& winners, at::ArrayRef<double> scales, at::ArrayRef<double> canonical,
                            int64_t sampling_ratio, std::string_view rule) {
  check_pool_grad_boxes_args(grad, input, boxes, v, winners, {scales, canonical, sampling_ratio, rule});
  return at::empty_symint(boxes.sym_sizes(), boxes.options());
}

TORCH_LIBRARY_IMPL(roialign_ext, Meta, m) {
  m.impl("_pool", pool_meta);
  m.impl("_pool_max", pool_max_meta);
  m.impl("_pool_grad_input", pool_grad_input_meta);
  m.impl("_pool_grad_boxes", pool_grad_boxes_meta);
}

}  // namespace
}  // namespace roialign_ext
