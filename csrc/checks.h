// Checks of arguments, the same for every device; kernels rely on them. Wrong shapes, devices, dtypes and values raise
// ValueError. With Python, roialign_ext/_operator_checks.py checks a refused call again, and raises TypeError for wrong
// dtypes. Empty tensors pass. So does a map without pixels (H or W is 0): it rejects every sample, so its outputs are
// 0.
#pragma once

#include <string>
#include <vector>

#include "core/box_axis.h"
#include "core/limits.h"
#include "core/pyramid.h"
#include "tensor.h"

namespace roialign_ext {

// How boxes become samples of the maps: the arguments that all private operators share.
struct Geometry {
  Rule rule;
  std::string name;               // of the rule: "roi_align_half_pixel", ... (docs/math.md)
  std::vector<double> scales;     // one per feature map
  std::vector<double> rule_args;  // with several maps (canonical_scale, canonical_level); of position-sensitive rules
                                  // (PH, PW), the bins of a whole box; else empty
  int64_t sampling_ratio;
};

// Raises ValueError for an unknown name.
Geometry make_geometry(const std::string& rule, const std::vector<double>& scales, const OptionalNumbers& rule_args,
                       int64_t sampling_ratio);

// How boxes choose among the levels of these scales.
LevelRule level_rule(const Geometry& geometry);

// The bins of a whole box, of position-sensitive rules.
PsBins ps_bins_of(const Geometry& geometry);

void check_device(const char* name, const Tensor& tensor, const char* other_name, const Tensor& other);
// Two positive integers, each an int32.
void check_output_size(const char* name, const Sizes& size);
// Raises if bins * per_bin exceeds int32 along an axis, so that no later product of sizes overflows.
void check_samples(const char* name, int64_t per_bin, const Sizes& bins);
// Finite and positive, also after rounding to the type of the coordinates.
void check_scale(const std::string& name, double scale, ScalarType coordinates);
// float64 if the boxes or the maps are, else float32.
ScalarType coordinate_type(const Tensor& features, const Tensor& boxes);

// _pool.
void check_pool_args(const Tensors& input, const Tensor& boxes, const OptionalTensor& u, const OptionalTensor& v,
                     const OptionalTensor& argmax, const Sizes& output_size, const Geometry& geometry,
                     double extrapolation_value);
// _max_pool.
void check_max_pool_args(const Tensors& input, const Tensor& boxes, const Sizes& output_size, const Geometry& geometry);
// _pool_grad_input. The output size is that of grad. input_size is (N, C, H, W), H and W once more for each level.
void check_pool_grad_input_args(const Tensor& grad, const Tensor& boxes, const OptionalTensor& u,
                                const OptionalTensor& v, const OptionalTensor& argmax, const Sizes& input_size,
                                const Geometry& geometry);
// _pool_grad_boxes.
void check_pool_grad_boxes_args(const Tensor& grad, const Tensors& input, const Tensor& boxes, const OptionalTensor& v,
                                const OptionalTensor& argmax, const Geometry& geometry);

// Checks the values of boxes in the host's memory: [K, columns], contiguous, float32 or float64. Raises IndexError if a
// batch index is not a whole number in [0, images). Raises ValueError if a rotated box has a negative size. Both errors
// say which box. Position-sensitive rules count whole boxes and whole images.
void check_box_values(const Tensor& boxes, Rule rule, int64_t images, const PsBins& ps_bins);

}  // namespace roialign_ext
