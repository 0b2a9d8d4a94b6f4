// The boundary between the glue (csrc/cuda/operators.cpp, which knows torch) and the kernels (csrc/cuda/*.cu, which do
// not): pointers, sizes and strides, and one function that enqueues a call. Sizes are the host's; what the boxes hold
// stays on the device and is never waited for.
#pragma once

#include <cstdint>
#include <string>

#include "../core/argmax.h"
#include "../core/box_axis.h"
#include "../core/pyramid.h"

namespace roialign_ext::cuda {

constexpr int kMaxLevels = 8;
constexpr int kMaxDirections = 2;

// Elements in memory. Half precision is storage only: arithmetic is float, or double on doubles.
enum class Storage { kFloat, kDouble, kHalf, kBFloat16 };

// Elements of a tensor [N, C, H, W] or [K, C, PH, PW]; strides in elements, any of them, zero included.
template <class Void>
struct Elements {
  Void* data;
  int64_t stride_n, stride_c, stride_y, stride_x;
};

// One feature map of the call: all images at one level of the pyramid.
struct MapArgs {
  Elements<void> pixels;  // read, or by kGradInput and kArgmaxGradInput written
  int64_t height, width;
  double scale;  // map pixels per image pixel
};

struct CallArgs {
  Rule rule;
  int64_t sampling_ratio;
  Parts parts;
  int64_t images, channels, boxes, bins_y, bins_x;

  // Boxes (index, x1, y1, x2, y2) or (index, cx, cy, w, h, angle), contiguous; directions have the same form. All are
  // float64 if `wide_boxes` (always where features are float64), else float32.
  bool wide_boxes;
  const void* box_data;
  int direction_count;
  const void* directions[kMaxDirections];  // u, v; for grad_boxes only v
  void* grad_boxes;                        // result, every column: that of the index is 0

  Storage storage;  // of maps and bins
  int levels;
  MapArgs maps[kMaxLevels];
  LevelRule level_rule;        // read where levels > 1
  Elements<void> bins;         // values written, or gradients read
  Elements<int32_t> argmax;    // written by kMaxPool, read by the operations that say so
  double extrapolation_value;  // of kPool
};

enum class Operation {
  kPool,        // bins = A maps, or its derivative along the directions
  kGradInput,   // maps = its transpose on bins; every element of the maps is written
  kGradBoxes,   // grad_boxes of <bins, A maps>, or of its derivative along a direction
  kMaxPool,     // bins, argmax = the maxima of the maps' samples
  kArgmaxPool,  // the same four with the mean over samples replaced by the chosen sample
  kArgmaxGradInput,
  kArgmaxGradBoxes,
};

// Device memory that the operation needs besides its tensors, aligned to 256 bytes; it depends on sizes alone. May be
// 0.
int64_t scratch_bytes(Operation operation, const CallArgs& args);

// More bins or pixels along an axis are refused by the glue: the places of table entries rely on it (tables.cuh).
constexpr int64_t kMaxBins = 1 << 20, kMaxPixels = 1 << 24;

// The most samples of a bin that can fall on a map of the call along one axis. The kernels of the maximum ignore those
// after kMaxSamplesOfBin (core/argmax.h); the glue refuses calls in which there could be any.
int64_t max_samples_of_bin(const CallArgs& args);

// Enqueues the operation on a stream (a cudaStream_t) of the current device and returns at once: an empty string, or
// which kernel could not be launched and why; no other follows it. A box whose batch index is not a whole number in [0,
// images), and a rotated box of negative size, reads nothing: its bins become NaN, its argmax -1, its gradients 0.
std::string enqueue(Operation operation, const CallArgs& args, void* scratch, void* stream);

}  // namespace roialign_ext::cuda
