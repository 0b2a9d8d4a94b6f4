// The samples of one bin along one axis, those that fall on the map (docs/math.md, section 3).
#pragma once

#include "box_axis.h"

namespace roialign_ext {

template <class T>
struct AxisSample {
  int64_t index;  // number of the sample within its bin; of a run of equal ones, the first
  int64_t count;  // how many consecutive samples share this position
  int64_t low;    // the pixel at or before the sample; low + 1 is on the map wherever fraction or slope is not 0
  T fraction;     // weight of pixel low + 1
  bool clamped;   // the range rule moved the sample to a border pixel: it does not follow the box
};

// The range rule for one position in map pixels. False: the sample is rejected and nothing may be read for it.
template <class T>
ROI_HOST_DEVICE bool locate(T position, int64_t length, AxisSample<T>& sample) {
  if (length < 1 || !(position >= T(-1) && position <= static_cast<T>(length))) return false;  // also NaN
  sample.clamped = true;
  sample.fraction = T(0);
  if (position <= T(0)) {
    sample.low = 0;
  } else if (position >= static_cast<T>(length - 1)) {
    sample.low = length - 1;
  } else {
    sample.low = static_cast<int64_t>(position);
    sample.fraction = position - static_cast<T>(sample.low);
    sample.clamped = false;
  }
  return true;
}

// d position / d low edge = scale * (1 - u) and d position / d high edge = scale * u, where u in (0, 1) is how far
// along the box the sample lies.
template <class T>
ROI_HOST_DEVICE T fraction_along_box(const BoxAxis<T>& axis, int64_t p, int64_t i) {
  return (static_cast<T>(p) + (static_cast<T>(i) + T(0.5)) / static_cast<T>(axis.grid)) / static_cast<T>(axis.bins);
}

// Grids up to this size are walked whole; in larger ones of a box that is not reversed the part on the map is found
// by bisection, which is exact since positions never decrease with i, rounding included.
constexpr int64_t kBisectionFrom = 32;

// First i in [begin, end) whose position is >= (or, if `strictly`, >) the bound; end if there is none.
template <class T>
ROI_HOST_DEVICE int64_t first_sample_beyond(const BoxAxis<T>& axis, int64_t p, int64_t begin, int64_t end, T bound,
                                            bool strictly) {
  while (begin < end) {
    const int64_t middle = begin + (end - begin) / 2;
    const T position = sample_position(axis, p, middle);
    const bool beyond = strictly ? position > bound : position >= bound;
    if (beyond) {
      end = middle;
    } else {
      begin = middle + 1;
    }
  }
  return begin;
}

// Calls visit(sample) for the samples of bin p that fall on the map, in the order of their index or, if
// `ascending_positions`, from the smallest position to the largest (which differs for a reversed box). The number of
// calls is bounded by the map and, for a given sampling ratio, by that ratio; never by the size of the box.
template <class T, class Visit>
ROI_HOST_DEVICE void for_each_sample(const BoxAxis<T>& axis, int64_t p, bool ascending_positions, Visit&& visit) {
  AxisSample<T> sample;
  if (axis.grid <= kBisectionFrom || !(axis.bin > T(0))) {
    const bool backwards = ascending_positions && axis.bin < T(0);
    for (int64_t step = 0; step < axis.grid; ++step) {
      sample.index = backwards ? axis.grid - 1 - step : step;
      sample.count = 1;
      if (locate(sample_position(axis, p, sample.index), axis.length, sample)) visit(sample);
    }
    return;
  }
  int64_t i = first_sample_beyond(axis, p, 0, axis.grid, T(-1), false);
  const int64_t end = first_sample_beyond(axis, p, i, axis.grid, static_cast<T>(axis.length), true);
  while (i < end) {
    const T position = sample_position(axis, p, i);
    int64_t next = i + 1;
    // Far from the origin neighbouring samples round to one position: such a run is one sample with a count.
    if (next < end && sample_position(axis, p, next) == position) {
      next = first_sample_beyond(axis, p, next, end, position, true);
    }
    sample.index = i;
    sample.count = next - i;
    if (locate(position, axis.length, sample)) visit(sample);
    i = next;
  }
}

}  // namespace roialign_ext
