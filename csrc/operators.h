// The private operators of one device, after the checks of their arguments. Each library defines them for its device:
// csrc/cpu/operators.cpp and csrc/cuda/operators.cpp.
#pragma once

#include <tuple>

#include "checks.h"

namespace roialign_ext {

// Registers every operator for the device of the library, under the key of `library`.
void register_operators(torch::stable::detail::StableLibrary& library);

Tensor pool(const Tensors& input, const Tensor& boxes, const OptionalTensor& u, const OptionalTensor& v,
            const OptionalTensor& argmax, const Sizes& output_size, const Geometry& geometry,
            double extrapolation_value);

std::tuple<Tensor, Tensor> pool_max(const Tensors& input, const Tensor& boxes, const Sizes& output_size,
                                    const Geometry& geometry);

Tensors pool_grad_input(const Tensor& grad, const Tensor& boxes, const OptionalTensor& u, const OptionalTensor& v,
                        const OptionalTensor& argmax, const Sizes& input_size, bool channels_last,
                        const Geometry& geometry);

Tensor pool_grad_boxes(const Tensor& grad, const Tensors& input, const Tensor& boxes, const OptionalTensor& v,
                       const OptionalTensor& argmax, const Geometry& geometry);

}  // namespace roialign_ext
