#include "checks.h"

#include <cmath>
#include <limits>
#include <string_view>
#include <utility>

namespace roialign_ext {
namespace {

constexpr int64_t kMaxSamplesOfAxis = std::numeric_limits<int32_t>::max();  // of a box

// roialign_ext/vmap.py has the same text for calls under vmap.
constexpr const char* kTrainAsList =
    ": give boxes that are trained as a list with one tensor per image, whose rows have no index that a step could "
    "move";

constexpr std::pair<std::string_view, Rule> kRules[] = {
    {"roi_align_half_pixel", Rule::kRoiAlignHalfPixel},
    {"roi_align_legacy", Rule::kRoiAlignLegacy},
    {"roi_warp", Rule::kRoiWarp},
    {"prroi_pool", Rule::kPrRoIPool},
    {"roi_pool", Rule::kRoiPool},
    {"crop_bilinear", Rule::kCropBilinear},
    {"crop_nearest", Rule::kCropNearest},
    {"ps_roi_align", Rule::kPsRoiAlign},
    {"ps_roi_pool", Rule::kPsRoiPool},
    {"rotated_half_pixel", Rule::kRotatedHalfPixel},
    {"rotated_legacy", Rule::kRotatedLegacy},
    {"rotated_half_pixel_radian", Rule::kRotatedHalfPixelRadian},
    {"rotated_legacy_radian", Rule::kRotatedLegacyRadian},
};

Rule rule_of(std::string_view name) {
  for (const auto& [known, rule] : kRules) {
    if (known == name) return rule;
  }
  throw std::invalid_argument(text("rule: expected the name of a pooling rule, got \"", name, "\""));
}

std::string element(const char* list, size_t i) { return text(list, "[", i, "]"); }

void check_dtype(const char* name, const Tensor& tensor) {
  const ScalarType dtype = tensor.scalar_type();
  ROI_CHECK_VALUE(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
                      dtype == ScalarType::BFloat16,
                  name, ": expected a float16, bfloat16, float32 or float64 tensor, got ",
                  torch::headeronly::toString(dtype));
}

void check_same_dtype(const char* name, const Tensor& tensor, const char* other_name, const Tensor& other) {
  ROI_CHECK_VALUE(tensor.scalar_type() == other.scalar_type(), name, ": expected the dtype of ", other_name, ", ",
                  torch::headeronly::toString(other.scalar_type()), ", got ",
                  torch::headeronly::toString(tensor.scalar_type()));
}

void check_map(const char* name, const Tensor& map) {
  ROI_CHECK_VALUE(map.dim() == 4, name, ": expected a 4-D tensor [N, C, H, W], got shape ", shape_text(map));
  check_dtype(name, map);
}

void check_levels(size_t levels, Rule rule) {
  ROI_CHECK_VALUE(levels >= 1 && levels <= kMaxLevels, "features: expected 1 to ", kMaxLevels, " feature maps, got ",
                  levels);
  ROI_CHECK_VALUE(levels == 1 || !(is_crop(rule) || is_position_sensitive(rule)),
                  "features: expected one feature map, got ", levels);
}

void check_maps(const Tensors& maps, Rule rule) {
  check_levels(maps.size(), rule);
  if (maps.size() == 1) return check_map("input", maps[0]);
  for (size_t i = 0; i < maps.size(); ++i) {
    const std::string element_name = element("features", i);
    const char* name = element_name.c_str();
    check_map(name, maps[i]);
    check_device(name, maps[i], "features[0]", maps[0]);
    check_same_dtype(name, maps[i], "features[0]", maps[0]);
    ROI_CHECK_VALUE(maps[i].size(0) == maps[0].size(0) && maps[i].size(1) == maps[0].size(1), name,
                    ": expected the images and channels of features[0], [", maps[0].size(0), ", ", maps[0].size(1),
                    ", H, W], got shape ", shape_text(maps[i]));
  }
}

void check_boxes(const Tensor& boxes, Rule rule) {
  const char* form = is_rotated(rule) ? "[K, 6] of rows (batch index, cx, cy, w, h, angle)"
                                      : "[K, 5] of rows (batch index, x1, y1, x2, y2)";
  ROI_CHECK_VALUE(boxes.dim() == 2 && boxes.size(1) == box_columns(rule), "boxes: expected a tensor ", form,
                  ", got shape ", shape_text(boxes));
  check_dtype("boxes", boxes);
}

void check_direction(const char* name, const OptionalTensor& direction, const Tensor& boxes, const Geometry& geometry) {
  if (!direction.has_value()) return;
  ROI_CHECK_RUNTIME(has_box_derivative(geometry.rule), geometry.name,
                    " has no derivative with respect to the boxes: detach them");
  ROI_CHECK_VALUE(direction->dim() == 2 && direction->sizes().equals(boxes.sizes()), name,
                  ": expected the shape of boxes, ", shape_text(boxes), ", got shape ", shape_text(*direction));
  check_dtype(name, *direction);
  check_device(name, *direction, "boxes", boxes);
}

void check_output_shaped(const char* name, const Tensor& tensor, const Tensor& boxes, int64_t channels, int64_t height,
                         int64_t width) {
  ROI_CHECK_VALUE(tensor.dim() == 4 && tensor.sizes().equals(Sizes{boxes.size(0), channels, height, width}), name,
                  ": expected the shape of the output, [", boxes.size(0), ", ", channels, ", ", height, ", ", width,
                  "], got shape ", shape_text(tensor));
  check_device(name, tensor, "boxes", boxes);
}

bool has_maximum(Rule rule) { return !is_integral(rule) && !is_rotated(rule) && !is_position_sensitive(rule); }

bool is_count(double number) {
  return number >= 1 && number <= static_cast<double>(kMaxSamplesOfAxis) && number == std::floor(number);
}

// Position-sensitive rules have one image for each bin of an image, and one box for each bin of a box (PsBins).
void check_ps_bins(const Geometry& geometry, int64_t images, int64_t boxes, const Sizes& output_size) {
  if (!is_position_sensitive(geometry.rule)) return;
  const std::vector<double>& bins = geometry.rule_args;
  ROI_CHECK_VALUE(is_count(bins[0]) && is_count(bins[1]), "rule_args: expected the numbers of bins (PH, PW) of rule \"",
                  geometry.name, "\", got ", list_text<double>(bins));
  const int64_t count = ps_bins_of(geometry).count();
  ROI_CHECK_VALUE(images % count == 0, "input: expected ", count, " for each image, one for each bin, got ", images);
  ROI_CHECK_VALUE(boxes % count == 0, "boxes: expected ", count, " rows for each box, one for each bin, got ", boxes);
  ROI_CHECK_VALUE(output_size[0] == 1 && output_size[1] == 1, "output_size: expected [1, 1] for rule \"", geometry.name,
                  "\", got ", list_text<int64_t>(output_size));
}

void check_argmax(const OptionalTensor& argmax, const Tensor& boxes, int64_t channels, int64_t height, int64_t width,
                  const Geometry& geometry) {
  if (!argmax.has_value()) {
    ROI_CHECK_VALUE(geometry.rule != Rule::kRoiPool, "argmax: expected that of a maximum for rule \"", geometry.name,
                    "\"");
    return;
  }
  ROI_CHECK_VALUE(has_maximum(geometry.rule), "argmax: expected none for rule \"", geometry.name, "\", got a tensor");
  check_output_shaped("argmax", *argmax, boxes, channels, height, width);
  ROI_CHECK_VALUE(argmax->scalar_type() == ScalarType::Int, "argmax: expected an int32 tensor, got ",
                  torch::headeronly::toString(argmax->scalar_type()));
}

void check_geometry(const Geometry& geometry, size_t levels, int64_t images, const Tensor& boxes,
                    ScalarType coordinates, const Sizes& output_size) {
  ROI_CHECK_VALUE(geometry.scales.size() == levels, "scales: expected one number per feature map, which are ", levels,
                  ", got ", geometry.scales.size());
  for (size_t i = 0; i < levels; ++i) {
    check_scale(levels == 1 ? "spatial_scale" : element("scales", i), geometry.scales[i], coordinates);
    ROI_CHECK_VALUE(i == 0 || geometry.scales[i] <= geometry.scales[i - 1],
                    "scales: expected 1 / stride of each level, from the finest level to the coarsest, none larger ",
                    "than the one before, got ", list_text<double>(geometry.scales));
  }
  if (levels > 1 || is_position_sensitive(geometry.rule) || !geometry.rule_args.empty()) {
    ROI_CHECK_VALUE(geometry.rule_args.size() == 2, "rule_args: expected the two numbers canonical_scale and ",
                    "canonical_level, got ", geometry.rule_args.size());
    check_scale("canonical_scale", geometry.rule_args[0], coordinates);
    ROI_CHECK_VALUE(std::abs(geometry.rule_args[1]) <= std::numeric_limits<float>::max(),
                    "canonical_level: expected a finite number, got ", geometry.rule_args[1]);
  }
  const bool crop = is_crop(geometry.rule);
  ROI_CHECK_VALUE(!crop || geometry.sampling_ratio > 0, "samples_per_bin: expected a positive number, got ",
                  geometry.sampling_ratio);
  check_samples(crop ? "samples_per_bin" : "sampling_ratio", geometry.sampling_ratio, output_size);
  check_ps_bins(geometry, images, boxes.size(0), output_size);
}

void check_directions(const OptionalTensor& u, const OptionalTensor& v, const Tensor& boxes, const Geometry& geometry) {
  ROI_CHECK_VALUE(u.has_value() || !v.has_value(), "v: expected none where u is none, got a tensor");
  check_direction("u", u, boxes, geometry);
  check_direction("v", v, boxes, geometry);
}

// Checks the arguments that _pool and _max_pool share.
void check_common_args(const Tensors& input, const Tensor& boxes, const Sizes& output_size, const Geometry& geometry) {
  check_maps(input, geometry.rule);
  check_boxes(boxes, geometry.rule);
  check_device("boxes", boxes, "input", input[0]);
  check_output_size("output_size", output_size);
  check_geometry(geometry, input.size(), input[0].size(0), boxes, coordinate_type(input[0], boxes), output_size);
}

// A step of an optimizer or of gradcheck moves every number of a box, and the index only a little.
template <class T>
bool was_moved(T index, int64_t images) {
  const T nearest = std::round(index);
  return index != nearest && std::abs(index - nearest) < T(0.1) && nearest >= T(0) && nearest < static_cast<T>(images);
}

template <class T>
void check_values_of_boxes(const Tensor& boxes, Rule rule, int64_t images, int64_t bins) {
  const int64_t count = boxes.size(0) / bins, columns = boxes.size(1);
  const T* box = boxes.const_data_ptr<T>();
  for (int64_t k = 0; k < count; ++k, box += bins * columns) {
    const T index = box[0];
    ROI_CHECK_INDEX(index >= T(0) && index < static_cast<T>(images) && index == std::floor(index),
                    is_crop(rule) ? "box_indices: the index in row " : "boxes: the batch index in row ", k,
                    " must be a whole number in [0, ", images, "), got ", index,
                    was_moved(index, images) ? kTrainAsList : "");
    ROI_CHECK_VALUE(!is_rotated(rule) || !(box[3] < T(0) || box[4] < T(0)), "boxes: width and height in row ", k,
                    " must not be negative, got ", box[3], " x ", box[4]);
  }
}

}  // namespace

Geometry make_geometry(const std::string& rule, const std::vector<double>& scales, const OptionalNumbers& rule_args,
                       int64_t sampling_ratio) {
  return {rule_of(rule), rule, scales, rule_args.value_or(std::vector<double>{}), sampling_ratio};
}

// Level numbers are truncated as the reference implementation of this pooler truncates them.
LevelRule level_rule(const Geometry& geometry) {
  if (geometry.rule_args.empty()) return {1, 0, 0, 0};  // one level, whatever the box
  const double finest = std::trunc(-std::log2(geometry.scales.front()));
  const double coarsest = std::trunc(-std::log2(geometry.scales.back()));
  const double last = finest + static_cast<double>(geometry.scales.size() - 1);
  return {geometry.rule_args[0], geometry.rule_args[1], finest, coarsest < last ? coarsest : last};
}

PsBins ps_bins_of(const Geometry& geometry) {
  if (!is_position_sensitive(geometry.rule)) return {};
  return {static_cast<int64_t>(geometry.rule_args[0]), static_cast<int64_t>(geometry.rule_args[1])};
}

void check_device(const char* name, const Tensor& tensor, const char* other_name, const Tensor& other) {
  ROI_CHECK_VALUE(tensor.is_cpu() == other.is_cpu() && tensor.get_device_index() == other.get_device_index(), name,
                  ": expected a tensor on ", device_text(other), " like ", other_name, ", got one on ",
                  device_text(tensor));
}

void check_output_size(const char* name, const Sizes& size) {
  ROI_CHECK_VALUE(size.size() == 2 && size[0] > 0 && size[1] > 0, name,
                  ": expected two positive integers (height, width), got ", list_text<int64_t>(size));
  ROI_CHECK_VALUE(size[0] <= kMaxSamplesOfAxis && size[1] <= kMaxSamplesOfAxis, name, ": expected at most ",
                  kMaxSamplesOfAxis, " along an axis, got ", list_text<int64_t>(size));
}

void check_samples(const char* name, int64_t per_bin, const Sizes& bins) {
  for (const int64_t count : bins) {
    ROI_CHECK_VALUE(per_bin <= 0 || per_bin <= kMaxSamplesOfAxis / count, name, ": expected at most ",
                    kMaxSamplesOfAxis, " samples along an axis of a box, got ", per_bin, " in each of ", count,
                    " bins");
  }
}

void check_scale(const std::string& name, double scale, ScalarType coordinates) {
  const bool wide = coordinates == ScalarType::Double;
  const double largest = wide ? std::numeric_limits<double>::max() : std::numeric_limits<float>::max();
  ROI_CHECK_VALUE(scale > 0 && scale <= largest && (wide || static_cast<float>(scale) > 0), name,
                  ": expected a finite number above 0", wide ? "" : " in float32, as which coordinates are read",
                  ", got ", scale);
}

ScalarType coordinate_type(const Tensor& features, const Tensor& boxes) {
  const bool wide = features.scalar_type() == ScalarType::Double || boxes.scalar_type() == ScalarType::Double;
  return wide ? ScalarType::Double : ScalarType::Float;
}

void check_box_values(const Tensor& boxes, Rule rule, int64_t images, const PsBins& ps_bins) {
  const int64_t count = ps_bins.count(), whole = images / count;
  if (boxes.scalar_type() == ScalarType::Double) return check_values_of_boxes<double>(boxes, rule, whole, count);
  check_values_of_boxes<float>(boxes, rule, whole, count);
}

void check_pool_args(const Tensors& input, const Tensor& boxes, const OptionalTensor& u, const OptionalTensor& v,
                     const OptionalTensor& argmax, const Sizes& output_size, const Geometry& geometry,
                     double extrapolation_value) {
  check_common_args(input, boxes, output_size, geometry);
  ROI_CHECK_VALUE(extrapolation_value == 0 || (is_crop(geometry.rule) && !u.has_value() && !argmax.has_value()),
                  "extrapolation_value: expected 0 but for the value of a crop, got ", extrapolation_value);
  check_directions(u, v, boxes, geometry);
  check_argmax(argmax, boxes, input[0].size(1), output_size[0], output_size[1], geometry);
}

void check_max_pool_args(const Tensors& input, const Tensor& boxes, const Sizes& output_size,
                         const Geometry& geometry) {
  ROI_CHECK_VALUE(has_maximum(geometry.rule), "rule: expected one that has a maximum, got \"", geometry.name, "\"");
  check_common_args(input, boxes, output_size, geometry);
}

void check_pool_grad_input_args(const Tensor& grad, const Tensor& boxes, const OptionalTensor& u,
                                const OptionalTensor& v, const OptionalTensor& argmax, const Sizes& input_size,
                                const Geometry& geometry) {
  ROI_CHECK_VALUE(input_size.size() >= 4 && input_size.size() % 2 == 0,
                  "input_size: expected the integers (N, C, H, W), and H and W of each further level, got ",
                  list_text<int64_t>(input_size));
  for (const int64_t size : input_size) {
    ROI_CHECK_VALUE(size >= 0, "input_size: expected no negative size, got ", list_text<int64_t>(input_size));
  }
  const size_t levels = input_size.size() / 2 - 1;
  check_levels(levels, geometry.rule);
  check_map("grad", grad);
  check_boxes(boxes, geometry.rule);
  const int64_t height = grad.size(2), width = grad.size(3);
  check_output_shaped("grad", grad, boxes, input_size[1], height, width);
  check_output_size("output_size", {height, width});
  check_directions(u, v, boxes, geometry);
  check_argmax(argmax, boxes, input_size[1], height, width, geometry);
  check_geometry(geometry, levels, input_size[0], boxes, coordinate_type(grad, boxes), {height, width});
}

void check_pool_grad_boxes_args(const Tensor& grad, const Tensors& input, const Tensor& boxes, const OptionalTensor& v,
                                const OptionalTensor& argmax, const Geometry& geometry) {
  ROI_CHECK_RUNTIME(has_box_derivative(geometry.rule), geometry.name,
                    " has no gradient with respect to the boxes: detach them (boxes.detach()), or use ",
                    is_position_sensitive(geometry.rule) ? "ps_roi_align" : "roi_align");
  check_map("grad", grad);
  check_maps(input, geometry.rule);
  check_same_dtype("grad", grad, "input", input[0]);
  check_boxes(boxes, geometry.rule);
  check_device("boxes", boxes, "input", input[0]);
  const int64_t height = grad.size(2), width = grad.size(3);
  check_output_shaped("grad", grad, boxes, input[0].size(1), height, width);
  check_output_size("output_size", {height, width});
  check_direction("v", v, boxes, geometry);
  check_argmax(argmax, boxes, input[0].size(1), height, width, geometry);
  check_geometry(geometry, input.size(), input[0].size(0), boxes, coordinate_type(grad, boxes), {height, width});
}

}  // namespace roialign_ext
