// Pooling with the argmax of a maximum fixed: each output is one bilinear sample, so the operator is linear in the
// features again (docs/math.md, section 5), with a transpose, a box gradient and derivatives along box directions.
#include <climits>

#include "gather.cuh"
#include "kernels.h"
#include "transpose.cuh"

namespace roialign_ext::cuda {
namespace {

// Weights of the two pixels of one axis of one sample.
template <class W>
struct TwoTaps {
  W low, high;
};

template <class W>
__device__ __forceinline__ TwoTaps<W> value_taps(const SampleTap<W>& sample) {
  return {W(1) - sample.fraction, sample.fraction};
}

// Derivative of the taps when the position moves at this rate.
template <class W>
__device__ __forceinline__ TwoTaps<W> moving_taps(W rate) {
  return {-rate, rate};
}

template <class W>
__device__ __forceinline__ bool follows_box(const SampleTap<W>& sample) {
  return sample.by_low_edge != W(0) || sample.by_high_edge != W(0);
}

// The winning sample of an output.
template <class W>
struct ChosenSample {
  bool found;  // not for a rejected sample, which moves nothing, nor for an index that the bin does not have
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

// How fast the sample moves along direction d of the box, which need not be finite.
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

// The pixels of a chosen sample with their weights: a product of y taps and x taps, or along directions the sum of two.
template <class W>
struct Stencil {
  W weight[2][2];

  __device__ __forceinline__ void add_product(const TwoTaps<W>& y, const TwoTaps<W>& x) {
    // Without weight there need not be a pixel, and 0 times infinity is not 0.
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

// The sum of a stencil over one plane of the map; `at` is the chosen sample's upper left pixel.
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

// A thread has one output (WorkMap).
template <class S>
__global__ void __launch_bounds__(kThreads)
    argmax_pool(const __grid_constant__ CallArgs args, const __grid_constant__ Samples<typename Access<S>::W> samples,
                const WorkMap map) {
  using W = typename Access<S>::W;
  const Work work = work_of(map, int64_t(blockIdx.x) * kThreads + threadIdx.x, 1, args.channels);
  if (work.channels.count <= 0) return;
  const Bin bin = bin_of(args, work.place);
  const int64_t channel = work.channels.first;
  const int plane = samples.plane_of_box[bin.box];
  W value = plane < 0 ? W(NAN) : W(0);
  if (plane >= 0) {
    const ChosenSample<W> chosen = chosen_sample(args, samples, bin, channel);
    if (chosen.found) {
      value = apply<S>(stencil_of(args, bin.box, chosen), args.maps[plane / args.images].pixels,
                       offset_of(args, plane, channel, chosen));
    }
  }
  const Elements<void>& bins = args.bins;
  Access<S>::store(bins.data,
                   bin.box * bins.stride_n + channel * bins.stride_c + bin.p * bins.stride_y + bin.q * bins.stride_x,
                   value);
}

// What for_each_near_box asks.
template <class W>
struct SampleReach {
  const Samples<W>& samples;

  __device__ Span touched_y(int64_t box) const { return samples.y.pixels[box]; }
  __device__ Span touched_x(int64_t box) const { return samples.x.pixels[box]; }
};

// The input gradient. A warp has a tile of one plane, kTilePixels of them, and 32 channels, one for each lane, whose
// sums are in shared memory: every bin near the tile is visited once, its sample found, and its pixels among those of
// the tile get their share. Each lane adds to sums of its own, in the order of the boxes and bins. Where there are
// fewer channels than warps, warps share a higher tile, whose list of boxes is then made once.
constexpr int kBlocks = 2;  // of a multiprocessor at least: with more some registers would be spilled
constexpr int kTileRows = 4, kPitch = kWarp + 1;
template <class W>
constexpr int kTileColumns = sizeof(W) == 8 ? 4 : 8;
template <class W>
constexpr int kTilePixels = kTileRows * kTileColumns<W>;

template <class S>
__global__ void __launch_bounds__(kThreads, kBlocks)
    argmax_grad_input(const __grid_constant__ CallArgs args, const __grid_constant__ TileMap map, int chunks_of_block,
                      const Groups groups, const __grid_constant__ Samples<typename Access<S>::W> samples) {
  using W = typename Access<S>::W;
  constexpr int kColumns = kTileColumns<W>, kPixels = kTilePixels<W>, kLanesOfAxis = kWarp / 2;
  ROI_SHARED_BYTES(shared);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  W* const sums = reinterpret_cast<W*>(shared + kNearBytes) + warp * (kPixels * kPitch);  // [pixel][lane]
  const Tile tile = tile_of(args, map, blockIdx.x);
  const MapArgs& level = args.maps[tile.level];
  const int top = tile.y.begin + warp / chunks_of_block * kTileRows, left = tile.x.begin;
  const int64_t first = (tile.chunk * chunks_of_block + warp % chunks_of_block) * kWarp, channel = first + lane;
  for (int i = 0; i < kPixels; ++i) sums[i * kPitch + lane] = W(0);
  for_each_near_box(args, groups, tile, SampleReach<W>{samples}, shared, [&](int box) {
    // The bins of the tile's rows and columns, found by a lane for each and put together.
    const bool is_y = lane < kLanesOfAxis;
    const int own = lane % kLanesOfAxis;
    Span bins = {INT_MAX, 0};
    if (is_y ? own < kTileRows : own < kColumns) {
      const Span found = is_y ? samples.y.bins_at(box, top + own) : samples.x.bins_at(box, left + own);
      if (found.begin < found.end) bins = found;
    }
#pragma unroll
    for (int other = 1; other < kLanesOfAxis; other *= 2) {
      const int begin = __shfl_xor_sync(kAllLanes, bins.begin, other);
      const int end = __shfl_xor_sync(kAllLanes, bins.end, other);
      bins = {begin < bins.begin ? begin : bins.begin, end > bins.end ? end : bins.end};
    }
    const Span y_bins = {__shfl_sync(kAllLanes, bins.begin, 0), __shfl_sync(kAllLanes, bins.end, 0)};
    const Span x_bins = {__shfl_sync(kAllLanes, bins.begin, kLanesOfAxis),
                         __shfl_sync(kAllLanes, bins.end, kLanesOfAxis)};
    if (channel >= args.channels) return;
    for (int p = y_bins.begin; p < y_bins.end; ++p) {
      for (int q = x_bins.begin; q < x_bins.end; ++q) {
        const ChosenSample<W> chosen = chosen_sample(args, samples, Bin{box, p, q}, channel);
        const int y = chosen.y.low - top, x = chosen.x.low - left;
        if (!chosen.found || y < -1 || y >= kTileRows || x < -1 || x >= kColumns) continue;
        const Stencil<W> stencil = stencil_of(args, box, chosen);
        const Elements<void>& grads = args.bins;
        const W grad = Access<S>::load(
            grads.data, box * grads.stride_n + channel * grads.stride_c + p * grads.stride_y + q * grads.stride_x);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const W weight = stencil.weight[i][j];
            if (weight == W(0) || y + i < 0 || y + i >= kTileRows || x + j < 0 || x + j >= kColumns) continue;
            sums[((y + i) * kColumns + x + j) * kPitch + lane] += weight * grad;
          }
        }
      }
    }
  });
  __syncwarp();
  // Lanes are channels where these lie together, and else pixels.
  const Elements<void>& pixels = level.pixels;
  const bool lanes_are_channels = pixels.stride_c == 1;
  for (int i = lane; i < kPixels * kWarp; i += kWarp) {
    const int pixel = lanes_are_channels ? i / kWarp : i % kPixels, c = lanes_are_channels ? lane : i / kPixels;
    const int64_t y = top + pixel / kColumns, x = left + pixel % kColumns;
    if (y >= level.height || x >= level.width || first + c >= args.channels) continue;
    Access<S>::store(
        pixels.data,
        tile.image * pixels.stride_n + (first + c) * pixels.stride_c + y * pixels.stride_y + x * pixels.stride_x,
        sums[pixel * kPitch + c]);
  }
}

// A block has one box, its threads share the outputs (WorkMap); see box_gradient.cu.
template <class S>
__global__ void __launch_bounds__(kThreads)
    argmax_grad_boxes(const __grid_constant__ CallArgs args,
                      const __grid_constant__ Samples<typename Access<S>::W> samples, const WorkMap map) {
  using W = typename Access<S>::W;
  ROI_SHARED_BYTES(shared);
  const int64_t box = blockIdx.x;
  const int plane = samples.plane_of_box[box];
  W by_edge[4] = {};
  const int64_t threads = plane < 0 ? 0 : map.threads();
  for (int64_t thread = threadIdx.x; thread < threads; thread += kThreads) {
    const Work work = work_of(map, thread, 1, args.channels);
    const int64_t channel = work.channels.first;
    if (work.channels.count <= 0) continue;
    Bin bin = bin_of(args, work.place);
    bin.box = box;
    const ChosenSample<W> chosen = chosen_sample(args, samples, bin, channel);
    if (!chosen.found) continue;
    TwoTaps<W> y_taps = value_taps(chosen.y), x_taps = value_taps(chosen.x);
    if (args.direction_count == 1) {
      y_taps = moving_taps(rate_along(args, 0, box, chosen.y, true));
      x_taps = moving_taps(rate_along(args, 0, box, chosen.x, false));
    }
    const Elements<void>&pixels = args.maps[plane / args.images].pixels, &bins = args.bins;
    const int64_t at = offset_of(args, plane, channel, chosen);
    const W grad = Access<S>::load(
        bins.data, box * bins.stride_n + channel * bins.stride_c + bin.p * bins.stride_y + bin.q * bins.stride_x);
    const auto along = [&](const TwoTaps<W>& y, const TwoTaps<W>& x) {
      Stencil<W> stencil = {};
      stencil.add_product(y, x);
      return grad * apply<S>(stencil, pixels, at);
    };
    // A clamped sample has no pixel beyond it to differ from.
    const W along_y = follows_box(chosen.y) ? along(moving_taps(W(1)), x_taps) : W(0);
    const W along_x = follows_box(chosen.x) ? along(y_taps, moving_taps(W(1))) : W(0);
    by_edge[0] += chosen.x.by_low_edge * along_x;
    by_edge[1] += chosen.y.by_low_edge * along_y;
    by_edge[2] += chosen.x.by_high_edge * along_x;
    by_edge[3] += chosen.y.by_high_edge * along_y;
  }
  const W sum = sum_over_block(by_edge, reinterpret_cast<W*>(shared));
  store_grad_boxes<4>(args, box, sum);
}

}  // namespace

void argmax_pool(const CallArgs& args, Scratch& scratch, Launcher& launcher) {
  with_storage(args.storage, [&](auto element) {
    using S = decltype(element);
    const auto samples = take_samples<typename Access<S>::W>(args, /*by_pixel=*/false, scratch);
    if (scratch.counts_only()) return;
    build_samples(args, samples, Groups{}, launcher);
    const WorkMap map = make_work_map(args, args.boxes * args.bins_y * args.bins_x, 1);
    launcher.launch("argmax_pool", argmax_pool<S>, blocks_for(map.threads()), kThreads, 0, args, samples, map);
  });
}

void argmax_grad_input(const CallArgs& given, Scratch& scratch, Launcher& launcher) {
  with_storage(given.storage, [&](auto element) {
    using S = decltype(element);
    using W = typename Access<S>::W;
    const auto samples = take_samples<W>(given, /*by_pixel=*/true, scratch);
    const Groups groups = take_groups(given, scratch);
    CallArgs args = given;
    const Sizes sizes = {args.boxes, args.channels, args.bins_y, args.bins_x};
    const bool copies = reads_channels_last(args) && args.bins.stride_c != 1;
    if (copies) args.bins = take_channels_last(args.storage, sizes, scratch);
    if (scratch.counts_only()) return;
    build_samples(args, samples, groups, launcher);
    if (copies) build_channels_last(args.storage, sizes, given.bins, args.bins, launcher);
    const int64_t chunks = (args.channels + kWarp - 1) / kWarp;
    int chunks_of_block = 1;
    while (chunks_of_block < kWarps && chunks_of_block < chunks) chunks_of_block *= 2;
    const TileMap map = make_tile_map(args, kWarps / chunks_of_block * kTileRows, kTileColumns<W>);
    launcher.launch("argmax_grad_input", argmax_grad_input<S>,
                    map.tiles * ((chunks + chunks_of_block - 1) / chunks_of_block), kThreads,
                    kNearBytes + kWarps * kTilePixels<W> * kPitch * sizeof(W), args, map, chunks_of_block, groups,
                    samples);
  });
}

void argmax_grad_boxes(const CallArgs& args, Scratch& scratch, Launcher& launcher) {
  with_storage(args.storage, [&](auto element) {
    using S = decltype(element);
    using W = typename Access<S>::W;
    const auto samples = take_samples<W>(args, /*by_pixel=*/false, scratch);
    if (scratch.counts_only()) return;
    build_samples(args, samples, Groups{}, launcher);
    const WorkMap map = make_work_map(args, args.bins_y * args.bins_x, 1);
    launcher.launch("argmax_grad_boxes", argmax_grad_boxes<S>, args.boxes, kThreads, kWarps * 4 * sizeof(W), args,
                    samples, map);
  });
}

}  // namespace roialign_ext::cuda
