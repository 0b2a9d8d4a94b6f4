// The boxes of one call and their planes. A plane is one image at one level; planes are numbered level by level (on
// CUDA: csrc/cuda/planes.cuh).
#pragma once

#include <vector>

#include "../core/axis_weights.h"

namespace roialign_ext {

// One feature map of the call: all images at one level of the pyramid.
struct MapLevel {
  double scale;  // map pixels per image pixel
  int64_t height, width;
};

// The arguments that describe the boxes of a call; they refer to its Call. Boxes are (image, x1, y1, x2, y2) in image
// pixels, or (image, cx, cy, w, h, angle). Directions have the same form; their image column is unused (docs/math.md,
// section 7).
template <class T>
struct CallArgs {
  Rule rule;
  PsBins ps_bins;
  int64_t sampling_ratio;
  int64_t boxes, columns;
  int64_t bins_y, bins_x;
  int64_t images;
  const std::vector<MapLevel>& levels;
  const std::vector<int64_t>& plane_of_box;
  const T* box_data;  // [boxes][columns]

  int64_t planes() const { return static_cast<int64_t>(levels.size()) * images; }
  const MapLevel& level(int64_t k) const { return levels[static_cast<size_t>(plane_of_box[k] / images)]; }
  // The parameters of box k, or of its direction.
  const T* box(const T* of, int64_t k) const { return of + columns * k + 1; }

  BoxAxis<T> x_axis(int64_t k) const { return axis(k, /*is_y=*/false, bins_x, level(k).width); }
  BoxAxis<T> y_axis(int64_t k) const { return axis(k, /*is_y=*/true, bins_y, level(k).height); }
  EdgeRates<T> x_rates(const T* direction, int64_t k) const { return {box(direction, k)[0], box(direction, k)[2]}; }
  EdgeRates<T> y_rates(const T* direction, int64_t k) const { return {box(direction, k)[1], box(direction, k)[3]}; }

 private:
  BoxAxis<T> axis(int64_t k, bool is_y, int64_t bins, int64_t length) const {
    const T* edge = box(box_data, k) + (is_y ? 1 : 0);
    return make_box_axis<T>(rule, edge[0], edge[2], static_cast<T>(level(k).scale), bins, length, sampling_ratio,
                            is_y ? ps_bins.y_bin(k) : ps_bins.x_bin(k));
  }
};

// Boxes grouped by plane, in box order.
struct BoxesByPlane {
  std::vector<int64_t> begin;  // [planes + 1] into boxes
  std::vector<int64_t> boxes;
};

inline BoxesByPlane group_by_plane(const std::vector<int64_t>& plane_of_box, int64_t planes) {
  BoxesByPlane groups;
  groups.begin.assign(static_cast<size_t>(planes) + 1, 0);
  for (int64_t plane : plane_of_box) ++groups.begin[static_cast<size_t>(plane) + 1];
  for (int64_t n = 0; n < planes; ++n) groups.begin[n + 1] += groups.begin[n];
  groups.boxes.resize(plane_of_box.size());
  std::vector<int64_t> next(groups.begin.begin(), groups.begin.end() - 1);
  for (size_t k = 0; k < plane_of_box.size(); ++k) {
    groups.boxes[static_cast<size_t>(next[static_cast<size_t>(plane_of_box[k])]++)] = static_cast<int64_t>(k);
  }
  return groups;
}

// Rows [begin, end) of a map.
struct RowRange {
  int32_t begin, end;
};

}  // namespace roialign_ext
