// The private operators as C++ functions: calls through the dispatcher, so that what is called here is differentiated,
// traced and transformed like any call from Python.
#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/SymIntArrayRef.h>

#include "checks.h"

namespace roialign_ext {

using at::Tensor;

// u and v, as far as given.
using Directions = std::vector<Tensor>;

// RuleArgs that own what they hold.
struct BoxRule {
  std::vector<double> scales;
  std::vector<double> canonical;
  int64_t sampling_ratio;
  std::string name;
};

Tensor pool(at::TensorList input, const Tensor& boxes, const Directions& directions, const Tensor& winners,
            c10::SymIntArrayRef output_size, const BoxRule& rule, double extrapolation_value = 0);

std::tuple<Tensor, Tensor> pool_max(at::TensorList input, const Tensor& boxes, c10::SymIntArrayRef output_size,
                                    const BoxRule& rule);

std::vector<Tensor> pool_grad_input(const Tensor& grad, const Tensor& boxes, const Directions& directions,
                                    const Tensor& winners, c10::SymIntArrayRef input_size, bool channels_last,
                                    const BoxRule& rule);

Tensor pool_grad_boxes(const Tensor& grad, at::TensorList input, const Tensor& boxes, const Directions& directions,
                       const Tensor& winners, const BoxRule& rule);

}  // namespace roialign_ext
