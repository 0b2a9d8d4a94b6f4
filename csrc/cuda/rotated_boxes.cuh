// Average pooling of rotated boxes and its derivatives (docs/math.md, section 14). Both axes depend on all parameters
// of a box, so there are no tables. The geometry of each box is computed once per call, and threads visit the samples
// of their bins. This arithmetic dominates, so the feature type is chosen at run time.
#pragma once

#include "../core/rotated_box.h"
#include "families.cuh"
#include "planes.cuh"
#include "tuning.cuh"

namespace roialign_ext::cuda {

constexpr int kRotatedColumns = kRotatedParameters + 1;

// Geometry of the boxes, before their samples.
template <class T>
struct RotatedBoxes {
  int* plane_of_box;
  RotatedBox<T>* boxes;
  Span *y_pixels, *x_pixels;  // [boxes] pixels that a box may touch
};

template <class T>
RotatedBoxes<T> take_rotated_boxes(const CallArgs& args, Scratch& scratch) {
  RotatedBoxes<T> boxes;
  boxes.plane_of_box = scratch.take<int>(args.boxes);
  boxes.boxes = scratch.take<RotatedBox<T>>(args.boxes);
  boxes.y_pixels = scratch.take<Span>(args.boxes);
  boxes.x_pixels = scratch.take<Span>(args.boxes);
  return boxes;
}

// If `by_plane` is requested, the same launch lists the boxes of each plane.
template <class T>
void build_rotated_boxes(const CallArgs& args, const RotatedBoxes<T>& boxes, const BoxesByPlane& by_plane,
                         Launcher& launcher);

// Calls run(S(), T()), where S is the feature type and T the coordinate type.
template <class Run>
void with_rotated_types(const CallArgs& args, Run&& run) {
  if (args.storage == Storage::kDouble) return run(double(), double());
  if (args.boxes_are_double) return run(AnyFloat(), double());
  run(AnyFloat(), float());
}

// Calls run(order), where order is the number of directions as a constant.
template <class Run>
void with_order(const CallArgs& args, Run&& run) {
  if (args.direction_count == 0) return run(std::integral_constant<int, 0>());
  if (args.direction_count == 1) return run(std::integral_constant<int, 1>());
  run(std::integral_constant<int, 2>());
}

template <class T>
__device__ __forceinline__ const T* direction_of(const CallArgs& args, int d, int64_t box) {
  return static_cast<const T*>(args.directions[d]) + kRotatedColumns * box + 1;
}

// The taps to compute: those of the value, or of its derivative along the ORDER directions of the call.
template <int ORDER, class T>
__device__ __forceinline__ PointDerivative<T, 1, ORDER> derivative_of(const CallArgs& args, int64_t box) {
  PointDerivative<T, 1, ORDER> derivative = {};
  if constexpr (ORDER > 0) derivative.first[0] = direction_of<T>(args, 0, box);
  if constexpr (ORDER > 1) derivative.second[0] = direction_of<T>(args, 1, box);
  return derivative;
}

}  // namespace roialign_ext::cuda
