// From the tensors of one operator call to what the kernels take. Arguments have been checked already (checks.h);
// what is left is the value of each batch index.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include "../checks.h"
#include "isa.h"

namespace roialign_ext {

using at::Tensor;

// The boxes of one call, read as float32, or as float64 where they or the features are.
struct BoxCall {
  at::ScalarType coordinates;
  Tensor rows;                     // [K, 5], contiguous
  std::vector<Tensor> directions;  // u, then v, as far as given
  Rule rule;
  double spatial_scale;
  int64_t sampling_ratio;

  template <class T>
  BoxParams<T> params(at::IntArrayRef bins, at::IntArrayRef map) const {
    return {rule,    spatial_scale, sampling_ratio, rows.size(0), bins[2],
            bins[3], map[0],        map[2],         map[3],       rows.const_data_ptr<T>()};
  }

  template <class T>
  std::vector<const T*> direction_pointers() const {
    std::vector<const T*> pointers;
    for (const Tensor& direction : directions) pointers.push_back(direction.const_data_ptr<T>());
    return pointers;
  }
};

// Raises IndexError, naming the row, unless every batch index is a whole number in [0, images).
BoxCall make_box_call(const Tensor& features, int64_t images, const Tensor& boxes, const OptionalTensor& u,
                      const OptionalTensor& v, double spatial_scale, int64_t sampling_ratio, std::string_view rule);

template <class S>
View<S> view_of(const Tensor& tensor) {
  return {static_cast<S*>(tensor.data_ptr()),
          tensor.size(0),
          tensor.size(1),
          tensor.size(2),
          tensor.size(3),
          tensor.stride(0),
          tensor.stride(1),
          tensor.stride(2),
          tensor.stride(3)};
}

template <class S>
View<const S> const_view_of(const Tensor& tensor) {
  return {static_cast<const S*>(tensor.const_data_ptr()),
          tensor.size(0),
          tensor.size(1),
          tensor.size(2),
          tensor.size(3),
          tensor.stride(0),
          tensor.stride(1),
          tensor.stride(2),
          tensor.stride(3)};
}

// The image of each box, from rows whose batch indices have been checked.
template <class T>
std::vector<int64_t> image_of_box(const BoxParams<T>& params) {
  std::vector<int64_t> images(static_cast<size_t>(params.boxes));
  for (int64_t k = 0; k < params.boxes; ++k) images[k] = static_cast<int64_t>(params.rows[5 * k]);
  return images;
}

// Wide blocks, unless narrow ones are needed to give every thread a unit or fit the channels better.
template <class S>
ChannelBlocks choose_blocks(const Kernels<S>& kernels, int64_t channels, int64_t units_per_block) {
  const int64_t wide = kernels.lanes * kWideBlock;
  const bool fits = channels > wide / 2 && channels % wide <= channels - channels % wide;
  const bool enough = (channels + wide - 1) / wide * units_per_block >= at::get_num_threads();
  const int64_t width = fits && enough ? wide : kernels.lanes;
  return {width, (channels + width - 1) / width};
}

// Runs kernel(begin, end) over the units, in parallel if the call is large enough to pay for waking threads. Units
// are independent and each runs the same way wherever it runs, so results do not depend on the number of threads.
template <class Kernel>
void run_units(int64_t units, double elements_touched, Kernel&& kernel) {
  constexpr double kWorthThreads = 1 << 16;
  if (elements_touched < kWorthThreads) {
    kernel(int64_t(0), units);
  } else {
    at::parallel_for(0, units, 1, kernel);
  }
}

// Calls run(S(), T()) with the storage type of the features and the type of the coordinates.
template <class Run>
void dispatch_types(at::ScalarType features, at::ScalarType coordinates, Run&& run) {
  const bool wide = coordinates == at::kDouble;
  switch (features) {
    case at::kDouble:
      return run(double(), double());
    case at::kFloat:
      return wide ? run(float(), double()) : run(float(), float());
    case at::kHalf:
      return wide ? run(c10::Half(), double()) : run(c10::Half(), float());
    case at::kBFloat16:
      return wide ? run(c10::BFloat16(), double()) : run(c10::BFloat16(), float());
    default:
      TORCH_CHECK_TYPE(false, "roialign_ext: features must be float16, bfloat16, float32 or float64, got ", features);
  }
}

}  // namespace roialign_ext
