#include "public_ops.h"

#include "private_ops.h"

namespace roialign_ext {
namespace {

Geometry one_level(const char* rule, double spatial_scale, int64_t sampling_ratio) {
  return make_geometry(rule, {spatial_scale}, {}, sampling_ratio);
}

Tensor average_pool(const Tensors& input, const Tensor& boxes, const Sizes& output_size, const Geometry& geometry,
                    double extrapolation_value = 0) {
  check_pool_args(input, boxes, {}, {}, {}, output_size, geometry, extrapolation_value);
  return pool(input, boxes, {}, {}, {}, output_size, geometry, extrapolation_value);
}

Tensor max_pool_values(const Tensors& input, const Tensor& boxes, const Sizes& output_size, const Geometry& geometry) {
  check_max_pool_args(input, boxes, output_size, geometry);
  return std::get<0>(max_pool(input, boxes, output_size, geometry));
}

Tensor pool_by_mode(const Tensors& input, const Tensor& boxes, const Sizes& output_size, const Geometry& geometry,
                    const std::string& mode) {
  if (mode == "avg") return average_pool(input, boxes, output_size, geometry);
  ROI_CHECK_VALUE(mode == "max", "mode: expected 'avg' or 'max', got '", mode, "'");
  return max_pool_values(input, boxes, output_size, geometry);
}

const char* roi_align_rule(bool aligned) { return aligned ? "roi_align_half_pixel" : "roi_align_legacy"; }

Tensor roi_align(const Tensor& input, const Tensor& boxes, const Sizes& output_size, double spatial_scale,
                 int64_t sampling_ratio, bool aligned, StringHandle mode) {
  return pool_by_mode({input}, boxes, output_size, one_level(roi_align_rule(aligned), spatial_scale, sampling_ratio),
                      take_text(mode));
}

// With one level the private operators say spatial_scale, which is no argument of a pyramid.
void check_one_level(const Tensors& features, const Tensor& boxes, const std::vector<double>& scales) {
  if (features.size() != 1 || scales.size() != 1) return;
  check_scale("scales[0]", scales[0], coordinate_type(features[0], boxes));
}

Tensor multiscale_roi_align(const Tensors& features, const Tensor& boxes, const Sizes& output_size,
                            const std::vector<double>& scales, int64_t sampling_ratio, bool aligned, StringHandle mode,
                            double canonical_scale, double canonical_level) {
  check_one_level(features, boxes, scales);
  return pool_by_mode(
      features, boxes, output_size,
      make_geometry(roi_align_rule(aligned), scales, {{canonical_scale, canonical_level}}, sampling_ratio),
      take_text(mode));
}

Tensor prroi_pool(const Tensor& input, const Tensor& boxes, const Sizes& output_size, double spatial_scale) {
  return average_pool({input}, boxes, output_size, one_level("prroi_pool", spatial_scale, 0));
}

Tensor roi_warp(const Tensor& input, const Tensor& boxes, const Sizes& output_size, double spatial_scale,
                int64_t sampling_ratio, StringHandle mode) {
  return pool_by_mode({input}, boxes, output_size, one_level("roi_warp", spatial_scale, sampling_ratio),
                      take_text(mode));
}

Tensor roi_pool(const Tensor& input, const Tensor& boxes, const Sizes& output_size, double spatial_scale) {
  return max_pool_values({input}, boxes, output_size, one_level("roi_pool", spatial_scale, 0));
}

const char* rotated_rule(bool aligned, bool radian) {
  if (radian) return aligned ? "rotated_half_pixel_radian" : "rotated_legacy_radian";
  return aligned ? "rotated_half_pixel" : "rotated_legacy";
}

Tensor rotated(const Tensors& input, const Tensor& boxes, const Sizes& output_size, const std::vector<double>& scales,
               const OptionalNumbers& rule_args, int64_t sampling_ratio, bool aligned, bool clockwise,
               const std::string& angle_unit) {
  ROI_CHECK_VALUE(angle_unit == "degree" || angle_unit == "radian", "angle_unit: expected 'degree' or 'radian', got '",
                  angle_unit, "'");
  const Geometry geometry =
      make_geometry(rotated_rule(aligned, angle_unit == "radian"), scales, rule_args, sampling_ratio);
  if (!clockwise || boxes.dim() != 2 || boxes.size(1) != box_columns(geometry.rule)) {
    return average_pool(input, boxes, output_size, geometry);
  }
  const auto columns = [&](int64_t first, int64_t count) {
    return call_torch("aten::narrow", "", boxes, int64_t(1), first, count);
  };
  const Tensors turned = {columns(0, 5), call_torch("aten::neg", "", columns(5, 1))};
  return average_pool(input, call_torch("aten::cat", "", turned, int64_t(1)), output_size, geometry);
}

Tensor roi_align_rotated(const Tensor& input, const Tensor& boxes, const Sizes& output_size, double spatial_scale,
                         int64_t sampling_ratio, bool aligned, bool clockwise, StringHandle angle_unit) {
  return rotated({input}, boxes, output_size, {spatial_scale}, {}, sampling_ratio, aligned, clockwise,
                 take_text(angle_unit));
}

Tensor multiscale_roi_align_rotated(const Tensors& features, const Tensor& boxes, const Sizes& output_size,
                                    const std::vector<double>& scales, int64_t sampling_ratio, bool aligned,
                                    bool clockwise, StringHandle angle_unit, double canonical_scale,
                                    double canonical_level) {
  check_one_level(features, boxes, scales);
  return rotated(features, boxes, output_size, scales, {{canonical_scale, canonical_level}}, sampling_ratio, aligned,
                 clockwise, take_text(angle_unit));
}

// Every bin of a box reads its own group of channels. Channel c of bin p is channel c * PH * PW + p of the input. So a
// group is an image, and a bin is a box of one bin (PsBins).
Tensor position_sensitive(const Tensor& input, const Tensor& boxes, const Sizes& output_size, double spatial_scale,
                          int64_t sampling_ratio, const char* rule) {
  check_pool_args({input}, boxes, {}, {}, {}, output_size,
                  one_level("roi_align_half_pixel", spatial_scale, sampling_ratio), 0);
  const int64_t bins_y = output_size[0], bins_x = output_size[1], bins = bins_y * bins_x;
  ROI_CHECK_VALUE(input.size(1) % bins == 0, "input: expected channels in groups of ", bins, ", one for each of ",
                  bins_y, " x ", bins_x, " bins, got ", input.size(1));
  const int64_t images = input.size(0), channels = input.size(1) / bins, count = boxes.size(0);
  const int64_t height = input.size(2), width = input.size(3);
  const auto reshaped = [](const Tensor& tensor, const Sizes& sizes) {
    return call_torch("aten::reshape", "", tensor, sizes);
  };
  const auto permuted = [](const Tensor& tensor, const Sizes& axes) {
    return call_torch("aten::permute", "", tensor, axes);
  };
  const Tensor boxes_of_bins = call_torch("aten::expand", "", call_torch("aten::unsqueeze", "", boxes, int64_t(1)),
                                          Sizes{count, bins, 5}, false);
  const Tensor groups = permuted(reshaped(input, {images, channels, bins, height, width}), {0, 2, 1, 3, 4});
  const Geometry geometry = make_geometry(rule, {spatial_scale},
                                          {{static_cast<double>(bins_y), static_cast<double>(bins_x)}}, sampling_ratio);
  const Tensor pooled = average_pool({reshaped(groups, {images * bins, channels, height, width})},
                                     reshaped(boxes_of_bins, {count * bins, 5}), {1, 1}, geometry);
  const Tensor result = permuted(reshaped(pooled, {count, bins_y, bins_x, channels}), {0, 3, 1, 2});
  return is_channels_last(input) ? result : torch::stable::contiguous(result);
}

Tensor ps_roi_align(const Tensor& input, const Tensor& boxes, const Sizes& output_size, double spatial_scale,
                    int64_t sampling_ratio) {
  return position_sensitive(input, boxes, output_size, spatial_scale, sampling_ratio, "ps_roi_align");
}

Tensor ps_roi_pool(const Tensor& input, const Tensor& boxes, const Sizes& output_size, double spatial_scale) {
  return position_sensitive(input, boxes, output_size, spatial_scale, 0, "ps_roi_pool");
}

// Boxes (index, x1, y1, x2, y2) from crops (y1, x1, y2, x2) and their images.
Tensor boxes_of_crops(const Tensor& input, const Tensor& crops, const Tensor& box_indices) {
  ROI_CHECK_VALUE(crops.dim() == 2 && crops.size(1) == 4,
                  "boxes: expected a tensor [K, 4] of rows (y1, x1, y2, x2), got shape ", shape_text(crops));
  ROI_CHECK_VALUE(box_indices.dim() == 1 && box_indices.size(0) == crops.size(0),
                  "box_indices: expected one index per box, [", crops.size(0), "], got shape ",
                  shape_text(box_indices));
  check_device("boxes", crops, "input", input);
  check_device("box_indices", box_indices, "input", input);
  // Half precision would not hold large indices.
  const ScalarType dtype = crops.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const Tensor corners = as_dtype(crops, dtype);
  const auto column = [&](int64_t i) { return call_torch("aten::select", "int", corners, int64_t(1), i); };
  const Tensors columns = {as_dtype(box_indices, dtype), column(1), column(0), column(3), column(2)};
  return call_torch("aten::stack", "", columns, int64_t(1));
}

Tensor crop_and_resize(const Tensor& input, const Tensor& boxes, const Tensor& box_indices, const Sizes& crop_size,
                       StringHandle method_argument, double extrapolation_value, int64_t samples_per_bin,
                       StringHandle mode_argument) {
  const std::string method = take_text(method_argument), mode = take_text(mode_argument);
  ROI_CHECK_VALUE(method == "bilinear" || method == "nearest", "method: expected 'bilinear' or 'nearest', got '",
                  method, "'");
  ROI_CHECK_VALUE(mode == "avg" || mode == "max", "mode: expected 'avg' or 'max', got '", mode, "'");
  ROI_CHECK_VALUE(samples_per_bin > 0, "samples_per_bin: expected a positive number, got ", samples_per_bin);
  check_output_size("crop_size", crop_size);
  check_samples("samples_per_bin", samples_per_bin, crop_size);
  ROI_CHECK_VALUE(input.dim() == 4, "input: expected a 4-D tensor [N, C, H, W], got shape ", shape_text(input));
  const Tensor crops = boxes_of_crops(input, boxes, box_indices);
  // With C = 0 both modes return an empty tensor, which max_pool2d rejects.
  const bool is_max = mode == "max" && samples_per_bin > 1 && input.size(1) != 0;
  const int64_t averaged = is_max ? 1 : samples_per_bin, pooled = is_max ? samples_per_bin : 1;
  const Geometry geometry = one_level(method == "bilinear" ? "crop_bilinear" : "crop_nearest", 1.0, averaged);
  const Tensor crop =
      average_pool({input}, crops, {crop_size[0] * pooled, crop_size[1] * pooled}, geometry, extrapolation_value);
  if (!is_max) return crop;
  const Sizes window = {pooled, pooled}, no_padding = {0, 0}, no_dilation = {1, 1};
  return call_torch("aten::max_pool2d", "", crop, window, window, no_padding, no_dilation, false);
}

}  // namespace

void register_public_ops(torch::stable::detail::StableLibrary& library) {
  library.impl("roi_align", TORCH_BOX(&roi_align));
  library.impl("multiscale_roi_align", TORCH_BOX(&multiscale_roi_align));
  library.impl("multiscale_roi_align_rotated", TORCH_BOX(&multiscale_roi_align_rotated));
  library.impl("prroi_pool", TORCH_BOX(&prroi_pool));
  library.impl("roi_warp", TORCH_BOX(&roi_warp));
  library.impl("roi_pool", TORCH_BOX(&roi_pool));
  library.impl("ps_roi_align", TORCH_BOX(&ps_roi_align));
  library.impl("ps_roi_pool", TORCH_BOX(&ps_roi_pool));
  library.impl("roi_align_rotated", TORCH_BOX(&roi_align_rotated));
  library.impl("crop_and_resize", TORCH_BOX(&crop_and_resize));
}

}  // namespace roialign_ext
