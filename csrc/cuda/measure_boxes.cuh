// Measures the boxes of a call: code that the kernels of tables (axis_tables.cu) and of samples (axis_samples.cu)
// share.
#pragma once

#include "../core/axis_samples.h"
#include "planes.cuh"
#include "tuning.cuh"

namespace roialign_ext::cuda {

inline int64_t longest(const CallArgs& args, int64_t MapArgs::* length) {
  int64_t longest = 0;
  for (int i = 0; i < args.levels; ++i) longest = args.maps[i].*length > longest ? args.maps[i].*length : longest;
  return longest;
}

inline bool is_adaptive(const CallArgs& args) {
  return args.sampling_ratio <= 0 || args.rule == Rule::kRoiPool || args.rule == Rule::kPsRoiPool;
}

inline void take_spans(AxisSpans& axis, const CallArgs& args, int64_t bins, int64_t length, Scratch& scratch) {
  axis.bins = bins;
  axis.length = length;
  axis.pixels = scratch.take<Span>(args.boxes);
}

inline void take_bands(AxisBands& axis, const CallArgs& args, int64_t bins, int64_t length, bool bins_of_pixel,
                       Scratch& scratch) {
  take_spans(axis, args, bins, length, scratch);
  axis.bands = scratch.take<Band>(args.boxes * bins);
  axis.bins_of_pixel = bins_of_pixel ? scratch.take<Span>(args.boxes * length) : nullptr;
}

// Blocks that list planes, then one warp per box.
inline int64_t blocks_for_boxes(const CallArgs& args, const BoxesByPlane& by_plane) {
  return list_blocks(args, by_plane) + blocks_for(args.boxes * kWarp);
}

// One axis of one box, in map pixels.
template <class T>
__device__ __forceinline__ BoxAxis<T> axis_of(const CallArgs& args, int64_t k, const T* box, int level, bool is_y) {
  const MapArgs& map = args.maps[level];
  const T* edge = box + (is_y ? 2 : 1);
  return make_box_axis<T>(args.rule, edge[0], edge[2], static_cast<T>(map.scale), is_y ? args.bins_y : args.bins_x,
                          is_y ? map.height : map.width, args.sampling_ratio,
                          is_y ? args.ps_bins.y_bin(k) : args.ps_bins.x_bin(k));
}

// The stored form of a span: {0, 0} if empty.
__device__ __forceinline__ Span normalized(Span span) { return span.begin < span.end ? span : Span{0, 0}; }

// Pixels that a sample may touch.
template <class T>
__device__ __forceinline__ Span touched(const AxisSample<T>& sample, int64_t length) {
  return {static_cast<int>(sample.low > 0 ? sample.low : 0),
          static_cast<int>(sample.low + 2 < length ? sample.low + 2 : length)};
}

// Writes the bins that may touch each pixel, if requested. The whole warp must call it, after all bands of the box are
// written.
__device__ __forceinline__ void store_bins_of_pixels(const AxisSpans&, int64_t, Span) {}
__device__ __forceinline__ void store_bins_of_pixels(const AxisBands& axis, int64_t box, Span pixels) {
  if (axis.bins_of_pixel == nullptr) return;
  const Band* const bands = axis.bands + box * axis.bins;
  for (int i = pixels.begin + static_cast<int>(threadIdx.x % kWarp); i < pixels.end; i += kWarp) {
    Span bins = nothing();
    for (int p = 0; p < axis.bins; ++p) {
      if (contains(bands[p].pixels, i)) bins = unite(bins, {p, p + 1});
    }
    axis.bins_of_pixel[box * axis.length + i] = normalized(bins);
  }
}

// Stores the pixels that the bins of a box touch together. The whole warp must call it.
template <class Axis>
__device__ __forceinline__ void summarise(const Axis& axis, int64_t box, Span of_lane) {
  const Span pixels = normalized(unite_lanes<kWarp>(of_lane));
  if (threadIdx.x % kWarp == 0) axis.pixels[box] = pixels;
  store_bins_of_pixels(axis, box, pixels);
}

// Calls fill(y or x, box, geometry, is_y, bin) for all bins of both axes of a box, one per lane. Function fill returns
// the pixels that the bin may touch. A warp has one box. Blocks that write lists come first.
template <class T, class Axis, class Fill>
__device__ __forceinline__ void measure_box(const CallArgs& args, const BoxesByPlane& by_plane, int* plane_of_box,
                                            const Axis& y, const Axis& x, Fill&& fill) {
  const int64_t block = blockIdx.x - list_blocks(args, by_plane);
  if (block < 0) return list_boxes<T>(args, by_plane, static_cast<int>(blockIdx.x));
  const int64_t box = (block * kThreads + threadIdx.x) / kWarp;
  if (box >= args.boxes) return;
  const int lane = threadIdx.x % kWarp;
  const T* data = static_cast<const T*>(args.box_data) + 5 * box;
  const int plane = find_plane(args, box, data);
  if (lane == 0) plane_of_box[box] = plane;
  if (plane < 0) return;
  const int level = static_cast<int>(plane / args.images);
  Span y_pixels = nothing(), x_pixels = nothing();
  for (int64_t i = lane; i < y.bins + x.bins; i += kWarp) {
    const bool is_y = i < y.bins;
    const Span own = fill(is_y ? y : x, box, axis_of(args, box, data, level, is_y), is_y, is_y ? i : i - y.bins);
    if (own.begin == own.end) continue;
    if (is_y) {
      y_pixels = unite(y_pixels, own);
    } else {
      x_pixels = unite(x_pixels, own);
    }
  }
  __syncwarp();
  summarise(y, box, y_pixels);
  summarise(x, box, x_pixels);
}

}  // namespace roialign_ext::cuda
