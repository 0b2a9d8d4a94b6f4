// torch's tensors through its stable ABI: a library built with one torch runs with every later one.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "core/limits.h"
#include "errors.h"

namespace roialign_ext {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Tensors = std::vector<Tensor>;
using Sizes = std::vector<int64_t>;

inline std::string shape_text(const Tensor& tensor) { return list_text(tensor.sizes()); }
std::string device_text(const Tensor& tensor);

// How kernels read the elements of a tensor of features.
Storage storage_of(const Tensor& tensor);

// Is channels_last the memory format that results take from a 4-D tensor? The rule of torch's suggest_memory_format().
bool is_channels_last(const Tensor& tensor);

// (N, C, H, W), H and W once more for each further level.
Sizes sizes_of(const Tensors& maps);

// Uninitialized memory on the device of `like`, contiguous or channels_last.
Tensor empty(const Sizes& sizes, ScalarType dtype, const Tensor& like, bool channels_last = false);
Tensor zeros(const Sizes& sizes, ScalarType dtype, const Tensor& like);

// Returns the tensor itself if it has that dtype.
Tensor as_dtype(const Tensor& tensor, ScalarType dtype);
Tensor as_contiguous(const Tensor& tensor, ScalarType dtype);

// A str argument of an operator. torch 2.11 converts one to std::string by a copy that it never frees.
std::string take_text(StringHandle argument);

// Calls an operator of torch that returns one tensor. All arguments of its schema must be passed.
template <class... Arguments>
Tensor call_torch(const char* name, const char* overload, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(Arguments)> stack{torch::stable::detail::from(arguments)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace roialign_ext
