// The boundary between the glue and the kernels. The glue (csrc/cuda/operators.cpp) knows torch; the kernels
// (csrc/cuda/*.cu) know pointers, sizes and strides. One function enqueues a call. All sizes are known on the host.
// Values of the boxes stay on the device, and nothing waits for them.
#pragma once

#include <cstdint>
#include <string>

#include "../core/box_axis.h"
#include "../core/limits.h"
#include "../core/pyramid.h"

namespace roialign_ext::cuda {

// A tensor [N, C, H, W] or [K, C, PH, PW]. Strides count elements and may have any value, zero included.
template <class Void>
struct View {
  Void* data;
  int64_t stride_n, stride_c, stride_y, stride_x;

  ROI_HOST_DEVICE int64_t offset(int64_t n, int64_t c, int64_t y, int64_t x) const {
    return n * stride_n + c * stride_c + y * stride_y + x * stride_x;
  }
};

// One feature map of the call: all images of one pyramid level.
struct MapArgs {
  View<void> pixels;  // read; written by kGradInput and kArgmaxGradInput
  int64_t height, width;
  double scale;  // map pixels per image pixel
};

struct CallArgs {
  Rule rule;
  int64_t sampling_ratio;
  PsBins ps_bins;
  int64_t images, channels, boxes, bins_y, bins_x;

  // Boxes in image pixels (box_columns), contiguous. Directions have the same columns. All of them are float64 if
  // `boxes_are_double`, else float32. Float64 features always have float64 boxes.
  bool boxes_are_double;
  const void* box_data;
  int direction_count;
  const void* directions[kMaxDirections];  // u, v; gradients w.r.t. the boxes have only v
  void* grad_boxes;                        // written by the gradients w.r.t. the boxes; the column of the index is 0

  Storage storage;  // of maps and bins
  int levels;
  MapArgs maps[kMaxLevels];
  LevelRule level_rule;        // used if levels > 1
  View<void> bins;             // values written, or gradients read
  View<int32_t> argmax;        // written by kMaxPool; read by kArgmaxPool, kArgmaxGradInput, kArgmaxGradBoxes
  double extrapolation_value;  // of kPool
};

enum class Operation {
  kPool,        // bins = A maps, or the derivative of A along the directions times the maps
  kGradInput,   // maps = the transpose of that operator times bins; every element of the maps is written
  kGradBoxes,   // grad_boxes of <bins, A maps>, or of the derivative of that form along a direction
  kMaxPool,     // bins, argmax = the maxima of the maps' samples and their argmax
  kArgmaxPool,  // the first three with the mean over samples replaced by the sample of the argmax
  kArgmaxGradInput,
  kArgmaxGradBoxes,
};

// Whether the operation reads the samples of each bin (axis_samples.cuh) instead of tables of their means.
constexpr bool uses_samples(Operation operation) {
  return operation == Operation::kMaxPool || operation == Operation::kArgmaxPool ||
         operation == Operation::kArgmaxGradInput || operation == Operation::kArgmaxGradBoxes;
}

// Bytes of device memory that the operation needs besides its tensors; may be 0. They depend on sizes alone. The memory
// has to be aligned to 256 bytes.
int64_t scratch_bytes(Operation operation, const CallArgs& args);

// Limits of bins and pixels along an axis, checked by the glue. The slots of table entries rely on them
// (axis_bands.cuh).
constexpr int64_t kMaxBins = 1 << 20, kMaxPixels = 1 << 24;

// The largest number of samples of a bin that can lie on a map of the call, along one axis. Kernels of the maximum
// ignore samples after the first kMaxSamplesOfBin (core/argmax.h), so the glue refuses calls that could have more.
int64_t max_samples_of_bin(const CallArgs& args);

// Enqueues the operation on a stream (a cudaStream_t) of the current device, without waiting. Returns an empty string,
// or the kernel that could not be launched and the reason. No kernel follows a failed launch.
//
// A box is invalid if its batch index is not a whole number in [0, images). Rotated boxes of negative size are invalid
// too. Invalid boxes read nothing: their bins become NaN, their argmax -1, their gradients 0.
std::string enqueue(Operation operation, const CallArgs& args, void* scratch, void* stream);

}  // namespace roialign_ext::cuda
