// The four private operators. private_ops.cpp checks their arguments, the same for every device. Each library defines
// the functions below for its device: csrc/cpu/operators.cpp and csrc/cuda/operators.cpp.
#pragma once

#include <tuple>

#include "checks.h"

namespace roialign_ext {

// Registers the private operators with their checks under the key of `library`.
void register_private_ops(torch::stable::detail::StableLibrary& library);

// Defined by each device; arguments were checked.

Tensor pool(const Tensors& input, const Tensor& boxes, const OptionalTensor& u, const OptionalTensor& v,
            const OptionalTensor& argmax, const Sizes& output_size, const Geometry& geometry,
            double extrapolation_value);

std::tuple<Tensor, Tensor> max_pool(const Tensors& input, const Tensor& boxes, const Sizes& output_size,
                                    const Geometry& geometry);

Tensors pool_grad_input(const Tensor& grad, const Tensor& boxes, const OptionalTensor& u, const OptionalTensor& v,
                        const OptionalTensor& argmax, const Sizes& input_size, bool channels_last,
                        const Geometry& geometry);

Tensor pool_grad_boxes(const Tensor& grad, const Tensors& input, const Tensor& boxes, const OptionalTensor& v,
                       const OptionalTensor& argmax, const Geometry& geometry);

}  // namespace roialign_ext
