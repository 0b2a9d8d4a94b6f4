// The table of an axis (docs/math.md, section 4). The samples of a bin become a short list of taps (pixel, weight).
// Samples next to a pixel are merged, and sums are divided by the number of samples or the size of the bin. The
// derivatives with respect to the box's edges come from the same loop.
#pragma once

#include "axis_samples.h"

namespace roialign_ext {

// Rates of the two edges of an axis, in the unit of the edges.
template <class T>
struct EdgeRates {
  T low, high;
};

// The table itself (ORDER 0), or its derivatives along `first` (1), or along `first` and `second` (2); M at once.
template <class T, int MANY, int ORDER>
struct TableDerivative {
  static constexpr int M = MANY;
  static constexpr int order = ORDER;
  EdgeRates<T> first[M], second[M];
};

template <class T>
using TableValue = TableDerivative<T, 1, 0>;

// Derivatives with respect to the low and the high edge: of the table, or of its derivative along a direction.
template <class T>
ROI_HOST_DEVICE TableDerivative<T, 2, 1> by_edges() {
  return {{{T(1), T(0)}, {T(0), T(1)}}, {}};
}
template <class T>
ROI_HOST_DEVICE TableDerivative<T, 2, 2> by_edges_along(EdgeRates<T> v) {
  return {{{T(1), T(0)}, {T(0), T(1)}}, {v, v}};
}

// Rate of the point at the relative position t in the box, map pixels (equations (15) and (16)).
template <class T>
ROI_HOST_DEVICE T position_rate(const BoxAxis<T>& axis, T t, const EdgeRates<T>& rates) {
  if (axis.size_held) t = T(0);
  if (axis.rule == Rule::kPsRoiAlign) {
    t = (static_cast<T>(axis.ps_bin.number) + t) / static_cast<T>(axis.ps_bin.count);
  }
  return axis.scale * (T(1) - t) * rates.low + axis.scale * t * rates.high;
}

// At a border between cells inside the bin the slope of the interpolated map jumps. The second derivative is that jump
// times the rates of the border (equation (31)).
template <class T>
ROI_HOST_DEVICE T border_rate(const BoxAxis<T>& axis, int64_t p, T share, const EdgeRates<T>& u,
                              const EdgeRates<T>& v) {
  const T t = (static_cast<T>(p) + share) / static_cast<T>(axis.bins);
  return position_rate(axis, t, u) * position_rate(axis, t, v);
}

// The weights of pixels low and low + 1 that one sample contributes.
template <class T, class Derivative, class W>
ROI_HOST_DEVICE void sample_weights(const BoxAxis<T>& axis, int64_t p, const AxisSample<T>& sample,
                                    const Derivative& derivative, W* low, W* high) {
  if (derivative.order == 0) {
    low[0] = static_cast<W>(sample.weight) * static_cast<W>(T(1) - sample.fraction);
    high[0] = static_cast<W>(sample.weight) * static_cast<W>(sample.fraction);
    return;
  }
  // The hat functions of the two pixels fall and rise with slope 1. Clamped samples stay where they are.
  const T t = sample.clamped || derivative.order == 2 ? T(0) : relative_position(axis, p, sample);
  for (int m = 0; m < Derivative::M; ++m) {
    T slope = T(0);
    if (derivative.order == 1 && !sample.clamped) {
      slope = sample.weight * position_rate(axis, t, derivative.first[m]);
    } else if (derivative.order == 2) {
      const EdgeRates<T>&u = derivative.first[m], &v = derivative.second[m];
      if (sample.begin > T(0)) slope += border_rate(axis, p, sample.begin, u, v);
      if (sample.end < T(1)) slope -= border_rate(axis, p, sample.end, u, v);
    }
    high[m] = static_cast<W>(slope);
    low[m] = -high[m];
  }
}

// The divisor of a bin's sums: the number of samples, or the size of the bin.
template <class T>
ROI_HOST_DEVICE T bin_divisor(const BoxAxis<T>& axis, int64_t p) {
  if (!is_integral(axis.rule)) return static_cast<T>(axis.grid);
  const T size = bin_start(axis, p + 1) - bin_start(axis, p);
  return size == T(0) ? T(1) : size;
}

struct SeeNothing {
  template <class Sample>
  ROI_HOST_DEVICE void operator()(const Sample&) const {}
};

// Calls emit(pixel, weights[M]) for the taps of bin p, by ascending pixel. Taps whose weights are all zero are left
// out, so their pixels are never read. Calls see(sample) for every sample that the taps are made of, before the taps.
template <class W, class T, class Derivative, class Emit, class See = SeeNothing>
ROI_HOST_DEVICE void for_each_tap(const BoxAxis<T>& axis, int64_t p, const Derivative& derivative, Emit&& emit,
                                  See&& see = {}) {
  constexpr int M = Derivative::M;
  // Positions are linear in the edges, and the interpolated map is linear between pixels. So means of samples have no
  // second derivative.
  if (derivative.order == 2 && !is_integral(axis.rule)) return;
  W current[M] = {}, next[M] = {};  // sums for pixels `pixel` and `pixel + 1`
  int64_t pixel = -2;               // a piece may begin at pixel -1, whose weight is dropped
  const W divisor = static_cast<W>(bin_divisor(axis, p));
  // The sums of pixels before `low` are complete.
  const auto advance = [&](int64_t low) {
    for (int i = 0; i < 2 && pixel < low; ++i, ++pixel) {
      if (pixel >= 0 && pixel < axis.length) {
        bool used = false;
        for (int m = 0; m < M; ++m) {
          current[m] /= divisor;
          used = used || current[m] != W(0);
        }
        if (used) emit(pixel, current);
      }
      for (int m = 0; m < M; ++m) {
        current[m] = next[m];
        next[m] = W(0);
      }
    }
    pixel = low;
  };
  for_each_sample(axis, p, [&](const AxisSample<T>& sample) {
    see(sample);
    advance(sample.low);
    W low[M], high[M];
    sample_weights(axis, p, sample, derivative, low, high);
    for (int m = 0; m < M; ++m) {
      current[m] += low[m];
      next[m] += high[m];
    }
  });
  advance(pixel + 2);
}

}  // namespace roialign_ext
