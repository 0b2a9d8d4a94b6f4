// The samples, pieces or cells that a bin takes from one axis of the map (docs/math.md, sections 3 and 12). A piece
// lies within one cell. Each of them is a weighted sample between two pixels.
#pragma once

#include "box_axis.h"

namespace roialign_ext {

template <class T>
struct AxisSample {
  int64_t index;  // number of the sample within its bin; of a run of equal ones, the first
  int64_t count;  // how many consecutive samples share this position
  int64_t low;    // the pixel at or before the sample
  T fraction;     // weight of pixel low + 1, which is on the map if a sample has weight or slope there
  T weight;       // its weight in the bin: the number of equal samples, or the length of the piece
  bool clamped;   // the range rule moved the sample to a border pixel: it does not follow the box
  T begin, end;   // of a piece: the shares of the bin before its begin and before its end
};

// The range rule for one position in map pixels. False: the sample is rejected and nothing may be read for it.
template <class T>
ROI_HOST_DEVICE bool locate(Rule rule, T position, int64_t length, AxisSample<T>& sample) {
  const T margin = is_crop(rule) ? T(0) : T(1);
  const T last = static_cast<T>(length - 1);
  if (length < 1 || !(position >= -margin && position <= last + margin)) return false;  // also NaN
  if (rule == Rule::kCropNearest) position = std::round(position);
  sample.clamped = true;
  sample.fraction = T(0);
  if (position <= T(0)) {
    sample.low = 0;
  } else if (position >= last) {
    sample.low = length - 1;
  } else {
    sample.low = static_cast<int64_t>(position);
    sample.fraction = position - static_cast<T>(sample.low);
    sample.clamped = rule == Rule::kCropNearest;
  }
  return true;
}

// Larger grids are bisected for the samples on the map; exact, because rounded positions are monotonic in the index.
constexpr int64_t kBisectionFrom = 32;

// First j in [begin, end) whose key is >= (or, if `strictly`, >) the bound; end if there is none. Keys never decrease.
template <class T, class Key>
ROI_HOST_DEVICE int64_t first_beyond(int64_t begin, int64_t end, T bound, bool strictly, Key&& key) {
  while (begin < end) {
    const int64_t middle = begin + (end - begin) / 2;
    const bool beyond = strictly ? key(middle) > bound : key(middle) >= bound;
    if (beyond) {
      end = middle;
    } else {
      begin = middle + 1;
    }
  }
  return begin;
}

// Calls visit(i, count, position) for the samples of a grid, by ascending index i or `backwards`. If `bisects`, only
// samples within [from, to] are visited, and `count` equal positions are visited once, with the first index. Far from
// the origin neighbouring samples round to one position. NaN positions are in no interval. Positions at(i) never
// decrease or, if `descends`, never increase.
template <class T, class Position, class Visit>
ROI_HOST_DEVICE void for_each_run(int64_t grid, bool bisects, bool descends, Position&& at, T from, T to,
                                  bool backwards, Visit&& visit) {
  // Along j, which counts runs as they are visited, positions times `sign` never decrease.
  const T sign = descends != backwards ? T(-1) : T(1);
  const auto key = [&](int64_t j) { return sign * at(backwards ? grid - 1 - j : j); };
  int64_t j = 0, end = grid;
  if (bisects) {
    j = first_beyond(int64_t(0), grid, sign > T(0) ? from : -to, false, key);
    end = first_beyond(j, grid, sign > T(0) ? to : -from, true, key);
  }
  while (j < end) {
    const T position = key(j);
    int64_t next = j + 1;
    if (bisects && next < end && key(next) == position) next = first_beyond(next, end, position, true, key);
    visit(backwards ? grid - next : j, next - j, sign * position);
    j = next;
  }
}

// The part of bin p that lies on the map or within one pixel of it is cut at the pixels. On each piece the interpolated
// map is linear, so its integral is the length times the value in the middle.
template <class T, class Visit>
ROI_HOST_DEVICE void for_each_piece(const BoxAxis<T>& axis, int64_t p, Visit&& visit) {
  const T low = bin_start(axis, p), high = bin_start(axis, p + 1), size = high - low;
  if (!(axis.bin > T(0) && std::isfinite(axis.bin) && std::isfinite(size)) || axis.length < 1) return;  // also NaN
  const T from = low > T(-1) ? low : T(-1);
  const T to = high < static_cast<T>(axis.length) ? high : static_cast<T>(axis.length);
  if (!(from <= to)) return;
  AxisSample<T> piece = {};
  if (size == T(0)) {  // the bin is shorter than a rounding error: the value at its start
    piece.low = static_cast<int64_t>(std::floor(from));
    piece.fraction = from - static_cast<T>(piece.low);
    piece.weight = piece.end = T(1);
    visit(piece);
    return;
  }
  for (int64_t cell = static_cast<int64_t>(std::floor(from)); static_cast<T>(cell) < to; ++cell) {
    const T edge = static_cast<T>(cell);
    const T begin = from > edge ? from : edge, end = to < edge + T(1) ? to : edge + T(1);
    piece.low = cell;
    piece.weight = end - begin;
    piece.fraction = T(0.5) * ((begin - edge) + (end - edge));
    piece.begin = (begin - low) / size;
    piece.end = (end - low) / size;
    visit(piece);
  }
}

// The cells of bin p of roi_pool, which are rounded outwards in whole pixels and clipped to the map.
template <class T, class Visit>
ROI_HOST_DEVICE void for_each_cell(const BoxAxis<T>& axis, int64_t p, Visit&& visit) {
  const T low = std::floor(multiply(static_cast<T>(p), axis.bin));
  const T high = std::ceil(multiply(static_cast<T>(p + 1), axis.bin));
  // In double, sums that lie on the map are exact; an integer would not hold all edges.
  const double first = static_cast<double>(axis.start) + static_cast<double>(low);
  const double last = static_cast<double>(axis.start) + static_cast<double>(high);
  if (!(std::isfinite(first) && std::isfinite(last))) return;
  const double length = static_cast<double>(axis.length);
  const int64_t begin = static_cast<int64_t>(first < 0.0 ? 0.0 : first < length ? first : length);
  const int64_t end = static_cast<int64_t>(last < 0.0 ? 0.0 : last < length ? last : length);
  AxisSample<T> cell = {};
  cell.count = 1;
  cell.weight = T(1);
  cell.clamped = true;
  for (cell.low = begin; cell.low < end; ++cell.low, ++cell.index) visit(cell);
}

// Calls visit(sample) for the samples of bin p that lie on the map (inside, in docs/math.md), by ascending index or
// `backwards`.
template <class T, class Visit>
ROI_HOST_DEVICE void for_each_on_map(const BoxAxis<T>& axis, int64_t p, bool backwards, Visit&& visit) {
  AxisSample<T> sample = {};
  for_each_run(
      axis.grid, axis.grid > kBisectionFrom, axis.bin < T(0), [&](int64_t i) { return sample_position(axis, p, i); },
      T(-1), static_cast<T>(axis.length), backwards,
      [&](int64_t index, int64_t count, T position) {
        sample.index = index;
        sample.count = count;
        sample.weight = static_cast<T>(count);
        if (locate(axis.rule, position, axis.length, sample)) visit(sample);
      });
}

// Calls visit(sample) for the samples, or pieces, of an average in bin p, by ascending position. The number of calls is
// bounded by the map and by a positive sampling ratio, not by the size of the box.
template <class T, class Visit>
ROI_HOST_DEVICE void for_each_sample(const BoxAxis<T>& axis, int64_t p, Visit&& visit) {
  if (axis.rule == Rule::kPrRoIPool) return for_each_piece(axis, p, visit);
  for_each_on_map(axis, p, /*backwards=*/axis.bin < T(0), visit);
}

// A maximum takes the first of samples that share a position.
template <class T>
ROI_HOST_DEVICE AxisSample<T> first_of(AxisSample<T> sample) {
  sample.count = 1;
  sample.weight = T(1);
  return sample;
}

// The relative position t of a sample in its box, in [0, 1], (15). Equal samples, and a piece, count with their middle.
template <class T>
ROI_HOST_DEVICE T relative_position(const BoxAxis<T>& axis, int64_t p, const AxisSample<T>& sample) {
  if (axis.rule == Rule::kPrRoIPool) {
    return (static_cast<T>(p) + T(0.5) * (sample.begin + sample.end)) / static_cast<T>(axis.bins);
  }
  const T index = static_cast<T>(sample.index) + T(0.5) * static_cast<T>(sample.count - 1);
  if (is_crop(axis.rule)) {
    const int64_t samples = axis.bins * axis.grid;
    return samples > 1 ? (static_cast<T>(p * axis.grid) + index) / static_cast<T>(samples - 1) : T(0.5);
  }
  return (static_cast<T>(p) + (index + T(0.5)) / static_cast<T>(axis.grid)) / static_cast<T>(axis.bins);
}

}  // namespace roialign_ext
