// The maximum of the interpolated samples of each bin, and which sample it was (docs/math.md, section 5).
#include "kernels.h"
#include "work.cuh"

namespace roialign_ext::cuda {
namespace {

constexpr int kChannels = 4;  // of a thread
constexpr int kBlocks = 2;    // of a multiprocessor at least: with more some registers would be spilled

// No candidate yet: the first one wins, whatever it is.
constexpr int kNoWinner = -2;

// The running maximum of one bin and channel. Candidates come in the order of their sample index, so the first of equal
// ones stays; a NaN beats every number, and the first NaN stays.
template <class W>
struct Best {
  W value;
  int winner;

  __device__ __forceinline__ void consider(W candidate, int sample) {
    const bool wins = candidate > value || (candidate != candidate && value == value) || winner == kNoWinner;
    value = wins ? candidate : value;
    winner = wins ? sample : winner;
  }
};

// Between two values, rounded as on the CPU, so that winners are the same.
template <class W>
__device__ __forceinline__ W interpolate(W fraction, W low, W high) {
  return add(multiply(W(1) - fraction, low), multiply(fraction, high));
}

// The samples of one bin along one axis.
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

// A thread has one bin of one box and up to kChannels channels (WorkMap).
template <class S>
__global__ void __launch_bounds__(kThreads, kBlocks)
    max_pool(const __grid_constant__ CallArgs args, const __grid_constant__ Samples<typename Access<S>::W> samples,
             const WorkMap map) {
  using W = typename Access<S>::W;
  const Work work = work_of(map, int64_t(blockIdx.x) * kThreads + threadIdx.x, kChannels, args.channels);
  const Channels& channels = work.channels;
  if (channels.count <= 0) return;
  const Bin bin = bin_of(args, work.place);
  const int plane = samples.plane_of_box[bin.box];
  Best<W> best[kChannels];
#pragma unroll
  for (int c = 0; c < kChannels; ++c) best[c] = {plane < 0 ? W(NAN) : W(0), plane < 0 ? kRejected : kNoWinner};
  // A rejected sample is a candidate of value 0, in the place that its index has among the others: before all on the
  // map, after the first row of them, or after all.
  const auto consider_zero = [&] {
#pragma unroll
    for (int c = 0; c < kChannels; ++c) best[c].consider(W(0), kRejected);
  };
  if (plane >= 0) {
    const Elements<void>& pixels = args.maps[plane / args.images].pixels;
    const int64_t step = channels.step * pixels.stride_c;
    const int64_t base = plane % args.images * pixels.stride_n + channels.first * pixels.stride_c;
    const BinSamples<W> ys(samples.y, bin.box, bin.p), xs(samples.x, bin.box, bin.q);
    if (ys.count == 0 || xs.count == 0 || ys.rejected.first || xs.rejected.first) consider_zero();
    for (int i = 0; i < ys.count && xs.count > 0; ++i) {
      const SampleTap<W> y = ys.samples[i];
      const int64_t row = base + y.low * pixels.stride_y;
      for (int j = 0; j < xs.count; ++j) {
        const SampleTap<W> x = xs.samples[j];
        const int64_t at = row + x.low * pixels.stride_x;
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
          if (c >= channels.count) continue;
          // The column of the map between two rows, and between two of them: what has no weight is not read.
          const auto column = [&](int64_t top) {
            const W above = Access<S>::load(pixels.data, top);
            if (y.fraction == W(0)) return above;
            return interpolate(y.fraction, above, Access<S>::load(pixels.data, top + pixels.stride_y));
          };
          W candidate = column(at + c * step);
          if (x.fraction != W(0)) {
            candidate = interpolate(x.fraction, candidate, column(at + c * step + pixels.stride_x));
          }
          best[c].consider(candidate, make_winner(i, j));
        }
      }
      if (i == 0 && xs.rejected.later) consider_zero();
    }
    if (ys.rejected.later) consider_zero();
  }
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    if (c >= channels.count) continue;
    const int64_t channel = channels.first + c * channels.step;
    const Elements<void>& bins = args.bins;
    const Elements<int32_t>& winners = args.winners;
    Access<S>::store(bins.data,
                     bin.box * bins.stride_n + channel * bins.stride_c + bin.p * bins.stride_y + bin.q * bins.stride_x,
                     best[c].value);
    winners.data[bin.box * winners.stride_n + channel * winners.stride_c + bin.p * winners.stride_y +
                 bin.q * winners.stride_x] = best[c].winner;
  }
}

}  // namespace

void pool_maximum(const CallArgs& args, Scratch& scratch, Launcher& launcher) {
  with_storage(args.storage, [&](auto element) {
    using S = decltype(element);
    const auto samples = take_samples<typename Access<S>::W>(args, /*by_pixel=*/false, scratch);
    if (scratch.counts_only()) return;
    build_samples(args, samples, Groups{}, launcher);
    const WorkMap map = make_work_map(args, args.boxes * args.bins_y * args.bins_x, kChannels);
    launcher.launch("max_pool", max_pool<S>, blocks_for(map.threads()), kThreads, 0, args, samples, map);
  });
}

}  // namespace roialign_ext::cuda
