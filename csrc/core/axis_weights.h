// The table builder: the samples of a bin become a short list of taps (pixel, weight), neighbours merged, already
// divided by the number of samples (docs/math.md, section 4). Its derivatives by the box's edges stand beside it.
//
// A tap carries M weights:
//   ValueWeights      M = 1   the weight itself
//   DirectionWeights  M = 1   its derivative when the two edges move at given rates
//   EdgeWeights       M = 2   its derivatives by the low and by the high edge
// Positions are linear in the edges and hat functions are linear between pixels, so second derivatives are 0 almost
// everywhere.
#pragma once

#include "axis_samples.h"

namespace roialign_ext {

struct ValueWeights {
  static constexpr int M = 1;
  template <class T, class W>
  ROI_HOST_DEVICE void operator()(const BoxAxis<T>&, int64_t, const AxisSample<T>& sample, W* low, W* high) const {
    low[0] = static_cast<W>(T(1) - sample.fraction);
    high[0] = static_cast<W>(sample.fraction);
  }
};

// Derivatives of the two weights by the box's edges: the hat functions of pixels low and low + 1 fall and rise with
// slope 1, the position moves with the edges. Clamped samples stay where they are.
struct EdgeWeights {
  static constexpr int M = 2;
  template <class T, class W>
  ROI_HOST_DEVICE void operator()(const BoxAxis<T>& axis, int64_t p, const AxisSample<T>& sample, W* low,
                                  W* high) const {
    T by_low_edge = T(0), by_high_edge = T(0);
    if (!sample.clamped) {
      const T u = axis.size_held ? T(0) : fraction_along_box(axis, p, sample.index + (sample.count - 1) / 2);
      by_low_edge = axis.scale * (T(1) - u);
      by_high_edge = axis.scale * u;
    }
    high[0] = static_cast<W>(by_low_edge);
    high[1] = static_cast<W>(by_high_edge);
    low[0] = -high[0];
    low[1] = -high[1];
  }
};

template <class Rate>
struct DirectionWeights {
  static constexpr int M = 1;
  Rate low_rate, high_rate;  // how fast each edge moves, image pixels
  template <class T, class W>
  ROI_HOST_DEVICE void operator()(const BoxAxis<T>& axis, int64_t p, const AxisSample<T>& sample, W* low,
                                  W* high) const {
    W edge_low[2], edge_high[2];
    EdgeWeights()(axis, p, sample, edge_low, edge_high);
    high[0] = edge_high[0] * static_cast<W>(low_rate) + edge_high[1] * static_cast<W>(high_rate);
    low[0] = -high[0];
  }
};

// Most taps that one bin can have: two per sample, each pixel once.
ROI_HOST_DEVICE int64_t max_taps_per_bin(int64_t grid, int64_t length) {
  return grid < (length + 1) / 2 ? 2 * grid : length;
}

// Calls emit(pixel, weights[M]) for the taps of bin p, by ascending pixel. Taps whose weights are all zero are left
// out: what has no weight is never read.
template <class W, class T, class Weights, class Emit>
ROI_HOST_DEVICE void for_each_tap(const BoxAxis<T>& axis, int64_t p, const Weights& weights, Emit&& emit) {
  constexpr int M = Weights::M;
  W current[M] = {}, next[M] = {};  // sums for pixels `pixel` and `pixel + 1`
  int64_t pixel = -1;
  const W grid = static_cast<W>(axis.grid);
  auto flush = [&](int64_t at, W* sum) {
    bool used = false;
    for (int m = 0; m < M; ++m) {
      used = used || sum[m] != W(0);
      sum[m] /= grid;
    }
    if (used) emit(at, sum);
    for (int m = 0; m < M; ++m) sum[m] = W(0);
  };
  for_each_sample(axis, p, /*ascending_positions=*/true, [&](const AxisSample<T>& sample) {
    if (sample.low != pixel) {
      if (pixel >= 0) flush(pixel, current);
      if (sample.low == pixel + 1) {
        for (int m = 0; m < M; ++m) {
          current[m] = next[m];
          next[m] = W(0);
        }
      } else if (pixel >= 0) {
        flush(pixel + 1, next);
      }
      pixel = sample.low;
    }
    W low[M], high[M];
    weights(axis, p, sample, low, high);
    for (int m = 0; m < M; ++m) {
      current[m] += low[m] * static_cast<W>(sample.count);
      next[m] += high[m] * static_cast<W>(sample.count);
    }
  });
  if (pixel >= 0) {
    flush(pixel, current);
    flush(pixel + 1, next);
  }
}

}  // namespace roialign_ext
