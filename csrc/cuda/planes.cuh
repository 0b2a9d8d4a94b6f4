// The plane of each box, and lists of the boxes of each plane. The kernels that measure boxes also write these lists,
// in separate blocks: a list depends on the boxes alone (on the CPU: csrc/cpu/planes.h).
#pragma once

#include "axis_bands.cuh"
#include "scratch.h"
#include "work.cuh"

namespace roialign_ext::cuda {

ROI_HOST_DEVICE int64_t planes_of(const CallArgs& args) { return args.levels * args.images; }

// The plane of box k, or -1 if it is invalid; `box` is its data.
template <class T>
__device__ __forceinline__ int find_plane(const CallArgs& args, int64_t k, const T* box) {
  const T index = box[0], images = static_cast<T>(args.images / args.ps_bins.count());
  if (!(index >= T(0) && index < images && index == std::floor(index))) return -1;
  if (is_rotated(args.rule) && (box[3] < T(0) || box[4] < T(0))) return -1;
  const int64_t level = args.levels == 1 ? 0 : level_of_box(args.level_rule, is_rotated(args.rule), box);
  return static_cast<int>(level * args.images + args.ps_bins.image(static_cast<int64_t>(index), k));
}

// Boxes grouped by plane, in ascending order.
struct BoxesByPlane {
  Span* segments = nullptr;  // [planes] intervals of `boxes`; null if not requested
  int* boxes = nullptr;
};

inline BoxesByPlane take_boxes_by_plane(const CallArgs& args, Scratch& scratch) {
  Span* const segments = scratch.take<Span>(planes_of(args));
  return {segments, scratch.take<int>(args.boxes)};
}

constexpr size_t kBoxesByPlaneBytes = kWarps * sizeof(int);  // of shared memory

// Number of blocks that write lists; they come first in the launch. Zero if no lists are requested.
ROI_HOST_DEVICE int64_t list_blocks(const CallArgs& args, const BoxesByPlane& by_plane) {
  return by_plane.segments == nullptr ? 0 : planes_of(args);
}

// A block lists the boxes of one plane, in ascending order. Lists are ordered by image, then by level. So a block
// computes the level only for boxes of its own image. Every thread handles one contiguous share of the boxes.
template <class T>
__device__ __forceinline__ void list_boxes(const CallArgs& args, const BoxesByPlane& by_plane, int plane) {
  ROI_SHARED_BYTES(shared);
  int* const partial = reinterpret_cast<int*>(shared);
  const int columns = box_columns(args.rule);
  const T* const boxes = static_cast<const T*>(args.box_data);
  const T image = static_cast<T>(plane % args.images);
  const bool has_levels = args.levels > 1;  // otherwise a plane is an image
  const int64_t share = (args.boxes + kThreads - 1) / kThreads, first = threadIdx.x * share;
  const int64_t end = first + share < args.boxes ? first + share : args.boxes;
  int before = 0, own = 0;
  for (int64_t k = first; k < end; ++k) {
    const T* const box = boxes + k * columns;
    const int other = !has_levels || box[0] == image ? find_plane(args, k, box) : -1;
    before += (has_levels && box[0] < image) || (other >= 0 && other < plane);
    own += other == plane;
  }
  int begin, listed;
  int place = sum_before_in_block(own, partial, listed);
  sum_before_in_block(before, partial, begin);
  if (threadIdx.x == 0) by_plane.segments[plane] = {begin, begin + listed};
  for (int64_t k = first; own > 0 && k < end; ++k) {
    const T* const box = boxes + k * columns;
    const bool is_near = !has_levels || box[0] == image;
    if (is_near && find_plane(args, k, box) == plane) by_plane.boxes[begin + place++] = static_cast<int>(k);
  }
}

}  // namespace roialign_ext::cuda
