// One axis of one box: from image pixels to the regular grid of samples in map pixels (docs/math.md, section 2).
#pragma once

#include "host_device.h"

namespace roialign_ext {

enum class Rule {
  kRoiAlignHalfPixel,  // aligned=True: pixel centres lie at half-integers of the image
  kRoiAlignLegacy,     // aligned=False: no shift, and a box is at least one map pixel long
};

template <class T>
struct BoxAxis {
  T start;         // where the box begins, map pixels
  T bin;           // length of one bin, map pixels; negative for a reversed box
  int64_t grid;    // samples per bin; 0 when the grid is empty
  int64_t bins;    // bins along the axis (PH or PW)
  int64_t length;  // size of the map along the axis (H or W)
  T scale;         // map pixels per image pixel
  bool size_held;  // the legacy minimum size is active: the far edge no longer moves anything
};

// An adaptive grid beyond this many samples a bin does not fit 64 bits. The share of such a grid that can fall on a
// map is below one rounding error of the mean, so the grid counts as empty.
constexpr double kMaxGrid = 4.0e18;

// `low` and `high` are the box's edges in image pixels.
template <class T>
ROI_HOST_DEVICE BoxAxis<T> make_box_axis(Rule rule, T low, T high, T scale, int64_t bins, int64_t length,
                                         int64_t sampling_ratio) {
  const bool half_pixel = rule == Rule::kRoiAlignHalfPixel;
  const T shift = half_pixel ? T(-0.5) : T(0);
  BoxAxis<T> axis;
  axis.start = add(multiply(low, scale), shift);
  T size = add(add(multiply(high, scale), shift), -axis.start);
  axis.size_held = !half_pixel && size < T(1);
  if (axis.size_held) size = T(1);
  axis.bin = size / static_cast<T>(bins);
  if (sampling_ratio > 0) {
    axis.grid = sampling_ratio;
  } else {
    const T grid = std::ceil(axis.bin);
    axis.grid = grid >= T(1) && grid <= T(kMaxGrid) ? static_cast<int64_t>(grid) : 0;  // false for NaN
  }
  axis.bins = bins;
  axis.length = length;
  axis.scale = scale;
  return axis;
}

// Position of sample i of bin p, map pixels, in the order of evaluation that the definition fixes.
template <class T>
ROI_HOST_DEVICE T sample_position(const BoxAxis<T>& axis, int64_t p, int64_t i) {
  const T bin_start = add(axis.start, multiply(static_cast<T>(p), axis.bin));
  return add(bin_start, multiply(add(static_cast<T>(i), T(0.5)), axis.bin) / static_cast<T>(axis.grid));
}

}  // namespace roialign_ext
