#include "checks.h"

#include <c10/util/Exception.h>

#include <cmath>

namespace roialign_ext {
namespace {

bool is_supported_dtype(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kDouble || dtype == at::kHalf || dtype == at::kBFloat16;
}

void check_dtype(const char* name, const at::Tensor& tensor) {
  TORCH_CHECK_TYPE(is_supported_dtype(tensor.scalar_type()), name,
                   ": expected a float16, bfloat16, float32 or float64 tensor, got ", tensor.scalar_type());
}

void check_device(const char* name, const at::Tensor& tensor, const char* other_name, const at::Tensor& other) {
  TORCH_CHECK_VALUE(tensor.device() == other.device(), name, ": expected a tensor on ", other.device(), " like ",
                    other_name, ", got one on ", tensor.device());
}

// Two sizes are equal; in a graph with symbolic sizes this becomes a condition of the graph.
bool same_size(const c10::SymInt& a, const c10::SymInt& b) { return a.sym_eq(b).expect_true(__FILE__, __LINE__); }

void check_map(const char* name, const at::Tensor& map) {
  TORCH_CHECK_VALUE(map.dim() == 4, name, ": expected a 4-D tensor [N, C, H, W], got shape ", map.sym_sizes());
  check_dtype(name, map);
}

void check_boxes(const at::Tensor& boxes) {
  TORCH_CHECK_VALUE(boxes.dim() == 2 && same_size(boxes.sym_size(1), 5),
                    "boxes: expected a tensor [K, 5] of rows (batch index, x1, y1, x2, y2), got shape ",
                    boxes.sym_sizes());
  check_dtype("boxes", boxes);
}

void check_direction(const char* name, const OptionalTensor& direction, const at::Tensor& boxes) {
  if (!direction.has_value()) return;
  TORCH_CHECK_VALUE(direction->dim() == 2 && same_size(direction->sym_size(0), boxes.sym_size(0)) &&
                        same_size(direction->sym_size(1), 5),
                    name, ": expected the shape of boxes, ", boxes.sym_sizes(), ", got shape ", direction->sym_sizes());
  check_dtype(name, *direction);
  check_device(name, *direction, "boxes", boxes);
}

void check_output_shaped(const char* name, const at::Tensor& tensor, const at::Tensor& boxes,
                         const c10::SymInt& channels, const c10::SymInt& height, const c10::SymInt& width) {
  TORCH_CHECK_VALUE(tensor.dim() == 4 && same_size(tensor.sym_size(0), boxes.sym_size(0)) &&
                        same_size(tensor.sym_size(1), channels) && same_size(tensor.sym_size(2), height) &&
                        same_size(tensor.sym_size(3), width),
                    name, ": expected the shape of the output, [", boxes.sym_size(0), ", ", channels, ", ", height,
                    ", ", width, "], got shape ", tensor.sym_sizes());
  check_device(name, tensor, "boxes", boxes);
}

void check_winners(const OptionalTensor& winners, const at::Tensor& boxes, const c10::SymInt& channels,
                   const c10::SymInt& height, const c10::SymInt& width) {
  if (!winners.has_value()) return;
  check_output_shaped("winners", *winners, boxes, channels, height, width);
  TORCH_CHECK_TYPE(winners->scalar_type() == at::kInt, "winners: expected an int32 tensor, got ",
                   winners->scalar_type());
}

void check_output_size(c10::SymIntArrayRef output_size) {
  TORCH_CHECK_VALUE(output_size.size() == 2 && output_size[0].sym_gt(0).expect_true(__FILE__, __LINE__) &&
                        output_size[1].sym_gt(0).expect_true(__FILE__, __LINE__),
                    "output_size: expected two positive integers (height, width), got ", output_size);
}

void check_rule(double spatial_scale, std::string_view rule) {
  TORCH_CHECK_VALUE(std::isfinite(spatial_scale) && spatial_scale > 0,
                    "spatial_scale: expected a finite number above 0, got ", spatial_scale);
  TORCH_CHECK_VALUE(rule == kHalfPixelRule || rule == kLegacyRule, "rule: expected \"", kHalfPixelRule, "\" or \"",
                    kLegacyRule, "\", got \"", rule, "\"");
}

void check_directions(const OptionalTensor& u, const OptionalTensor& v, const at::Tensor& boxes) {
  TORCH_CHECK_VALUE(u.has_value() || !v.has_value(), "v: expected none where u is none, got a tensor");
  check_direction("u", u, boxes);
  check_direction("v", v, boxes);
}

}  // namespace

void check_pool_args(const at::Tensor& input, const at::Tensor& boxes, const OptionalTensor& u, const OptionalTensor& v,
                     const OptionalTensor& winners, c10::SymIntArrayRef output_size, double spatial_scale,
                     std::string_view rule) {
  check_map("input", input);
  check_boxes(boxes);
  check_device("boxes", boxes, "input", input);
  check_output_size(output_size);
  check_directions(u, v, boxes);
  check_winners(winners, boxes, input.sym_size(1), output_size[0], output_size[1]);
  check_rule(spatial_scale, rule);
}

void check_pool_grad_input_args(const at::Tensor& grad, const at::Tensor& boxes, const OptionalTensor& u,
                                const OptionalTensor& v, const OptionalTensor& winners, c10::SymIntArrayRef input_size,
                                double spatial_scale, std::string_view rule) {
  TORCH_CHECK_VALUE(input_size.size() == 4, "input_size: expected four integers (N, C, H, W), got ", input_size);
  for (const auto& size : input_size) {
    TORCH_CHECK_VALUE(size.sym_ge(0).expect_true(__FILE__, __LINE__), "input_size: expected no negative size, got ",
                      input_size);
  }
  check_map("grad", grad);
  check_boxes(boxes);
  const c10::SymInt height = grad.sym_size(2), width = grad.sym_size(3);
  check_output_shaped("grad", grad, boxes, input_size[1], height, width);
  check_output_size({height, width});
  check_directions(u, v, boxes);
  check_winners(winners, boxes, input_size[1], height, width);
  check_rule(spatial_scale, rule);
}

void check_pool_grad_boxes_args(const at::Tensor& grad, const at::Tensor& input, const at::Tensor& boxes,
                                const OptionalTensor& v, const OptionalTensor& winners, double spatial_scale,
                                std::string_view rule) {
  check_map("grad", grad);
  check_map("input", input);
  TORCH_CHECK_TYPE(grad.scalar_type() == input.scalar_type(), "grad: expected the dtype of input, ",
                   input.scalar_type(), ", got ", grad.scalar_type());
  check_boxes(boxes);
  check_device("boxes", boxes, "input", input);
  const c10::SymInt height = grad.sym_size(2), width = grad.sym_size(3);
  check_output_shaped("grad", grad, boxes, input.sym_size(1), height, width);
  check_output_size({height, width});
  check_direction("v", v, boxes);
  check_winners(winners, boxes, input.sym_size(1), height, width);
  check_rule(spatial_scale, rule);
}

}  // namespace roialign_ext
