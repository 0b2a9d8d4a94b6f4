// From the tensors of one operator call to what the kernels take. Arguments have been checked already (checks.h);
// what is left is what the boxes hold.
#pragma once

#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include "../checks.h"
#include "../core/pyramid.h"
#include "isa.h"

namespace roialign_ext {

using at::Tensor;

// The boxes of one call, read as float32, or as float64 where they or the features are.
struct BoxCall {
  at::ScalarType coordinates;
  Tensor rows;                     // [K, columns], contiguous
  std::vector<Tensor> directions;  // u, then v, as far as given
  Rule rule;
  int64_t sampling_ratio;
  int64_t images;
  std::vector<MapLevel> levels;
  std::vector<int64_t> plane_of_box;

  template <class T>
  BoxParams<T> params(int64_t bins_y, int64_t bins_x) const {
    return {rule,   sampling_ratio, rows.size(0), rows.size(1), bins_y,
            bins_x, images,         levels,       plane_of_box, rows.const_data_ptr<T>()};
  }

  template <class T>
  std::vector<const T*> direction_pointers() const {
    std::vector<const T*> pointers;
    for (const Tensor& direction : directions) pointers.push_back(direction.const_data_ptr<T>());
    return pointers;
  }
};

// `sizes` are (N, C, H, W), H and W once more for each further level. Raises IndexError unless every batch index is a
// whole number in [0, N), and ValueError for a negative size of a rotated box; both name the row.
BoxCall make_box_call(at::ScalarType features, at::IntArrayRef sizes, const Tensor& boxes, const OptionalTensor& u,
                      const OptionalTensor& v, const RuleArgs& rule);

// (N, C, H, W), H and W once more for each further level.
std::vector<int64_t> sizes_of(at::TensorList maps);

Input input_view(const Tensor& tensor);
Output output_view(const Tensor& tensor);
WinnersView<const int32_t> winners_view(const Tensor& winners);
WinnersView<int32_t> mutable_winners_view(const Tensor& winners);
Pyramid<Input> input_pyramid(at::TensorList maps);
Pyramid<Output> output_pyramid(at::TensorList maps);

// Wide blocks, unless narrow ones are needed to give every thread a unit or fit the channels better.
inline ChannelBlocks choose_blocks(int64_t lanes, int64_t channels, int64_t units_per_block) {
  const int64_t wide = lanes * kWideBlock;
  const bool fits = channels > wide / 2 && channels % wide <= channels - channels % wide;
  const bool enough = (channels + wide - 1) / wide * units_per_block >= at::get_num_threads();
  const int64_t width = fits && enough ? wide : lanes;
  return {width, (channels + width - 1) / width};
}

// Does a block of the map stay in a core's second-level cache while boxes are visited one by one? Larger ones are swept
// row by row.
template <class W>
bool stays_in_cache(const Extents& map, const ChannelBlocks& blocks) {
  return map.pixels() * blocks.width * static_cast<int64_t>(sizeof(W)) <= 1 << 20;
}

// Where results are summed over channels the width of a block must not depend on the number of threads.
inline ChannelBlocks summed_blocks(int64_t lanes, int64_t channels) {
  const int64_t width = channels > lanes ? lanes * kWideBlock : lanes;
  return {width, (channels + width - 1) / width};
}

// Calls that touch fewer elements do not pay for waking threads.
constexpr double kWorthThreads = 1 << 16;

// In how many parts the boxes of a plane have to be split to give every thread a unit.
inline int64_t parts_of_plane(const ChannelBlocks& blocks, int64_t planes, double elements_touched) {
  const int64_t units = planes * blocks.count, threads = at::get_num_threads();
  return elements_touched < kWorthThreads ? 1 : (threads + units - 1) / units;
}

// Runs kernel(begin, end) over the units, in parallel if the call is large enough to pay for waking threads. Units
// are independent and each runs the same way wherever it runs, so results do not depend on the number of threads.
template <class Kernel>
void run_units(int64_t units, double elements_touched, Kernel&& kernel) {
  if (elements_touched < kWorthThreads) {
    kernel(int64_t(0), units);
  } else {
    at::parallel_for(0, units, 1, kernel);
  }
}

// Calls run(W(), T()) with the arithmetic type of the features and the type of the coordinates, which are float64
// wherever the features are.
template <class Run>
void dispatch_types(at::ScalarType features, at::ScalarType coordinates, Run&& run) {
  if (features == at::kDouble) return run(double(), double());
  if (coordinates == at::kDouble) return run(float(), double());
  run(float(), float());
}

}  // namespace roialign_ext
