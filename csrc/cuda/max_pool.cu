// Maximum of the interpolated samples of each bin, and its argmax (docs/math.md, section 5).
#include "axis_samples.cuh"
#include "families.cuh"
#include "tuning.cuh"
#include "work.cuh"

namespace roialign_ext::cuda {
namespace {

// No candidate so far: the next one wins, whatever its value.
constexpr int kNoArgmax = -2;

// Running maximum of one bin and channel. Candidates come by ascending sample index, so the first of equal values wins.
// NaN is larger than every number, and the first NaN wins.
template <class W>
struct Best {
  W value;
  int argmax;

  __device__ __forceinline__ void consider(W candidate, int sample) {
    const bool wins = candidate > value || (candidate != candidate && value == value) || argmax == kNoArgmax;
    value = wins ? candidate : value;
    argmax = wins ? sample : argmax;
  }
};

// Linear interpolation, rounded as on the CPU, so that both devices choose the same argmax.
template <class W>
__device__ __forceinline__ W interpolate(W fraction, W low, W high) {
  return add(multiply(W(1) - fraction, low), multiply(fraction, high));
}

// Samples of one bin along one axis.
template <class W>
struct BinSamples {
  const SampleTap<W>* samples;
  int count;
  Rejected rejected;

  __device__ __forceinline__ BinSamples(const AxisSamples<W>& axis, int64_t box, int p)
      : samples(axis.samples + box * axis.slots + axis.band(box, p).offset),
        count(axis.band(box, p).samples),
        rejected(axis.rejected[box * axis.bins + p]) {}
};

// A thread has one bin of one box and up to kMaxPoolChannels channels (WorkPlan), in packs of VEC.
template <class S, int VEC>
__global__ void __launch_bounds__(kThreads, kMaxPoolBlocks)
    max_pool(const __grid_constant__ CallArgs args, const __grid_constant__ Samples<typename Access<S>::W> samples,
             const WorkPlan plan) {
  using W = typename Access<S>::W;
  constexpr int kPacks = kMaxPoolChannels / VEC;
  const Work work = work_of(plan, int64_t(blockIdx.x) * kThreads + threadIdx.x, kMaxPoolChannels, args.channels, VEC);
  const Channels& channels = work.channels;
  if (channels.count <= 0) return;
  const Bin bin = bin_of(args, work.place);
  const int plane = samples.plane_of_box[bin.box];
  Best<W> best[kPacks][VEC];
  const auto consider = [&](const W(&candidates)[VEC], int sample, Best<W>(&bests)[VEC]) {
#pragma unroll
    for (int c = 0; c < VEC; ++c) bests[c].consider(candidates[c], sample);
  };
  // Rejected samples are candidates of value 0. By their index they come before all samples on the map, after the first
  // line of them, or after all.
  const auto consider_zero = [&] {
    const W zeros[VEC] = {};
#pragma unroll
    for (int i = 0; i < kPacks; ++i) consider(zeros, kRejected, best[i]);
  };
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
#pragma unroll
    for (int c = 0; c < VEC; ++c) best[i][c] = {plane < 0 ? W(NAN) : W(0), plane < 0 ? kRejected : kNoArgmax};
  }
  if (plane >= 0) {
    const View<void>& pixels = args.maps[plane / args.images].pixels;
    const int64_t step = channels.step * pixels.stride_c;
    const int64_t base = plane % args.images * pixels.stride_n + channels.first * pixels.stride_c;
    const BinSamples<W> ys(samples.y, bin.box, bin.p), xs(samples.x, bin.box, bin.q);
    if (ys.count == 0 || xs.count == 0 || ys.rejected.first || xs.rejected.first) consider_zero();
    for (int i = 0; i < ys.count && xs.count > 0; ++i) {
      const SampleTap<W> y = ys.samples[i];
      const int64_t row = base + y.low * pixels.stride_y;
      for (int j = 0; j < xs.count; ++j) {
        const SampleTap<W> x = xs.samples[j];
        // Interpolates along y. Pixels without weight are not read.
        const auto column = [&](int64_t top, W(&values)[VEC]) {
          Pack<S, VEC>::load(pixels.data, top, values);
          if (y.fraction == W(0)) return;
          W below[VEC];
          Pack<S, VEC>::load(pixels.data, top + pixels.stride_y, below);
#pragma unroll
          for (int c = 0; c < VEC; ++c) values[c] = interpolate(y.fraction, values[c], below[c]);
        };
        const int64_t at = row + x.low * pixels.stride_x;
#pragma unroll
        for (int k = 0; k < kPacks; ++k) {
          if (k >= channels.count) continue;
          W values[VEC];
          column(at + k * step, values);
          if (x.fraction != W(0)) {
            W right[VEC];
            column(at + k * step + pixels.stride_x, right);
#pragma unroll
            for (int c = 0; c < VEC; ++c) values[c] = interpolate(x.fraction, values[c], right[c]);
          }
          consider(values, make_argmax(i, j), best[k]);
        }
      }
      if (i == 0 && xs.rejected.later) consider_zero();
    }
    if (ys.rejected.later) consider_zero();
  }
  const View<void>& bins = args.bins;
  const View<int32_t>& argmax = args.argmax;  // aligned as the values are, so packs fit
  const int64_t at = bins.offset(bin.box, channels.first, bin.p, bin.q);
  const int64_t at_argmax = argmax.offset(bin.box, channels.first, bin.p, bin.q);
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    if (k >= channels.count) continue;
    W values[VEC];
    int32_t chosen[VEC];
#pragma unroll
    for (int c = 0; c < VEC; ++c) {
      values[c] = best[k][c].value;
      chosen[c] = best[k][c].argmax;
    }
    Pack<S, VEC>::store(bins.data, at + k * channels.step * bins.stride_c, values);
    typename WordOf<VEC * sizeof(int32_t)>::Type word;
    memcpy(&word, chosen, sizeof(word));
    *reinterpret_cast<decltype(word)*>(argmax.data + at_argmax + k * channels.step * argmax.stride_c) = word;
  }
}

}  // namespace

void enqueue_max_pool(const CallArgs& args, Scratch& scratch, Launcher& launcher) {
  with_storage(args.storage, [&](auto element) {
    using S = decltype(element);
    const auto samples = take_samples<typename Access<S>::W>(args, /*bins_of_pixel=*/false, scratch);
    if (scratch.counts_only()) return;
    build_samples(args, samples, BoxesByPlane{}, launcher);
    const WorkPlan plan = make_work_plan(args, args.boxes * args.bins_y * args.bins_x, kMaxPoolChannels);
    with_pack<S>(takes_packs<S>(args), [&](auto vec) {
      launcher.launch("max_pool", max_pool<S, vec.value>, blocks_for(plan.threads()), kThreads, 0, args, samples, plan);
    });
  });
}

}  // namespace roialign_ext::cuda
