// The operators that the public ones are made of, called through the dispatcher.
#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/SymIntArrayRef.h>

#include "checks.h"

namespace roialign_ext {

using at::Tensor;

// RuleArgs that own what they hold.
struct BoxRule {
  std::vector<double> scales;
  std::vector<double> canonical;
  int64_t sampling_ratio;
  std::string name;
};

Tensor pool(at::TensorList input, const Tensor& boxes, c10::SymIntArrayRef output_size, const BoxRule& rule,
            double extrapolation_value = 0);

std::tuple<Tensor, Tensor> pool_max(at::TensorList input, const Tensor& boxes, c10::SymIntArrayRef output_size,
                                    const BoxRule& rule);

}  // namespace roialign_ext
