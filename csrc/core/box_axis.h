// One axis of one box: from the box's edges to a regular grid in map pixels (docs/math.md, sections 2 and 12).
#pragma once

#include "host_device.h"

namespace roialign_ext {

// How the edges of a box become the table of an axis.
enum class Rule {
  kRoiAlignHalfPixel,  // aligned=True: pixel centres lie at half-integers of the image
  kRoiAlignLegacy,     // aligned=False: no shift, and a box is at least one map pixel long
  kRoiWarp,            // legacy, with edges rounded to whole map pixels first
  kPrRoIPool,          // the integral over each bin instead of samples
  kRoiPool,            // whole cells of the map, edges rounded twice; maximum only
  kCropBilinear,  // samples from edge to edge of a box whose unit is the map, centre of first to centre of last pixel
  kCropNearest,   // the same at the nearest pixels
  // Boxes with an angle (rotated_box.h): the grid of an axis around the centre of the box.
  kRotatedHalfPixel,
  kRotatedLegacy,
  kRotatedHalfPixelRadian,
  kRotatedLegacyRadian,
};

ROI_HOST_DEVICE constexpr bool is_crop(Rule rule) { return rule == Rule::kCropBilinear || rule == Rule::kCropNearest; }
ROI_HOST_DEVICE constexpr bool is_rotated(Rule rule) { return rule >= Rule::kRotatedHalfPixel; }
// An integral's table is curved between its kinks; those of samples are piecewise linear in the edges.
ROI_HOST_DEVICE constexpr bool is_integral(Rule rule) { return rule == Rule::kPrRoIPool; }

template <class T>
struct BoxAxis {
  Rule rule;
  T start;         // where the box begins, map pixels
  T bin;           // length of one bin, map pixels, negative for a reversed box; crops: from one sample to the next
  T last;          // crops: where the last sample lies, map pixels
  int64_t grid;    // samples per bin; 0 when the grid is empty
  int64_t bins;    // bins along the axis (PH or PW)
  int64_t length;  // size of the map along the axis (H or W)
  T scale;         // map pixels per unit of the edges
  bool size_held;  // the legacy minimum size is active: the far edge no longer moves anything
};

// An adaptive grid beyond this many samples a bin does not fit 64 bits. The share of such a grid that can fall on a
// map is below one rounding error of the mean, so the grid counts as empty.
constexpr double kMaxGrid = 4.0e18;

// Samples per bin: the given number, or as many as a bin is map pixels long, rounded up.
template <class T>
ROI_HOST_DEVICE int64_t samples_per_bin(T bin, int64_t sampling_ratio) {
  if (sampling_ratio > 0) return sampling_ratio;
  const T grid = std::ceil(bin);
  return grid >= T(1) && grid <= T(kMaxGrid) ? static_cast<int64_t>(grid) : 0;  // false for NaN
}

// A grid of `samples` from edge to edge of the box. One sample lies in its middle.
template <class T>
ROI_HOST_DEVICE void span_box(BoxAxis<T>& axis, T low, T high, int64_t samples) {
  if (samples > 1) {
    axis.start = multiply(low, axis.scale);
    axis.last = multiply(high, axis.scale);
    axis.bin = multiply(add(high, -low), axis.scale) / static_cast<T>(samples - 1);
    // Steps that are not finite lead nowhere: no sample of such a grid is on the map.
    if (!std::isfinite(axis.bin)) axis.start = axis.last = static_cast<T>(NAN);
  } else {
    axis.start = axis.last = multiply(multiply(T(0.5), add(low, high)), axis.scale);
    axis.bin = T(0);
  }
}

// `low` and `high` are the box's edges: image pixels, or shares of the map for crops.
template <class T>
ROI_HOST_DEVICE BoxAxis<T> make_box_axis(Rule rule, T low, T high, T scale, int64_t bins, int64_t length,
                                         int64_t sampling_ratio) {
  BoxAxis<T> axis = {rule, T(0), T(0), T(0), 0, bins, length, scale, false};
  if (is_crop(rule)) {
    axis.scale = static_cast<T>(length - 1);
    axis.grid = sampling_ratio;
    span_box(axis, low, high, bins * sampling_ratio);
    return axis;
  }
  T first = multiply(low, scale), last = multiply(high, scale);
  if (rule == Rule::kRoiAlignHalfPixel) {
    first = add(first, T(-0.5));
    last = add(last, T(-0.5));
  } else if (rule == Rule::kRoiWarp || rule == Rule::kRoiPool) {
    first = std::round(first);  // half away from zero
    last = std::round(last);
  }
  T size = add(last, -first);
  if (rule == Rule::kRoiPool) size = add(size, T(1));  // edges name the first and the last cell
  const bool has_minimum = rule == Rule::kRoiAlignLegacy || rule == Rule::kRoiWarp || rule == Rule::kRoiPool;
  axis.size_held = has_minimum && size < T(1);
  if (axis.size_held) size = T(1);
  axis.start = first;
  axis.bin = size / static_cast<T>(bins);
  if (rule != Rule::kPrRoIPool && rule != Rule::kRoiPool) axis.grid = samples_per_bin(axis.bin, sampling_ratio);
  return axis;
}

// Where bin p begins, map pixels.
template <class T>
ROI_HOST_DEVICE T bin_start(const BoxAxis<T>& axis, int64_t p) {
  return add(axis.start, multiply(static_cast<T>(p), axis.bin));
}

// Position of sample j of a crop, map pixels. The outer samples lie on the edges of the box: rounded steps would take
// the last one past a border that the edge lies on, and the border's pixels would be lost.
template <class T>
ROI_HOST_DEVICE T crop_position(const BoxAxis<T>& axis, int64_t j) {
  if (j == axis.bins * axis.grid - 1) return axis.last;
  const T position = add(axis.start, multiply(static_cast<T>(j), axis.bin));
  const bool is_past_last = axis.bin < T(0) ? position < axis.last : position > axis.last;
  return is_past_last ? axis.last : position;
}

// Position of sample i of bin p of the other rules, map pixels, in the order of evaluation that the definition fixes.
template <class T>
ROI_HOST_DEVICE T grid_position(const BoxAxis<T>& axis, int64_t p, int64_t i) {
  return add(bin_start(axis, p), multiply(add(static_cast<T>(i), T(0.5)), axis.bin) / static_cast<T>(axis.grid));
}

// Position of sample i of bin p, map pixels.
template <class T>
ROI_HOST_DEVICE T sample_position(const BoxAxis<T>& axis, int64_t p, int64_t i) {
  return is_crop(axis.rule) ? crop_position(axis, p * axis.grid + i) : grid_position(axis, p, i);
}

}  // namespace roialign_ext
