// Average pooling of channels_last maps. A block has one box and a chunk of channels, a warp one line of bins, a lane
// VEC channels. Every map column that a line of bins takes is summed by the y table once, in registers. The bins then
// sum these columns by the x table.
#include "average_pool.cuh"

namespace roialign_ext::cuda {
namespace {

template <class S, class Offset, int VEC>
constexpr int kBlocks = sizeof(S) == 8 || sizeof(Offset) == 8 ? kFeatureBlocksWide : kAveragePoolBlocks - (VEC == 8);
template <class S, int VEC>
constexpr int64_t kMaxBinsCollected = max_bins_collected(kAveragePoolPieceBytes, kWarp * VEC * sizeof(S));

// Pools a line of bins from taps in shared memory. Neighbouring bins share at most two columns, so the last two are
// kept.
template <class S, int VEC, class Rows, class W, class Offset, class Store>
__device__ __forceinline__ void pool_staged(const Rows& rows, const StagedTaps<W>& x, Offset stride_x, int bins_x,
                                            Store&& store) {
  constexpr int kNoColumn = -1;
  W columns[2][VEC] = {};
  int held[2] = {kNoColumn, kNoColumn}, k = 0;
#pragma unroll 1
  for (int q = 0; q < bins_x; ++q) {
    W sums[VEC] = {};
    const int end = x.ends[q];
#pragma unroll 1
    for (; k < end; ++k) {
      const Tap<W> tap = x.taps[k];
      if (tap.pixel == held[0]) {
#pragma unroll
        for (int c = 0; c < VEC; ++c) sums[c] += tap.weight * columns[0][c];
        continue;
      }
      if (tap.pixel != held[1]) {
        held[0] = held[1];
        held[1] = tap.pixel;
#pragma unroll
        for (int c = 0; c < VEC; ++c) {
          columns[0][c] = columns[1][c];
          columns[1][c] = W(0);
        }
        rows.add(ContiguousChannels<S, VEC>(tap.pixel * stride_x), columns[1]);
      }
#pragma unroll
      for (int c = 0; c < VEC; ++c) sums[c] += tap.weight * columns[1][c];
    }
    store(q, sums);
  }
}

// The general case: several terms, samples outside the map, invalid boxes, and more taps than shared memory holds.
template <class S, int VEC, class W, class Offset, class Store>
__device__ __forceinline__ void pool_listed(const CallArgs& args, const Products& products, const TapsByBin<W>& taps,
                                            const S* map, Offset stride_y, Offset stride_x, int box, int p, int plane,
                                            Store&& store) {
#pragma unroll 1
  for (int q = 0; q < args.bins_x; ++q) {
    W sums[VEC];
    const W start = plane < 0 ? W(NAN) : outside(args, taps, Bin{box, p, q});
#pragma unroll
    for (int c = 0; c < VEC; ++c) sums[c] = start;
#pragma unroll 1
    for (int t = 0; plane >= 0 && t < products.terms; ++t) {
      const ListedRows<S, Offset, kAveragePoolRowsAtOnce> rows = {map, stride_y,
                                                                  taps.y.list(box, products.term[t].y, p)};
      const TapList<W> xs = taps.x.list(box, products.term[t].x, q);
      if (rows.taps.count == 0) continue;  // nothing is read; avoids 0 * infinity
#pragma unroll 1
      for (int k = 0; k < xs.count; ++k) {
        const Tap<W> tap = xs.taps[k];
        W column[VEC] = {};
        rows.add(ContiguousChannels<S, VEC>(tap.pixel * stride_x), column);
#pragma unroll
        for (int c = 0; c < VEC; ++c) sums[c] += tap.weight * column[c];
      }
    }
    store(q, sums);
  }
}

// Boxes vary faster than chunks. So blocks that run concurrently share a range of channels, which may fit the L2 cache.
template <class S, class Offset, int VEC>
__global__ void __launch_bounds__(kAveragePoolWarps* kWarp, kBlocks<S, Offset, VEC>)
    average_pool_channels_last(const __grid_constant__ CallArgs args, const __grid_constant__ Products products,
                               const __grid_constant__ TapsByBin<typename Access<S>::W> taps, const BlockPlan plan) {
  using W = typename Access<S>::W;
  constexpr int kChunk = kWarp * VEC;
  ROI_SHARED_BYTES(shared);
  S* const piece = reinterpret_cast<S*>(shared);
  Tap<W>* const lists = reinterpret_cast<Tap<W>*>(piece + kChunk * plan.pitch);
  int* const ends = reinterpret_cast<int*>(lists + plan.y_taps + plan.x_taps);
  const StagedTaps<W> y = {lists, ends}, x = {lists + plan.y_taps, ends + args.bins_y};
  const int bins_y = static_cast<int>(args.bins_y), bins_x = static_cast<int>(args.bins_x);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const unsigned boxes = static_cast<unsigned>(args.boxes), chunk = blockIdx.x / boxes;
  const int box = static_cast<int>(blockIdx.x - chunk * boxes), plane = taps.plane_of_box[box];
  bool staged = plane >= 0 && plan.y_taps > 0;
  if (staged) {
    if (warp == 0) stage(taps.y, box, products.term[0].y, plan.y_taps, y);
    if (warp == plan.warps - 1) stage(taps.x, box, products.term[0].x, plan.x_taps, x);
    __syncthreads();
    staged = y.ends[bins_y - 1] <= plan.y_taps && x.ends[bins_x - 1] <= plan.x_taps;
  }
  const Slice<S, Offset> pixels = image_of_plane<S, Offset>(args, plane), bins(args.bins, box);
  const int64_t first_channel = int64_t(chunk) * kChunk, left = args.channels - first_channel;
  const int own_channel = lane * VEC;
  const Offset channel = static_cast<Offset>(first_channel + own_channel);
  const S* const map = static_cast<const S*>(pixels.data) + channel * pixels.stride_c;
  for (int first = 0; first < bins_y; first += plan.warps) {
    const int p = first + warp;
    if (p < bins_y && own_channel < left) {
      S* const line = static_cast<S*>(bins.data) + (channel * bins.stride_c + p * bins.stride_y);
      const auto store = [&](int q, const W(&sums)[VEC]) {
        if (plan.pitch == 0) return Pack<S, VEC>::stream(line, q * bins.stride_x, sums);
        S* const own = piece + own_channel * plan.pitch + warp * bins_x + q;
#pragma unroll
        for (int c = 0; c < VEC; ++c) own[c * plan.pitch] = static_cast<S>(sums[c]);
      };
      if (staged) {
        with_rows<S, kAveragePoolRowsAtOnce>(map, pixels.stride_y, y.list(p), [&](const auto& rows) {
          pool_staged<S, VEC>(rows, x, pixels.stride_x, bins_x, store);
        });
      } else {
        pool_listed<S, VEC>(args, products, taps, map, pixels.stride_y, pixels.stride_x, box, p, plane, store);
      }
    }
    if (plan.pitch == 0) continue;
    __syncthreads();
    const int lines = bins_y - first < plan.warps ? bins_y - first : plan.warps;
    S* const out = static_cast<S*>(bins.data) + (first_channel * bins.stride_c + first * bins_x);
    write_piece(piece, plan.pitch, lines * bins_x, static_cast<int>(left < kChunk ? left : kChunk), out, bins.stride_c);
    __syncthreads();
  }
}

template <class S, class Offset, int VEC>
void launch(const CallArgs& args, const Products& products, const TapsByBin<typename Access<S>::W>& taps,
            Launcher& launcher) {
  using W = typename Access<S>::W;
  constexpr int64_t kChunk = kWarp * VEC;
  const BlockPlan plan = make_block_plan(args, products, taps, kMaxBinsCollected<S, VEC>);
  // A block has 48 KB without cudaFuncSetAttribute.
  static_assert(kAveragePoolPieceBytes + 2 * kAveragePoolListBytes + 2 * kAveragePoolListedBins * sizeof(int) <=
                48 * 1024);
  const size_t bytes = kChunk * sizeof(S) * plan.pitch + (plan.y_taps + plan.x_taps) * sizeof(Tap<W>) +
                       (plan.y_taps > 0 ? (args.bins_y + args.bins_x) * sizeof(int) : 0);
  launcher.launch("average_pool_channels_last", average_pool_channels_last<S, Offset, VEC>,
                  args.boxes * ((args.channels + kChunk - 1) / kChunk), plan.warps * kWarp, bytes, args, products, taps,
                  plan);
}

// Calls run(vec) with the number of channels that a lane loads at once: those of 16 or 8 bytes, or one.
template <class S, class Run>
void with_widest_pack(const CallArgs& args, Run&& run) {
  const auto fits = [&](auto vec) {
    return packs_fill_warp(args.channels, vec) && maps_have_packs<S>(args, vec) &&
           (has_packs<S>(args.bins, vec) || collects(args, kMaxBinsCollected<S, vec.value>));
  };
  constexpr std::integral_constant<int, 16 / sizeof(S)> kWidest{};
  constexpr std::integral_constant<int, 4> kFour{};
  if (fits(kWidest)) return run(kWidest);
  if constexpr (kWidest > kFour) {
    if (fits(kFour)) return run(kFour);
  }
  run(std::integral_constant<int, 1>());
}

}  // namespace

template <class S>
void launch_average_pool_channels_last(const CallArgs& args, const Products& products,
                                       const TapsByBin<typename Access<S>::W>& taps, Launcher& launcher) {
  with_offset(args, [&](auto offset) {
    with_widest_pack<S>(args,
                        [&](auto vec) { launch<S, decltype(offset), vec.value>(args, products, taps, launcher); });
  });
}
template void launch_average_pool_channels_last<float>(const CallArgs&, const Products&, const TapsByBin<float>&,
                                                       Launcher&);
template void launch_average_pool_channels_last<double>(const CallArgs&, const Products&, const TapsByBin<double>&,
                                                        Launcher&);
template void launch_average_pool_channels_last<__half>(const CallArgs&, const Products&, const TapsByBin<float>&,
                                                        Launcher&);
template void launch_average_pool_channels_last<__nv_bfloat16>(const CallArgs&, const Products&,
                                                               const TapsByBin<float>&, Launcher&);

}  // namespace roialign_ext::cuda
