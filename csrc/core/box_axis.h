// One axis of one box: from the box's edges to a regular grid in map pixels (docs/math.md, sections 2 and 12).
#pragma once

#include "host_device.h"

namespace roialign_ext {

// The rule by which the edges of a box become the table of an axis.
enum class Rule {
  kRoiAlignHalfPixel,  // aligned=True: pixel centres lie at half-integers of the image
  kRoiAlignLegacy,     // aligned=False: no shift, boxes at least one map pixel long
  kRoiWarp,            // legacy, after rounding the edges to whole map pixels
  kPrRoIPool,          // integrals over bins instead of samples
  kRoiPool,            // whole cells of the map, edges rounded twice; maximum only
  kCropBilinear,       // samples from edge to edge; box unit: 0 and 1 are the centres of the map's first and last pixel
  kCropNearest,        // the same, moved to the nearest pixels
  // Rotated boxes (rotated_box.h): the grid of an axis relative to the centre of the box.
  kRotatedHalfPixel,
  kRotatedLegacy,
  kRotatedHalfPixelRadian,
  kRotatedLegacyRadian,
};

ROI_HOST_DEVICE constexpr bool is_crop(Rule rule) { return rule == Rule::kCropBilinear || rule == Rule::kCropNearest; }
ROI_HOST_DEVICE constexpr bool is_rotated(Rule rule) { return rule >= Rule::kRotatedHalfPixel; }
// Tables of samples are piecewise linear in the edges; tables of integrals have a second derivative, (31).
ROI_HOST_DEVICE constexpr bool is_integral(Rule rule) { return rule == Rule::kPrRoIPool; }

template <class T>
struct BoxAxis {
  Rule rule;
  T start;         // start of the box, map pixels
  T bin;           // length of a bin, map pixels, negative for a reversed box; crops: step between samples
  T last;          // crops: position of the last sample, map pixels
  int64_t grid;    // samples per bin; 0 for an empty grid
  int64_t bins;    // bins along the axis (PH or PW)
  int64_t length;  // size of the map along the axis (H or W)
  T scale;         // map pixels per unit of the edges
  bool size_held;  // the legacy minimum size is active: the far edge has no effect
};

// Larger adaptive grids per bin would overflow 64 bits. They count as empty, because the samples that can lie on a map
// weigh less than a rounding error of the mean.
constexpr double kMaxGrid = 4.0e18;

// Samples per bin, (4): the ratio if positive, else the length of the bin in map pixels, rounded up.
template <class T>
ROI_HOST_DEVICE int64_t samples_per_bin(T bin, int64_t sampling_ratio) {
  if (sampling_ratio > 0) return sampling_ratio;
  const T grid = std::ceil(bin);
  return grid >= T(1) && grid <= T(kMaxGrid) ? static_cast<int64_t>(grid) : 0;  // false for NaN
}

// A grid of `samples` from edge to edge of the box, (34). A single sample lies in the middle.
template <class T>
ROI_HOST_DEVICE void span_box(BoxAxis<T>& axis, T low, T high, int64_t samples) {
  if (samples > 1) {
    axis.start = multiply(low, axis.scale);
    axis.last = multiply(high, axis.scale);
    axis.bin = multiply(add(high, -low), axis.scale) / static_cast<T>(samples - 1);
    // A step that is not finite rejects every sample.
    if (!std::isfinite(axis.bin)) axis.start = axis.last = static_cast<T>(NAN);
  } else {
    axis.start = axis.last = multiply(multiply(T(0.5), add(low, high)), axis.scale);
    axis.bin = T(0);
  }
}

// `low` and `high` are the edges of the box: image pixels, or shares of the map for crops.
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

// Start of bin p, map pixels.
template <class T>
ROI_HOST_DEVICE T bin_start(const BoxAxis<T>& axis, int64_t p) {
  return add(axis.start, multiply(static_cast<T>(p), axis.bin));
}

// Position of sample j of a crop, map pixels. The outer samples lie exactly on the edges of the box. Rounded steps
// could move the last sample of a box that ends on the border off the map, and lose the border's pixels.
template <class T>
ROI_HOST_DEVICE T crop_position(const BoxAxis<T>& axis, int64_t j) {
  if (j == axis.bins * axis.grid - 1) return axis.last;
  const T position = add(axis.start, multiply(static_cast<T>(j), axis.bin));
  const bool is_past_last = axis.bin < T(0) ? position < axis.last : position > axis.last;
  return is_past_last ? axis.last : position;
}

// Position of sample i of bin p for the other rules, map pixels, in the evaluation order of (5).
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
