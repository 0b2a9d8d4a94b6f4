// The public operators by themselves: each is a choice of rule and mode. In Python their derivatives are those of the
// private operators that they are made of (roialign_ext/_operators.py); here is what runs without, forward alone.
#include "operators.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/stack.h>
#include <torch/library.h>

namespace roialign_ext {
namespace {

template <class Signature>
c10::TypedOperatorHandle<Signature> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

// The rule of an operator on one map; what belongs to several is not looked at.
BoxRule one_level(double spatial_scale, int64_t sampling_ratio, const char* name) {
  return {{spatial_scale}, {224.0, 4.0}, sampling_ratio, name};
}

Tensor pool_by_mode(at::TensorList input, const Tensor& boxes, c10::SymIntArrayRef output_size, const BoxRule& rule,
                    std::string_view mode) {
  if (mode == "avg") return pool(input, boxes, output_size, rule);
  TORCH_CHECK_VALUE(mode == "max", "mode: expected 'avg' or 'max', got '", mode, "'");
  return std::get<0>(pool_max(input, boxes, output_size, rule));
}

const char* roi_align_rule(bool aligned) { return aligned ? "roi_align_half_pixel" : "roi_align_legacy"; }

void check_tensors(const Tensor& input, const Tensor& boxes) {
  check_tensor("input", input);
  check_box_tensor(boxes);
}

Tensor roi_align(const Tensor& input, const Tensor& boxes, c10::SymIntArrayRef output_size, double spatial_scale,
                 int64_t sampling_ratio, bool aligned, std::string_view mode) {
  check_tensors(input, boxes);
  return pool_by_mode(input, boxes, output_size, one_level(spatial_scale, sampling_ratio, roi_align_rule(aligned)),
                      mode);
}

Tensor multiscale_roi_align(at::TensorList features, const Tensor& boxes, c10::SymIntArrayRef output_size,
                            at::ArrayRef<double> scales, int64_t sampling_ratio, bool aligned, std::string_view mode,
                            double canonical_scale, double canonical_level) {
  for (size_t i = 0; i < features.size(); ++i) check_tensor("features[" + std::to_string(i) + "]", features[i]);
  check_box_tensor(boxes);
  if (features.size() == 1 && scales.size() == 1) {  // the private operators call the scale of one map otherwise
    check_scale("scales[0]", scales[0], coordinate_type(features[0].scalar_type(), boxes.scalar_type()));
  }
  const BoxRule rule = {scales.vec(), {canonical_scale, canonical_level}, sampling_ratio, roi_align_rule(aligned)};
  return pool_by_mode(features, boxes, output_size, rule, mode);
}

Tensor prroi_pool(const Tensor& input, const Tensor& boxes, c10::SymIntArrayRef output_size, double spatial_scale) {
  check_tensors(input, boxes);
  return pool(input, boxes, output_size, one_level(spatial_scale, 0, "prroi_pool"));
}

Tensor roi_warp(const Tensor& input, const Tensor& boxes, c10::SymIntArrayRef output_size, double spatial_scale,
                int64_t sampling_ratio, std::string_view mode) {
  check_tensors(input, boxes);
  return pool_by_mode(input, boxes, output_size, one_level(spatial_scale, sampling_ratio, "roi_warp"), mode);
}

Tensor roi_pool(const Tensor& input, const Tensor& boxes, c10::SymIntArrayRef output_size, double spatial_scale) {
  check_tensors(input, boxes);
  return std::get<0>(pool_max(input, boxes, output_size, one_level(spatial_scale, 0, "roi_pool")));
}

const char* rotated_rule(bool aligned, bool radian) {
  if (radian) return aligned ? "rotated_half_pixel_radian" : "rotated_legacy_radian";
  return aligned ? "rotated_half_pixel" : "rotated_legacy";
}

Tensor roi_align_rotated(const Tensor& input, const Tensor& boxes, c10::SymIntArrayRef output_size,
                         double spatial_scale, int64_t sampling_ratio, bool aligned, bool clockwise,
                         std::string_view angle_unit) {
  check_tensors(input, boxes);
  TORCH_CHECK_VALUE(angle_unit == "degree" || angle_unit == "radian",
                    "angle_unit: expected 'degree' or 'radian', got '", angle_unit, "'");
  const BoxRule rule = one_level(spatial_scale, sampling_ratio, rotated_rule(aligned, angle_unit == "radian"));
  if (!clockwise || boxes.dim() != 2) return pool(input, boxes, output_size, rule);
  const Tensor turned = at::cat({boxes.slice(1, 0, 5), boxes.slice(1, 5).neg()}, 1);
  return pool(input, turned, output_size, rule);
}

// Rows (index, x1, y1, x2, y2) of boxes (y1, x1, y2, x2) and their images.
Tensor crop_rows(const Tensor& input, const Tensor& boxes, const Tensor& box_indices) {
  TORCH_CHECK_VALUE(boxes.dim() == 2 && boxes.sym_size(1).sym_eq(4).expect_true(__FILE__, __LINE__),
                    "boxes: expected a tensor [K, 4] of rows (y1, x1, y2, x2), got shape ", boxes.sym_sizes());
  TORCH_CHECK_VALUE(
      box_indices.dim() == 1 && box_indices.sym_size(0).sym_eq(boxes.sym_size(0)).expect_true(__FILE__, __LINE__),
      "box_indices: expected one index per box, [", boxes.sym_size(0), "], got shape ", box_indices.sym_sizes());
  TORCH_CHECK_TYPE(at::isIntegralType(box_indices.scalar_type(), /*includeBool=*/false),
                   "box_indices: expected an integer tensor, got ", box_indices.scalar_type());
  check_device("boxes", boxes, "input", input);
  check_device("box_indices", box_indices, "input", input);
  // Half precision would not hold large indices.
  const Tensor rows = boxes.scalar_type() == at::kDouble ? boxes : boxes.to(at::kFloat);
  return at::stack(
      {box_indices.to(rows.scalar_type()), rows.select(1, 1), rows.select(1, 0), rows.select(1, 3), rows.select(1, 2)},
      1);
}

Tensor crop_and_resize(const Tensor& input, const Tensor& boxes, const Tensor& box_indices,
                       c10::SymIntArrayRef crop_size, std::string_view method, double extrapolation_value,
                       int64_t samples_per_bin, std::string_view mode) {
  TORCH_CHECK_VALUE(method == "bilinear" || method == "nearest", "method: expected 'bilinear' or 'nearest', got '",
                    method, "'");
  TORCH_CHECK_VALUE(mode == "avg" || mode == "max", "mode: expected 'avg' or 'max', got '", mode, "'");
  TORCH_CHECK_VALUE(samples_per_bin > 0, "samples_per_bin: expected a positive number, got ", samples_per_bin);
  check_output_size("crop_size", crop_size);
  check_samples("samples_per_bin", samples_per_bin, crop_size);
  check_tensors(input, boxes);
  TORCH_CHECK_VALUE(input.dim() == 4, "input: expected a 4-D tensor [N, C, H, W], got shape ", input.sym_sizes());
  const Tensor rows = crop_rows(input, boxes, box_indices);
  // Without channels the two modes are one, and max_pool2d refuses.
  const bool is_max = mode == "max" && samples_per_bin > 1 && input.sym_size(1) != 0;
  const int64_t averaged = is_max ? 1 : samples_per_bin, pooled = is_max ? samples_per_bin : 1;
  const std::vector<c10::SymInt> size = {crop_size[0] * pooled, crop_size[1] * pooled};
  const BoxRule rule = one_level(1.0, averaged, method == "bilinear" ? "crop_bilinear" : "crop_nearest");
  const Tensor crop = pool(input, rows, size, rule, extrapolation_value);
  return is_max ? at::max_pool2d(crop, {pooled, pooled}) : crop;
}

void register_operators(torch::Library& m) {
  m.impl("roi_align", roi_align);
  m.impl("multiscale_roi_align", multiscale_roi_align);
  m.impl("prroi_pool", prroi_pool);
  m.impl("roi_warp", roi_warp);
  m.impl("roi_pool", roi_pool);
  m.impl("roi_align_rotated", roi_align_rotated);
  m.impl("crop_and_resize", crop_and_resize);
}

TORCH_LIBRARY_IMPL(roialign_ext, CPU, m) { register_operators(m); }

TORCH_LIBRARY_IMPL(roialign_ext, CUDA, m) { register_operators(m); }

}  // namespace

Tensor pool(at::TensorList input, const Tensor& boxes, c10::SymIntArrayRef output_size, const BoxRule& rule,
            double extrapolation_value) {
  using Signature =
      Tensor(at::TensorList, const Tensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
             c10::SymIntArrayRef, at::ArrayRef<double>, at::ArrayRef<double>, int64_t, std::string_view, double);
  static const auto op = find<Signature>("roialign_ext::_pool");
  at::AutoDispatchBelowADInplaceOrView guard;
  return op.call(input, boxes, {}, {}, {}, output_size, rule.scales, rule.canonical, rule.sampling_ratio, rule.name,
                 extrapolation_value);
}

std::tuple<Tensor, Tensor> pool_max(at::TensorList input, const Tensor& boxes, c10::SymIntArrayRef output_size,
                                    const BoxRule& rule) {
  using Signature = std::tuple<Tensor, Tensor>(at::TensorList, const Tensor&, c10::SymIntArrayRef, at::ArrayRef<double>,
                                               at::ArrayRef<double>, int64_t, std::string_view);
  static const auto op = find<Signature>("roialign_ext::_pool_max");
  at::AutoDispatchBelowADInplaceOrView guard;
  return op.call(input, boxes, output_size, rule.scales, rule.canonical, rule.sampling_ratio, rule.name);
}

}  // namespace roialign_ext
