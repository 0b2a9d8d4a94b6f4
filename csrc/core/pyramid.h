// The level of a feature pyramid for a box: equation (1) of Lin et al., "Feature Pyramid Networks", 2017.
#pragma once

#include "host_device.h"

namespace roialign_ext {

struct LevelRule {
  double canonical_scale;  // side in image pixels of a square box of the canonical level
  double canonical_level;
  double finest, coarsest;  // first and last level, ascending: a map of scale 2^-k is level k
};

// Index of the box's level, (35), 0 for the finest. `box` has its index and parameters, in image pixels (box_columns).
template <class T>
ROI_HOST_DEVICE int64_t level_of_box(const LevelRule& rule, bool rotated, const T* box) {
  const T width = rotated ? box[3] : add(box[3], -box[1]), height = rotated ? box[4] : add(box[4], -box[2]);
  const T size = std::sqrt(multiply(width, height));
  const T ratio = std::log2(size / static_cast<T>(rule.canonical_scale));
  const T level = std::floor(add(add(static_cast<T>(rule.canonical_level), ratio), T(1e-6)));
  if (!(level > static_cast<T>(rule.finest))) return 0;  // also NaN
  const T last = static_cast<T>(rule.coarsest);
  return static_cast<int64_t>((level < last ? level : last) - static_cast<T>(rule.finest));
}

}  // namespace roialign_ext
