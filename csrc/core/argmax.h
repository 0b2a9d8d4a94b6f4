// A maximum with its argmax fixed (docs/math.md, section 5): every output is one sample, so pooling is linear in the
// features. The samples of a bin, how the argmax names one of them, and its taps.
#pragma once

#include "axis_weights.h"

namespace roialign_ext {

// The argmax if the chosen sample is rejected, or if there is no sample.
constexpr int32_t kRejected = -1;

// Samples of a bin along one axis. With one more, the last sample would have the code of kRejected.
constexpr int64_t kMaxSamplesOfBin = 65535;

// The argmax: the places of the chosen sample along y and x among the bin's samples on the map. They are packed as two
// 16-bit fields, so that decoding needs no division.
ROI_HOST_DEVICE int32_t make_argmax(int64_t sample_y, int64_t sample_x) {
  return static_cast<int32_t>(static_cast<uint32_t>(sample_y) << 16 | static_cast<uint32_t>(sample_x));
}
ROI_HOST_DEVICE uint32_t argmax_y(int32_t argmax) { return static_cast<uint32_t>(argmax) >> 16; }
ROI_HOST_DEVICE uint32_t argmax_x(int32_t argmax) { return static_cast<uint32_t>(argmax) & 0xffffu; }

// One sample along one axis.
template <class W>
struct SampleTap {
  int32_t low;    // pixel low; also pixel low + 1 if the fraction or a slope is not 0
  W fraction;     // weight of pixel low + 1
  W by_low_edge;  // derivatives of the position with respect to the box's edges, 0 where clamped
  W by_high_edge;
};

template <class W, class T>
ROI_HOST_DEVICE SampleTap<W> sample_tap(const BoxAxis<T>& axis, int64_t p, const AxisSample<T>& sample) {
  W low[2], high[2];
  sample_weights(axis, p, first_of(sample), by_edges<T>(), low, high);
  return {static_cast<int32_t>(sample.low), static_cast<W>(sample.fraction), high[0], high[1]};
}

// The place of rejected samples, which count as 0, among those of a bin.
struct Rejected {
  bool first;  // the bin's first sample is rejected
  bool later;  // some later one is, after those on the map
};

// Calls visit(sample) for the samples of a maximum in bin p that lie on the map, in the order of their index. In a
// reversed box that is by descending position.
template <class T, class Visit>
ROI_HOST_DEVICE Rejected for_each_max_sample(const BoxAxis<T>& axis, int64_t p, Visit&& visit) {
  int64_t next_index = 0;
  bool first = true;
  const auto visit_in_order = [&](const AxisSample<T>& sample) {
    if (sample.index == 0) first = false;
    next_index = sample.index + sample.count;
    visit(sample);
  };
  if (axis.rule == Rule::kRoiPool) {
    for_each_cell(axis, p, visit_in_order);
  } else {
    for_each_on_map(axis, p, /*backwards=*/false, visit_in_order);
  }
  return {first, next_index > 0 && next_index < axis.grid};
}

// Weights of pixels low and low + 1 of one sample along one axis.
template <class W>
struct TwoTaps {
  W low, high;
};

template <class W>
ROI_HOST_DEVICE TwoTaps<W> value_taps(const SampleTap<W>& sample) {
  return {W(1) - sample.fraction, sample.fraction};
}

// Derivative of the taps for a position that moves at this rate, (17).
template <class W>
ROI_HOST_DEVICE TwoTaps<W> moving_taps(W rate) {
  return {-rate, rate};
}

template <class W>
ROI_HOST_DEVICE bool follows_box(const SampleTap<W>& sample) {
  return sample.by_low_edge != W(0) || sample.by_high_edge != W(0);
}

// The edges of a box are (x low, y low, x high, y high).
constexpr int kLowX = 0, kLowY = 1;

// The derivative of the taps along direction d of the box. `low` is the low edge of the sample's axis: kLowX or kLowY.
// Function rate(d, edge) returns the rates of the edges, which need not be finite.
template <class W, class Rate>
ROI_HOST_DEVICE TwoTaps<W> taps_along(const SampleTap<W>& sample, int low, int d, Rate&& rate) {
  return moving_taps(follows_box(sample) ? sample.by_low_edge * rate(d, low) + sample.by_high_edge * rate(d, low + 2)
                                         : W(0));
}

// Calls visit(i, j, weight) for the pixels (low + i, low + j) of a product of y taps and x taps. A high tap without
// weight may lie past the map, so it is never visited.
template <class W, class Visit>
ROI_HOST_DEVICE void for_each_pixel(const TwoTaps<W>& y, const TwoTaps<W>& x, Visit&& visit) {
  visit(0, 0, y.low * x.low);
  if (x.high != W(0)) visit(0, 1, y.low * x.high);
  if (y.high == W(0)) return;
  visit(1, 0, y.high * x.low);
  if (x.high != W(0)) visit(1, 1, y.high * x.high);
}

// Calls add(y taps, x taps) for the two products whose sum is the derivative of a sample. `order` is the number of
// directions: one or two.
template <class W, class Rate, class Add>
ROI_HOST_DEVICE void for_each_derived_product(int order, const SampleTap<W>& y, const SampleTap<W>& x, Rate&& rate,
                                              Add&& add) {
  add(taps_along(y, kLowY, 0, rate), order == 1 ? value_taps(x) : taps_along(x, kLowX, 1, rate));
  add(order == 1 ? value_taps(y) : taps_along(y, kLowY, 1, rate), taps_along(x, kLowX, 0, rate));
}

// Adds the contribution of a chosen sample with these taps to the gradient with respect to the edges of its box.
// Function apply(y taps, x taps) returns the output's gradient times the product of the taps with the map.
template <class W, class Apply>
ROI_HOST_DEVICE void add_grad_edges(const SampleTap<W>& y, const SampleTap<W>& x, const TwoTaps<W>& y_taps,
                                    const TwoTaps<W>& x_taps, Apply&& apply, W (&grad_edges)[4]) {
  // A clamped sample has derivative 0: the pixel next to it may lie past the map.
  const W slope_y = follows_box(y) ? apply(moving_taps(W(1)), x_taps) : W(0);
  const W slope_x = follows_box(x) ? apply(y_taps, moving_taps(W(1))) : W(0);
  grad_edges[0] += x.by_low_edge * slope_x;
  grad_edges[1] += y.by_low_edge * slope_y;
  grad_edges[2] += x.by_high_edge * slope_x;
  grad_edges[3] += y.by_high_edge * slope_y;
}

}  // namespace roialign_ext
