// Pooling with a fixed argmax. Each output is one bilinear sample, so the operator is linear in the features
// (docs/math.md, section 5). It has an input gradient, a gradient w.r.t. the boxes, and derivatives along box
// directions.
#pragma once

#include "axis_samples.cuh"
#include "kernels.h"
#include "work.cuh"

namespace roialign_ext::cuda {

// Weights of the two pixels of a sample, on one axis.
template <class W>
struct TwoTaps {
  W low, high;
};

template <class W>
__device__ __forceinline__ TwoTaps<W> value_taps(const SampleTap<W>& sample) {
  return {W(1) - sample.fraction, sample.fraction};
}

// Derivative of the taps if the position moves at this rate.
template <class W>
__device__ __forceinline__ TwoTaps<W> moving_taps(W rate) {
  return {-rate, rate};
}

template <class W>
__device__ __forceinline__ bool follows_box(const SampleTap<W>& sample) {
  return sample.by_low_edge != W(0) || sample.by_high_edge != W(0);
}

// The sample that the argmax of an output names.
template <class W>
struct ChosenSample {
  bool found;  // false for rejected samples, which never move, and for an index that the bin does not have
  SampleTap<W> y, x;
};

template <class W>
__device__ __forceinline__ ChosenSample<W> chosen_sample(const CallArgs& args, const Samples<W>& samples,
                                                         const Bin& bin, int64_t channel) {
  const Elements<int32_t>& argmax = args.argmax;
  const int32_t index = argmax.data[bin.box * argmax.stride_n + channel * argmax.stride_c + bin.p * argmax.stride_y +
                                    bin.q * argmax.stride_x];
  const Band y = samples.y.band(bin.box, bin.p), x = samples.x.band(bin.box, bin.q);
  const unsigned sample_y = argmax_y(index), sample_x = argmax_x(index);
  if (sample_y >= static_cast<unsigned>(y.samples) || sample_x >= static_cast<unsigned>(x.samples)) return {};
  return {true, samples.y.samples[bin.box * samples.y.slots + y.offset + sample_y],
          samples.x.samples[bin.box * samples.x.slots + x.offset + sample_x]};
}

// Rate of the sample's position along direction d of the box; may be infinite or NaN.
template <class W>
__device__ __forceinline__ W rate_along(const CallArgs& args, int d, int64_t box, const SampleTap<W>& sample,
                                        bool is_y) {
  const int64_t low = 5 * box + (is_y ? 2 : 1), high = low + 2;
  const auto rate = [&](int64_t at) {
    return args.wide_boxes ? static_cast<W>(static_cast<const double*>(args.directions[d])[at])
                           : static_cast<W>(static_cast<const float*>(args.directions[d])[at]);
  };
  return follows_box(sample) ? sample.by_low_edge * rate(low) + sample.by_high_edge * rate(high) : W(0);
}

// The four pixels of a sample with their weights: one product of y taps and x taps, or the sum of two along directions.
template <class W>
struct Stencil {
  W weight[2][2];

  __device__ __forceinline__ void add_product(const TwoTaps<W>& y, const TwoTaps<W>& x) {
    // A tap without weight may have no pixel, and 0 * infinity is not 0.
    weight[0][0] += y.low * x.low;
    if (x.high != W(0)) weight[0][1] += y.low * x.high;
    if (y.high == W(0)) return;
    weight[1][0] += y.high * x.low;
    if (x.high != W(0)) weight[1][1] += y.high * x.high;
  }
};

template <class W>
__device__ __forceinline__ Stencil<W> stencil_of(const CallArgs& args, int64_t box, const ChosenSample<W>& chosen) {
  Stencil<W> stencil = {};
  const auto y_taps = [&](int d) { return moving_taps(rate_along(args, d, box, chosen.y, true)); };
  const auto x_taps = [&](int d) { return moving_taps(rate_along(args, d, box, chosen.x, false)); };
  if (args.direction_count == 0) {
    stencil.add_product(value_taps(chosen.y), value_taps(chosen.x));
  } else if (args.direction_count == 1) {
    stencil.add_product(y_taps(0), value_taps(chosen.x));
    stencil.add_product(value_taps(chosen.y), x_taps(0));
  } else {
    stencil.add_product(y_taps(0), x_taps(1));
    stencil.add_product(y_taps(1), x_taps(0));
  }
  return stencil;
}

// The weighted sum of a stencil over one plane of the map; `at` is the offset of its upper left pixel.
template <class S>
__device__ __forceinline__ typename Access<S>::W apply(const Stencil<typename Access<S>::W>& stencil,
                                                       const Elements<void>& pixels, int64_t at) {
  using W = typename Access<S>::W;
  W sum = W(0);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const W weight = stencil.weight[i][j];
      if (weight != W(0)) {
        sum += weight * Access<S>::load(pixels.data, at + i * pixels.stride_y + j * pixels.stride_x);
      }
    }
  }
  return sum;
}

template <class W>
__device__ __forceinline__ int64_t offset_of(const CallArgs& args, int plane, int64_t channel,
                                             const ChosenSample<W>& chosen) {
  const Elements<void>& pixels = args.maps[plane / args.images].pixels;
  return plane % args.images * pixels.stride_n + channel * pixels.stride_c + chosen.y.low * pixels.stride_y +
         chosen.x.low * pixels.stride_x;
}

}  // namespace roialign_ext::cuda
