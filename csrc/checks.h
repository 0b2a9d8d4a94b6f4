// Argument checks shared by the shape functions (csrc/meta.cpp) and the device kernels, so that an operator refuses the
// same arguments with the same words wherever it runs. Wrong shapes, devices and values raise ValueError, wrong dtypes
// TypeError. The batch index column is data: only the kernels can check it. Empty tensors pass, a map without pixels (H
// or W is 0) too: it rejects every sample, so its outputs are 0.

#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymIntArrayRef.h>

#include <optional>
#include <string_view>

namespace roialign_ext {

using OptionalTensor = std::optional<at::Tensor>;

// Box rules the pooling operators know (docs/math.md): how a box row becomes an interval on each axis of the map.
inline constexpr std::string_view kHalfPixelRule = "roi_align_half_pixel";  // aligned=True
inline constexpr std::string_view kLegacyRule = "roi_align_legacy";         // aligned=False

// _pool, and _pool_max with u, v and winners left empty.
void check_pool_args(const at::Tensor& input, const at::Tensor& boxes, const OptionalTensor& u, const OptionalTensor& v,
                     const OptionalTensor& winners, c10::SymIntArrayRef output_size, double spatial_scale,
                     std::string_view rule);

// _pool_grad_input; the output size is that of grad.
void check_pool_grad_input_args(const at::Tensor& grad, const at::Tensor& boxes, const OptionalTensor& u,
                                const OptionalTensor& v, const OptionalTensor& winners, c10::SymIntArrayRef input_size,
                                double spatial_scale, std::string_view rule);

// _pool_grad_boxes.
void check_pool_grad_boxes_args(const at::Tensor& grad, const at::Tensor& input, const at::Tensor& boxes,
                                const OptionalTensor& v, const OptionalTensor& winners, double spatial_scale,
                                std::string_view rule);

// Kernels registered with plain integers call these.
inline void check_pool_args(const at::Tensor& input, const at::Tensor& boxes, const OptionalTensor& u,
                            const OptionalTensor& v, const OptionalTensor& winners, at::IntArrayRef output_size,
                            double spatial_scale, std::string_view rule) {
  check_pool_args(input, boxes, u, v, winners, c10::fromIntArrayRefSlow(output_size), spatial_scale, rule);
}

inline void check_pool_grad_input_args(const at::Tensor& grad, const at::Tensor& boxes, const OptionalTensor& u,
                                       const OptionalTensor& v, const OptionalTensor& winners,
                                       at::IntArrayRef input_size, double spatial_scale, std::string_view rule) {
  check_pool_grad_input_args(grad, boxes, u, v, winners, c10::fromIntArrayRefSlow(input_size), spatial_scale, rule);
}

}  // namespace roialign_ext
