#include "checks.h"

#include <c10/util/Exception.h>

#include <cmath>
#include <limits>
#include <string>
#include <utility>

namespace roialign_ext {
namespace {

constexpr size_t kMaxLevels = 8;
constexpr int64_t kMostSamples = std::numeric_limits<int32_t>::max();  // along one axis of a box

// Under vmap the same stands in roialign_ext/vmap.py.
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
    {"rotated_half_pixel", Rule::kRotatedHalfPixel},
    {"rotated_legacy", Rule::kRotatedLegacy},
    {"rotated_half_pixel_radian", Rule::kRotatedHalfPixelRadian},
    {"rotated_legacy_radian", Rule::kRotatedLegacyRadian},
};

bool is_supported_dtype(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kDouble || dtype == at::kHalf || dtype == at::kBFloat16;
}

void check_dtype(std::string_view name, const at::Tensor& tensor) {
  TORCH_CHECK_TYPE(is_supported_dtype(tensor.scalar_type()), name,
                   ": expected a float16, bfloat16, float32 or float64 tensor, got ", tensor.scalar_type());
}

// The message is that of roialign_ext/boxes.py about a list of boxes.
void check_box_dtype(const at::Tensor& boxes) {
  const at::ScalarType dtype = boxes.scalar_type();
  TORCH_CHECK_TYPE(
      is_supported_dtype(dtype), "boxes: expected a float16, bfloat16, float32 or float64 tensor, got torch.",
      c10::getDtypeNames(dtype).first, at::isIntegralType(dtype, /*includeBool=*/true) ? ": use boxes.float()" : "");
}

void check_layout(std::string_view name, const at::Tensor& tensor) {
  TORCH_CHECK_VALUE(tensor.layout() == at::kStrided && !tensor.is_nested(), name, ": expected a dense tensor, got a ",
                    tensor.is_nested() ? "nested one" : c10::str("tensor of layout ", tensor.layout()));
}

// Two sizes are equal; in a graph with symbolic sizes this becomes a condition of the graph.
bool same_size(const c10::SymInt& a, const c10::SymInt& b) { return a.sym_eq(b).expect_true(__FILE__, __LINE__); }

void check_map(std::string_view name, const at::Tensor& map) {
  TORCH_CHECK_VALUE(map.dim() == 4, name, ": expected a 4-D tensor [N, C, H, W], got shape ", map.sym_sizes());
  check_dtype(name, map);
}

void check_levels(size_t levels, Rule rule) {
  TORCH_CHECK_VALUE(levels >= 1 && levels <= kMaxLevels, "features: expected 1 to ", kMaxLevels, " feature maps, got ",
                    levels);
  TORCH_CHECK_VALUE(levels == 1 || !(is_rotated(rule) || is_crop(rule)), "features: expected one feature map, got ",
                    levels);
}

void check_maps(at::TensorList maps, Rule rule) {
  check_levels(maps.size(), rule);
  if (maps.size() == 1) return check_map("input", maps[0]);
  for (size_t i = 0; i < maps.size(); ++i) {
    const std::string name = "features[" + std::to_string(i) + "]";
    check_map(name, maps[i]);
    check_device(name, maps[i], "features[0]", maps[0]);
    TORCH_CHECK_TYPE(maps[i].scalar_type() == maps[0].scalar_type(), name, ": expected the dtype of features[0], ",
                     maps[0].scalar_type(), ", got ", maps[i].scalar_type());
    TORCH_CHECK_VALUE(
        same_size(maps[i].sym_size(0), maps[0].sym_size(0)) && same_size(maps[i].sym_size(1), maps[0].sym_size(1)),
        name, ": expected the images and channels of features[0], [", maps[0].sym_size(0), ", ", maps[0].sym_size(1),
        ", H, W], got shape ", maps[i].sym_sizes());
  }
}

void check_boxes(const at::Tensor& boxes, Rule rule) {
  const char* row = is_rotated(rule) ? "[K, 6] of rows (batch index, cx, cy, w, h, angle)"
                                     : "[K, 5] of rows (batch index, x1, y1, x2, y2)";
  TORCH_CHECK_VALUE(boxes.dim() == 2 && same_size(boxes.sym_size(1), box_columns(rule)), "boxes: expected a tensor ",
                    row, ", got shape ", boxes.sym_sizes());
  check_box_dtype(boxes);
}

void check_direction(std::string_view name, const OptionalTensor& direction, const at::Tensor& boxes, Rule rule) {
  if (!direction.has_value()) return;
  TORCH_CHECK_NOT_IMPLEMENTED(rule != Rule::kRoiPool, "roi_pool has no derivative by the boxes: detach them");
  TORCH_CHECK_VALUE(direction->dim() == 2 && same_size(direction->sym_size(0), boxes.sym_size(0)) &&
                        same_size(direction->sym_size(1), boxes.sym_size(1)),
                    name, ": expected the shape of boxes, ", boxes.sym_sizes(), ", got shape ", direction->sym_sizes());
  check_dtype(name, *direction);
  check_device(name, *direction, "boxes", boxes);
}

void check_output_shaped(std::string_view name, const at::Tensor& tensor, const at::Tensor& boxes,
                         const c10::SymInt& channels, const c10::SymInt& height, const c10::SymInt& width) {
  TORCH_CHECK_VALUE(tensor.dim() == 4 && same_size(tensor.sym_size(0), boxes.sym_size(0)) &&
                        same_size(tensor.sym_size(1), channels) && same_size(tensor.sym_size(2), height) &&
                        same_size(tensor.sym_size(3), width),
                    name, ": expected the shape of the output, [", boxes.sym_size(0), ", ", channels, ", ", height,
                    ", ", width, "], got shape ", tensor.sym_sizes());
  check_device(name, tensor, "boxes", boxes);
}

bool has_maximum(Rule rule) { return !is_integral(rule) && !is_rotated(rule); }

void check_winners(const OptionalTensor& winners, const at::Tensor& boxes, const c10::SymInt& channels,
                   const c10::SymInt& height, const c10::SymInt& width, const RuleArgs& args) {
  const Rule rule = find_rule(args.name);
  if (!winners.has_value()) {
    TORCH_CHECK_VALUE(rule != Rule::kRoiPool, "winners: expected those of a maximum for rule \"", args.name, "\"");
    return;
  }
  TORCH_CHECK_VALUE(has_maximum(rule), "winners: expected none for rule \"", args.name, "\", got a tensor");
  check_output_shaped("winners", *winners, boxes, channels, height, width);
  TORCH_CHECK_TYPE(winners->scalar_type() == at::kInt, "winners: expected an int32 tensor, got ",
                   winners->scalar_type());
}

void check_rule(const RuleArgs& rule, size_t levels, at::ScalarType coordinates, c10::SymIntArrayRef output_size) {
  TORCH_CHECK_VALUE(rule.scales.size() == levels, "scales: expected one number per feature map, which are ", levels,
                    ", got ", rule.scales.size());
  for (size_t i = 0; i < levels; ++i) {
    check_scale(levels == 1 ? "spatial_scale" : "scales[" + std::to_string(i) + "]", rule.scales[i], coordinates);
    TORCH_CHECK_VALUE(i == 0 || rule.scales[i] <= rule.scales[i - 1],
                      "scales: expected 1 / stride of each level, from the finest level to the coarsest, none larger ",
                      "than the one before, got ", rule.scales);
  }
  TORCH_CHECK_VALUE(rule.canonical.size() == 2, "canonical: expected the two numbers canonical_scale and ",
                    "canonical_level, got ", rule.canonical.size());
  check_scale("canonical_scale", rule.canonical[0], coordinates);
  TORCH_CHECK_VALUE(std::abs(rule.canonical[1]) <= std::numeric_limits<float>::max(),
                    "canonical_level: expected a finite number, got ", rule.canonical[1]);
  const bool crop = is_crop(find_rule(rule.name));
  TORCH_CHECK_VALUE(!crop || rule.sampling_ratio > 0, "samples_per_bin: expected a positive number, got ",
                    rule.sampling_ratio);
  check_samples(crop ? "samples_per_bin" : "sampling_ratio", rule.sampling_ratio, output_size);
}

void check_directions(const OptionalTensor& u, const OptionalTensor& v, const at::Tensor& boxes, Rule rule) {
  TORCH_CHECK_VALUE(u.has_value() || !v.has_value(), "v: expected none where u is none, got a tensor");
  check_direction("u", u, boxes, rule);
  check_direction("v", v, boxes, rule);
}

// What pooling takes, whatever it makes of it.
void check_common_args(at::TensorList input, const at::Tensor& boxes, c10::SymIntArrayRef output_size,
                       const RuleArgs& rule) {
  const Rule kind = find_rule(rule.name);
  check_maps(input, kind);
  check_boxes(boxes, kind);
  check_device("boxes", boxes, "input", input[0]);
  check_output_size("output_size", output_size);
  check_rule(rule, input.size(), coordinate_type(input[0].scalar_type(), boxes.scalar_type()), output_size);
}

// A step of an optimizer or of gradcheck moves every number of a row, and the index only a little.
template <class T>
bool was_moved(T index, int64_t images) {
  const T nearest = std::round(index);
  return index != nearest && std::abs(index - nearest) < T(0.1) && nearest >= T(0) && nearest < static_cast<T>(images);
}

template <class T>
void check_row_values(const at::Tensor& rows, Rule rule, int64_t images) {
  const int64_t columns = rows.size(1);
  for (int64_t k = 0; k < rows.size(0); ++k) {
    const T* row = rows.const_data_ptr<T>() + columns * k;
    const T index = row[0];
    TORCH_CHECK_INDEX(index >= T(0) && index < static_cast<T>(images) && index == std::floor(index),
                      is_crop(rule) ? "box_indices: the index in row " : "boxes: the batch index in row ", k,
                      " must be a whole number in [0, ", images, "), got ", index,
                      was_moved(index, images) ? kTrainAsList : "");
    TORCH_CHECK_VALUE(!is_rotated(rule) || !(row[3] < T(0) || row[4] < T(0)), "boxes: width and height in row ", k,
                      " must not be negative, got ", row[3], " x ", row[4]);
  }
}

}  // namespace

void check_tensor(std::string_view name, const at::Tensor& tensor) {
  check_layout(name, tensor);
  check_dtype(name, tensor);
}

void check_box_tensor(const at::Tensor& boxes) {
  check_layout("boxes", boxes);
  check_box_dtype(boxes);
}

void check_device(std::string_view name, const at::Tensor& tensor, std::string_view other_name,
                  const at::Tensor& other) {
  TORCH_CHECK_VALUE(tensor.device() == other.device(), name, ": expected a tensor on ", other.device(), " like ",
                    other_name, ", got one on ", tensor.device());
}

void check_output_size(std::string_view name, c10::SymIntArrayRef size) {
  TORCH_CHECK_VALUE(size.size() == 2 && size[0].sym_gt(0).expect_true(__FILE__, __LINE__) &&
                        size[1].sym_gt(0).expect_true(__FILE__, __LINE__),
                    name, ": expected two positive integers (height, width), got ", size);
  for (const c10::SymInt& bins : size) {
    TORCH_CHECK_VALUE(bins.maybe_as_int().value_or(1) <= kMostSamples, name, ": expected at most ", kMostSamples,
                      " along an axis, got ", size);
  }
}

// Numbers of bins that are not known yet are looked at when they are: the kernels check again.
void check_samples(std::string_view name, int64_t per_bin, c10::SymIntArrayRef bins) {
  for (const c10::SymInt& size : bins) {
    const int64_t known = size.maybe_as_int().value_or(1);
    TORCH_CHECK_VALUE(per_bin <= 0 || per_bin <= kMostSamples / known, name, ": expected at most ", kMostSamples,
                      " samples along an axis of a box, got ", per_bin, " in each of ", known, " bins");
  }
}

void check_scale(std::string_view name, double scale, at::ScalarType coordinates) {
  const bool wide = coordinates == at::kDouble;
  const double largest = wide ? std::numeric_limits<double>::max() : std::numeric_limits<float>::max();
  TORCH_CHECK_VALUE(scale > 0 && scale <= largest && (wide || static_cast<float>(scale) > 0), name,
                    ": expected a finite number above 0", wide ? "" : " in float32, as which coordinates are read",
                    ", got ", scale);
}

at::ScalarType coordinate_type(at::ScalarType features, at::ScalarType boxes) {
  return features == at::kDouble || boxes == at::kDouble ? at::kDouble : at::kFloat;
}

Rule find_rule(std::string_view name) {
  for (const auto& [known, rule] : kRules) {
    if (known == name) return rule;
  }
  TORCH_CHECK_VALUE(false, "rule: expected the name of a pooling rule, got \"", name, "\"");
}

// Level numbers are truncated as the reference implementation of this pooler truncates them.
LevelRule level_rule(const RuleArgs& rule) {
  const double finest = std::trunc(-std::log2(rule.scales.front()));
  const double coarsest = std::trunc(-std::log2(rule.scales.back()));
  const double last = finest + static_cast<double>(rule.scales.size() - 1);
  return {rule.canonical[0], rule.canonical[1], finest, coarsest < last ? coarsest : last};
}

void check_rows(const at::Tensor& rows, Rule rule, int64_t images) {
  if (rows.scalar_type() == at::kDouble) return check_row_values<double>(rows, rule, images);
  check_row_values<float>(rows, rule, images);
}

void check_pool_args(at::TensorList input, const at::Tensor& boxes, const OptionalTensor& u, const OptionalTensor& v,
                     const OptionalTensor& winners, c10::SymIntArrayRef output_size, const RuleArgs& rule,
                     double extrapolation_value) {
  check_common_args(input, boxes, output_size, rule);
  TORCH_CHECK_VALUE(
      extrapolation_value == 0 || (is_crop(find_rule(rule.name)) && !u.has_value() && !winners.has_value()),
      "extrapolation_value: expected 0 but for the value of a crop, got ", extrapolation_value);
  check_directions(u, v, boxes, find_rule(rule.name));
  check_winners(winners, boxes, input[0].sym_size(1), output_size[0], output_size[1], rule);
}

void check_pool_max_args(at::TensorList input, const at::Tensor& boxes, c10::SymIntArrayRef output_size,
                         const RuleArgs& rule) {
  TORCH_CHECK_VALUE(has_maximum(find_rule(rule.name)), "rule: expected one that has a maximum, got \"", rule.name,
                    "\"");
  check_common_args(input, boxes, output_size, rule);
}

void check_pool_grad_input_args(const at::Tensor& grad, const at::Tensor& boxes, const OptionalTensor& u,
                                const OptionalTensor& v, const OptionalTensor& winners, c10::SymIntArrayRef input_size,
                                const RuleArgs& rule) {
  const Rule kind = find_rule(rule.name);
  TORCH_CHECK_VALUE(input_size.size() >= 4 && input_size.size() % 2 == 0,
                    "input_size: expected the integers (N, C, H, W), and H and W of each further level, got ",
                    input_size);
  for (const auto& size : input_size) {
    TORCH_CHECK_VALUE(size.sym_ge(0).expect_true(__FILE__, __LINE__), "input_size: expected no negative size, got ",
                      input_size);
  }
  const size_t levels = input_size.size() / 2 - 1;
  check_levels(levels, kind);
  check_map("grad", grad);
  check_boxes(boxes, kind);
  const c10::SymInt height = grad.sym_size(2), width = grad.sym_size(3);
  check_output_shaped("grad", grad, boxes, input_size[1], height, width);
  check_output_size("output_size", {height, width});
  check_directions(u, v, boxes, kind);
  check_winners(winners, boxes, input_size[1], height, width, rule);
  check_rule(rule, levels, coordinate_type(grad.scalar_type(), boxes.scalar_type()), {height, width});
}

void check_pool_grad_boxes_args(const at::Tensor& grad, at::TensorList input, const at::Tensor& boxes,
                                const OptionalTensor& v, const OptionalTensor& winners, const RuleArgs& rule) {
  const Rule kind = find_rule(rule.name);
  TORCH_CHECK_NOT_IMPLEMENTED(kind != Rule::kRoiPool,
                              "roi_pool has no gradient by the boxes: detach them (boxes.detach()), or use roi_align");
  check_map("grad", grad);
  check_maps(input, kind);
  TORCH_CHECK_TYPE(grad.scalar_type() == input[0].scalar_type(), "grad: expected the dtype of input, ",
                   input[0].scalar_type(), ", got ", grad.scalar_type());
  check_boxes(boxes, kind);
  check_device("boxes", boxes, "input", input[0]);
  const c10::SymInt height = grad.sym_size(2), width = grad.sym_size(3);
  check_output_shaped("grad", grad, boxes, input[0].sym_size(1), height, width);
  check_output_size("output_size", {height, width});
  check_direction("v", v, boxes, kind);
  check_winners(winners, boxes, input[0].sym_size(1), height, width, rule);
  check_rule(rule, input.size(), coordinate_type(grad.scalar_type(), boxes.scalar_type()), {height, width});
}

}  // namespace roialign_ext
