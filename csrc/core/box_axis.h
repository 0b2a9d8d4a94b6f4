// One axis of one box: box edges become a regular grid in map pixels (docs/math.md, sections 2 and 12).
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
  // Position-sensitive: a box is one bin of a box, which has an image of its own (PsBins).
  kPsRoiAlign,  // samples as kRoiAlignHalfPixel
  kPsRoiPool,   // every whole pixel between edges that are rounded twice
  // Rotated boxes (rotated_box.h): the grid of an axis relative to the centre of the box.
  kRotatedHalfPixel,
  kRotatedLegacy,
  kRotatedHalfPixelRadian,
  kRotatedLegacyRadian,
};

ROI_HOST_DEVICE constexpr bool is_crop(Rule rule) { return rule == Rule::kCropBilinear || rule == Rule::kCropNearest; }
ROI_HOST_DEVICE constexpr bool is_rotated(Rule rule) { return rule >= Rule::kRotatedHalfPixel; }
ROI_HOST_DEVICE constexpr bool is_position_sensitive(Rule rule) {
  return rule == Rule::kPsRoiAlign || rule == Rule::kPsRoiPool;
}
// Columns of the boxes: (index, x1, y1, x2, y2), or (index, cx, cy, w, h, angle).
ROI_HOST_DEVICE constexpr int box_columns(Rule rule) { return is_rotated(rule) ? 6 : 5; }
// The rounding of roi_pool and ps_roi_pool leaves no derivative; that of roi_warp counts as the identity.
ROI_HOST_DEVICE constexpr bool has_box_derivative(Rule rule) {
  return rule != Rule::kRoiPool && rule != Rule::kPsRoiPool;
}
// Tables of samples are piecewise linear in the edges; tables of integrals have a second derivative, (31).
ROI_HOST_DEVICE constexpr bool is_integral(Rule rule) { return rule == Rule::kPrRoIPool; }

// One of `count` bins along an axis of a box.
struct PsBin {
  int64_t number, count;
};

// The bins of a whole box, for position-sensitive rules. Each bin is a box of its own, with an image of its own. Bin p
// of box k is box k * count() + p. It reads image n * count() + p, where n is the batch index of box k. For other
// rules count() is 1.
struct PsBins {
  int64_t y = 1, x = 1;

  ROI_HOST_DEVICE int64_t count() const { return y * x; }
  ROI_HOST_DEVICE int64_t image(int64_t batch_index, int64_t box) const {
    return count() == 1 ? batch_index : batch_index * count() + box % count();
  }
  ROI_HOST_DEVICE PsBin y_bin(int64_t box) const { return count() == 1 ? PsBin{0, 1} : PsBin{box % count() / x, y}; }
  ROI_HOST_DEVICE PsBin x_bin(int64_t box) const { return count() == 1 ? PsBin{0, 1} : PsBin{box % x, x}; }
};

template <class T>
struct BoxAxis {
  Rule rule;
  T start;                // start of the box, map pixels
  T bin;                  // length of a bin, map pixels, negative for a reversed box; crops: step between samples
  T last;                 // crops: position of the last sample, map pixels
  int64_t grid;           // samples per bin; 0 for an empty grid
  int64_t bins;           // bins along the axis (PH or PW)
  int64_t length;         // size of the map along the axis (H or W)
  T scale;                // map pixels per unit of the edges
  bool size_held;         // the legacy minimum size is active: the far edge has no effect
  PsBin ps_bin = {0, 1};  // position-sensitive rules: the bin of the box that this axis has
};

// Larger adaptive grids per bin would overflow 64 bits. They count as empty: the samples that can lie on a map weigh
// less than a rounding error of the mean.
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

// The whole pixels of one bin between edges `first` and `last`, map pixels, (41). The last row and column of the map
// belong to no bin, as in the reference implementation.
template <class T>
ROI_HOST_DEVICE void span_pixels(BoxAxis<T>& axis, T first, T last) {
  const T size = add(last, -first) < T(1) ? T(1) : add(last, -first);  // NaN stays
  const T bin = size / static_cast<T>(axis.ps_bin.count);
  // In double, sums that lie on the map are exact.
  const double end_of_map = axis.length > 0 ? static_cast<double>(axis.length - 1) : 0.0;
  const auto on_map = [&](T edge) {
    const double pixel = static_cast<double>(first) + static_cast<double>(edge);
    return pixel < 0.0 ? 0.0 : pixel < end_of_map ? pixel : end_of_map;
  };
  const T low = std::floor(multiply(static_cast<T>(axis.ps_bin.number), bin));
  const T high = std::ceil(multiply(static_cast<T>(axis.ps_bin.number + 1), bin));
  if (!(std::isfinite(first) && std::isfinite(low) && std::isfinite(high))) return;
  axis.start = static_cast<T>(on_map(low));
  axis.grid = static_cast<int64_t>(on_map(high) - on_map(low));
  axis.bin = static_cast<T>(axis.grid);
}

// `low` and `high` are the edges of the box: image pixels, or shares of the map for crops.
template <class T>
ROI_HOST_DEVICE BoxAxis<T> make_box_axis(Rule rule, T low, T high, T scale, int64_t bins, int64_t length,
                                         int64_t sampling_ratio, PsBin ps_bin = {0, 1}) {
  BoxAxis<T> axis = {rule, T(0), T(0), T(0), 0, bins, length, scale, false, ps_bin};
  if (is_crop(rule)) {
    axis.scale = static_cast<T>(length - 1);
    axis.grid = sampling_ratio;
    span_box(axis, low, high, bins * sampling_ratio);
    return axis;
  }
  T first = multiply(low, scale), last = multiply(high, scale);
  if (rule == Rule::kRoiAlignHalfPixel || rule == Rule::kPsRoiAlign) {
    first = add(first, T(-0.5));
    last = add(last, T(-0.5));
  } else if (rule == Rule::kRoiWarp || rule == Rule::kRoiPool || rule == Rule::kPsRoiPool) {
    first = std::round(first);  // half away from zero
    last = std::round(last);
  }
  if (rule == Rule::kPsRoiPool) {
    span_pixels(axis, first, last);
    return axis;
  }
  T size = add(last, -first);
  if (rule == Rule::kRoiPool) size = add(size, T(1));  // edges name the first and the last cell
  const bool has_minimum = rule == Rule::kRoiAlignLegacy || rule == Rule::kRoiWarp || rule == Rule::kRoiPool;
  axis.size_held = has_minimum && size < T(1);
  if (axis.size_held) size = T(1);
  axis.start = first;
  axis.bin = size / static_cast<T>(rule == Rule::kPsRoiAlign ? ps_bin.count : bins);
  if (rule == Rule::kPsRoiAlign) axis.start = add(first, multiply(static_cast<T>(ps_bin.number), axis.bin));
  if (rule != Rule::kPrRoIPool && rule != Rule::kRoiPool) axis.grid = samples_per_bin(axis.bin, sampling_ratio);
  return axis;
}

// Start of bin p, map pixels.
template <class T>
ROI_HOST_DEVICE T bin_start(const BoxAxis<T>& axis, int64_t p) {
  return add(axis.start, multiply(static_cast<T>(p), axis.bin));
}

// Position of sample j of a crop, map pixels. The outer samples lie exactly on the edges of the box. If a box ends on
// the border, rounded steps could move its last sample off the map.
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
  if (is_crop(axis.rule)) return crop_position(axis, p * axis.grid + i);
  if (axis.rule == Rule::kPsRoiPool) return add(axis.start, static_cast<T>(i));
  return grid_position(axis, p, i);
}

}  // namespace roialign_ext
