// The boxes of each plane. The kernels that measure boxes list them too, in blocks of their own: a list follows from
// the boxes alone.
#pragma once

#include "tables.cuh"
#include "work.cuh"

namespace roialign_ext::cuda {

constexpr size_t kGroupsBytes = kWarps * sizeof(int);  // of shared memory

// Blocks that a launch has for lists, before the others; none where nobody asks.
ROI_HOST_DEVICE int64_t list_blocks(const CallArgs& args, const Groups& groups) {
  return groups.segments == nullptr ? 0 : planes_of(args);
}

// A block lists the boxes of one plane, in their order. Lists lie image by image, and of an image level by level: so
// the level of a box is found for the planes of its own image alone. A thread has as many boxes as any other, side by
// side.
template <class T>
__device__ __forceinline__ void list_boxes(const CallArgs& args, const Groups& groups, int plane) {
  ROI_SHARED_BYTES(shared);
  int* const partial = reinterpret_cast<int*>(shared);
  const int columns = is_rotated(args.rule) ? 6 : 5;
  const T* const boxes = static_cast<const T*>(args.box_data);
  const T image = static_cast<T>(plane % args.images);
  const bool has_levels = args.levels > 1;  // else a plane is an image
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
  if (threadIdx.x == 0) groups.segments[plane] = {begin, begin + listed};
  for (int64_t k = first; own > 0 && k < end; ++k) {
    const T* const box = boxes + k * columns;
    const bool is_near = !has_levels || box[0] == image;
    if (is_near && find_plane(args, k, box) == plane) groups.boxes[begin + place++] = static_cast<int>(k);
  }
}

}  // namespace roialign_ext::cuda
