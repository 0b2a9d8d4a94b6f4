// Taps for the loops over rotated boxes, one box at a time. The taps of a whole call would not fit in memory (on CUDA:
// csrc/cuda/rotated_boxes.cuh).
#pragma once

#include <functional>
#include <vector>

#include "../core/rotated_box.h"
#include "planes.h"

namespace roialign_ext {

// Taps of one box, bin by bin, with M weights each: one, or one per parameter of the box.
template <class W>
struct PointTaps {
  std::vector<int64_t> begin;  // [bins + 1] into y and x
  std::vector<int32_t> y, x;
  std::vector<W> weight;  // [taps][M]
};

template <class W>
struct RotatedPlan {
  // Fills `taps` for box k. Compiled once for all instruction sets, so that they use the same taps.
  std::function<void(int64_t k, PointTaps<W>& taps)> taps_of_box;
  BoxesByPlane by_plane;
};

// Taps of the derivative of order ORDER along M pairs of directions, which are laid out like box parameters.
template <class W, int M, int ORDER, class T>
void fill_point_taps(const CallArgs<T>& args, int64_t k, const PointDerivative<T, M, ORDER>& derivative,
                     PointTaps<W>& taps) {
  const MapLevel& level = args.level(k);
  const auto box = make_rotated_box<T>(args.rule, args.box(args.box_data, k), static_cast<T>(level.scale), args.bins_y,
                                       args.bins_x, level.height, level.width, args.sampling_ratio);
  const UprightWindow<T> window = turn_back(window_of_map(box), box);
  taps.begin.assign(1, 0);
  taps.y.clear();
  taps.x.clear();
  taps.weight.clear();
  for (int64_t p = 0; p < args.bins_y; ++p) {
    for (int64_t q = 0; q < args.bins_x; ++q) {
      for_each_rotated_tap<W>(box, window, p, q, derivative, [&](int64_t y, int64_t x, const W* weight) {
        taps.y.push_back(static_cast<int32_t>(y));
        taps.x.push_back(static_cast<int32_t>(x));
        taps.weight.insert(taps.weight.end(), weight, weight + M);
      });
      taps.begin.push_back(static_cast<int64_t>(taps.y.size()));
    }
  }
}

// For pooling and grad_input: the value, or the derivative along the directions. `args` and its data must outlive
// the plan.
template <class W, class T>
RotatedPlan<W> make_rotated_plan(const CallArgs<T>& args, const std::vector<const T*>& directions) {
  RotatedPlan<W> plan;
  plan.by_plane = group_by_plane(args.plane_of_box, args.planes());
  plan.taps_of_box = [&args, directions](int64_t k, PointTaps<W>& taps) {
    if (directions.empty()) return fill_point_taps<W, 1, 0>(args, k, PointDerivative<T, 1, 0>{}, taps);
    const T* u = args.box(directions[0], k);
    if (directions.size() == 1) return fill_point_taps<W, 1, 1>(args, k, PointDerivative<T, 1, 1>{{u}, {}}, taps);
    const T* v = args.box(directions[1], k);
    fill_point_taps<W, 1, 2>(args, k, PointDerivative<T, 1, 2>{{u}, {v}}, taps);
  };
  return plan;
}

// For grad_boxes: the gradient with respect to the parameters, of the value or of its derivative along a direction.
template <class W, class T>
RotatedPlan<W> make_rotated_grad_boxes_plan(const CallArgs<T>& args, const std::vector<const T*>& directions) {
  RotatedPlan<W> plan;
  plan.by_plane = group_by_plane(args.plane_of_box, args.planes());
  plan.taps_of_box = [&args, directions](int64_t k, PointTaps<W>& taps) {
    static constexpr T unit[5][5] = {{1}, {0, 1}, {0, 0, 1}, {0, 0, 0, 1}, {0, 0, 0, 0, 1}};
    if (directions.empty()) {
      const PointDerivative<T, 5, 1> by_parameters = {{unit[0], unit[1], unit[2], unit[3], unit[4]}, {}};
      return fill_point_taps<W>(args, k, by_parameters, taps);
    }
    const T* v = args.box(directions[0], k);
    const PointDerivative<T, 5, 2> along = {{unit[0], unit[1], unit[2], unit[3], unit[4]}, {v, v, v, v, v}};
    fill_point_taps<W>(args, k, along, taps);
  };
  return plan;
}

}  // namespace roialign_ext
