// Pooling with a fixed argmax (docs/math.md, section 5): code that argmax_pool.cu, argmax_grad_input.cu and
// argmax_grad_boxes.cu share. Each output is one bilinear sample, so the operator is linear in the features.
#pragma once

#include "axis_samples.cuh"
#include "families.cuh"
#include "work.cuh"

namespace roialign_ext::cuda {

// The sample that the argmax of an output names.
template <class W>
struct ArgmaxSample {
  bool found;  // false for rejected samples, which never move, and for an index that the bin does not have
  SampleTap<W> y, x;
};

template <class W>
__device__ __forceinline__ ArgmaxSample<W> argmax_sample(const CallArgs& args, const Samples<W>& samples,
                                                         const Bin& bin, int64_t channel) {
  const View<int32_t>& argmax = args.argmax;
  const int32_t index = argmax.data[argmax.offset(bin.box, channel, bin.p, bin.q)];
  const Band y = samples.y.band(bin.box, bin.p), x = samples.x.band(bin.box, bin.q);
  const unsigned sample_y = argmax_y(index), sample_x = argmax_x(index);
  if (sample_y >= static_cast<unsigned>(y.samples) || sample_x >= static_cast<unsigned>(x.samples)) return {};
  return {true, samples.y.samples[bin.box * samples.y.slots + y.offset + sample_y],
          samples.x.samples[bin.box * samples.x.slots + x.offset + sample_x]};
}

// Rates of a box as a function of the direction and the edge.
template <class W>
__device__ __forceinline__ auto rates_of(const CallArgs& args, int64_t box) {
  return [&args, box](int d, int edge) {
    const int64_t at = 5 * box + 1 + edge;
    return args.boxes_are_double ? static_cast<W>(static_cast<const double*>(args.directions[d])[at])
                                 : static_cast<W>(static_cast<const float*>(args.directions[d])[at]);
  };
}

// The weights of the four pixels of a sample. Those of its value are one product of y taps and x taps. Those of its
// derivative along directions are the sum of two products.
template <class W>
struct Stencil {
  W weight[2][2];

  __device__ __forceinline__ void add_product(const TwoTaps<W>& y, const TwoTaps<W>& x) {
    for_each_pixel(y, x, [&](int i, int j, W product) { weight[i][j] += product; });
  }
};

template <class W>
__device__ __forceinline__ Stencil<W> stencil_of(const CallArgs& args, int64_t box, const ArgmaxSample<W>& sample) {
  Stencil<W> stencil = {};
  const auto add = [&](const TwoTaps<W>& y, const TwoTaps<W>& x) { stencil.add_product(y, x); };
  if (args.direction_count == 0) {
    add(value_taps(sample.y), value_taps(sample.x));
  } else {
    for_each_derived_product(args.direction_count, sample.y, sample.x, rates_of<W>(args, box), add);
  }
  return stencil;
}

// The sum of the map's pixels, weighted by a stencil. `at` is the offset of its upper left pixel.
template <class S>
__device__ __forceinline__ typename Access<S>::W apply(const Stencil<typename Access<S>::W>& stencil,
                                                       const View<void>& pixels, int64_t at) {
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

// The offset of the upper left pixel of a sample.
template <class W>
__device__ __forceinline__ int64_t offset_of(const CallArgs& args, int plane, int64_t channel,
                                             const ArgmaxSample<W>& sample) {
  const View<void>& pixels = args.maps[plane / args.images].pixels;
  return pixels.offset(plane % args.images, channel, sample.y.low, sample.x.low);
}

}  // namespace roialign_ext::cuda
