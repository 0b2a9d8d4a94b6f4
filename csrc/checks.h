// Argument checks of the kernels. roialign_ext/_shapes.py has the same, in the same words, for shapes without data.
// Wrong shapes, devices and values raise ValueError, wrong dtypes TypeError. What boxes hold is data, which shape
// functions do not have. Empty tensors pass, a map without pixels (H or W is 0) too: it rejects every sample, so its
// outputs are 0.

#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymIntArrayRef.h>

#include <optional>
#include <string_view>

#include "core/box_axis.h"
#include "core/pyramid.h"

namespace roialign_ext {

using OptionalTensor = std::optional<at::Tensor>;

// The arguments that say how boxes become samples of the maps, the same for all private operators.
struct RuleArgs {
  at::ArrayRef<double> scales;     // one per feature map
  at::ArrayRef<double> canonical;  // (canonical_scale, canonical_level) of several maps
  int64_t sampling_ratio;
  std::string_view name;
};

// The rule of that name (docs/math.md): "roi_align_half_pixel", ... Unknown names raise ValueError.
Rule find_rule(std::string_view name);

// How boxes choose among the levels of these scales.
LevelRule level_rule(const RuleArgs& rule);

// (index, x1, y1, x2, y2), or (index, cx, cy, w, h, angle).
constexpr int64_t box_columns(Rule rule) { return is_rotated(rule) ? 6 : 5; }

// A dense tensor of a floating-point type that kernels know. The public operators ask first of all: other layouts never
// come as far as the private operators' kernels.
void check_tensor(std::string_view name, const at::Tensor& tensor);
void check_box_tensor(const at::Tensor& boxes);
void check_device(std::string_view name, const at::Tensor& tensor, std::string_view other_name,
                  const at::Tensor& other);
// Two positive integers, each an int32.
void check_output_size(std::string_view name, c10::SymIntArrayRef size);
// `per_bin` samples along each axis of so many bins, which an int32 counts: no product of sizes overflows then.
void check_samples(std::string_view name, int64_t per_bin, c10::SymIntArrayRef bins);
// A number above 0 that is one, and finite, in the type in which coordinates are read.
void check_scale(std::string_view name, double scale, at::ScalarType coordinates);
// float64 where the boxes or the maps are.
at::ScalarType coordinate_type(at::ScalarType features, at::ScalarType boxes);

// _pool, and _pool_max with u, v and winners left empty.
void check_pool_args(at::TensorList input, const at::Tensor& boxes, const OptionalTensor& u, const OptionalTensor& v,
                     const OptionalTensor& winners, c10::SymIntArrayRef output_size, const RuleArgs& rule,
                     double extrapolation_value);
void check_pool_max_args(at::TensorList input, const at::Tensor& boxes, c10::SymIntArrayRef output_size,
                         const RuleArgs& rule);

// _pool_grad_input; the output size is that of grad. input_size is (N, C, H, W), H and W once more for each level.
void check_pool_grad_input_args(const at::Tensor& grad, const at::Tensor& boxes, const OptionalTensor& u,
                                const OptionalTensor& v, const OptionalTensor& winners, c10::SymIntArrayRef input_size,
                                const RuleArgs& rule);

// _pool_grad_boxes.
void check_pool_grad_boxes_args(const at::Tensor& grad, at::TensorList input, const at::Tensor& boxes,
                                const OptionalTensor& v, const OptionalTensor& winners, const RuleArgs& rule);

// What boxes hold, in the host's memory: [K, columns], contiguous, float32 or float64. Raises IndexError unless every
// batch index is a whole number in [0, images), and ValueError for a negative size of a rotated box; both name the row.
void check_rows(const at::Tensor& rows, Rule rule, int64_t images);

}  // namespace roialign_ext
