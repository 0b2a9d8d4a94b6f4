// Average pooling, out = Wy F Wx^T (docs/math.md, section 4), and its derivatives along box directions. A warp has one
// row of bins of one box: every column of the map that the row touches is summed by the y table once, in registers or
// shared memory, and bins take their columns from there by the x table.
#include "kernels.h"
#include "work.cuh"

namespace roialign_ext::cuda {
namespace {

// What samples outside the map add to a bin: their share of the extrapolation value.
template <class W>
__device__ __forceinline__ W outside(const CallArgs& args, const Taps<W>& taps, const Bin& bin) {
  if (taps.y.on_map == nullptr) return W(0);
  const double samples = static_cast<double>(args.sampling_ratio) * static_cast<double>(args.sampling_ratio);
  const double inside = taps.y.on_map[bin.box * taps.y.bins + bin.p] * taps.x.on_map[bin.box * taps.x.bins + bin.q];
  const double share = (samples - inside) / samples;
  return share == 0 ? W(0) : static_cast<W>(args.extrapolation_value * share);  // 0 times infinity is not 0
}

// What a warp works on.
struct RowOfBins {
  int64_t chunk;  // of channels
  int box;
  int p, plane;  // -1 where nothing may be read
};

// Rows come before chunks: blocks that run at the same time share a slice of the channels of all maps, which may fit
// the cache, and a block the pixels of one box.
template <class W>
__device__ __forceinline__ RowOfBins row_of_bins(const CallArgs& args, const Taps<W>& taps) {
  const int64_t warp = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / kWarp, rows = args.boxes * args.bins_y;
  const int64_t chunk = warp / rows, row = warp - chunk * rows, box = row / args.bins_y;
  return {chunk, static_cast<int>(box), static_cast<int>(row - box * args.bins_y), taps.plane_of_box[box]};
}

// What the warp reads, if it may.
template <class S, class Offset>
__device__ __forceinline__ Image<S, Offset> image_of(const CallArgs& args, const RowOfBins& row) {
  return {args.maps[row.plane < 0 ? 0 : row.plane / args.images].pixels, row.plane < 0 ? 0 : row.plane % args.images};
}

int64_t blocks_for_rows(const CallArgs& args, int64_t channels_of_chunk) {
  const int64_t chunks = (args.channels + channels_of_chunk - 1) / channels_of_chunk;
  return blocks_for(args.boxes * args.bins_y * chunks * kWarp);
}

// Adds the rows of the map that the taps name, times their weights; load(row, values) reads one row. The loads of
// AT_ONCE rows are under way together.
template <int AT_ONCE, int N, class W, class Load>
__device__ __forceinline__ void add_rows(const TapList<W>& rows, Load&& load, W (&sums)[N]) {
  for (int first = 0; first < rows.count; first += AT_ONCE) {
    W weights[AT_ONCE], values[AT_ONCE][N];
#pragma unroll
    for (int i = 0; i < AT_ONCE; ++i) {
      if (first + i < rows.count) {
        const Tap<W> tap = rows.taps[first + i];
        weights[i] = tap.weight;
        load(tap.pixel, values[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < AT_ONCE; ++i) {
      if (first + i < rows.count) {
#pragma unroll
        for (int c = 0; c < N; ++c) sums[c] += weights[i] * values[i][c];
      }
    }
  }
}

// Where channels lie together: lanes are channels, VEC of them each. Neighbouring bins share at most two columns, so
// the last two are kept.
template <class S, class Offset, int VEC>
__global__ void __launch_bounds__(kThreads, kBlocksFor<S, Offset>)
    pool_by_channels(const __grid_constant__ CallArgs args, const __grid_constant__ Products products,
                     const __grid_constant__ Taps<typename Access<S>::W> taps) {
  using W = typename Access<S>::W;
  constexpr int kRowsAtOnce = 4, kNoColumn = -1;
  const RowOfBins row = row_of_bins(args, taps);
  const Offset channel = static_cast<Offset>((row.chunk * kWarp + threadIdx.x % kWarp) * VEC);
  if (channel >= args.channels) return;
  const Image<S, Offset> pixels = image_of<S, Offset>(args, row), bins(args.bins, row.box);
  const Offset base = channel * pixels.stride_c, at = channel * bins.stride_c + row.p * bins.stride_y;
  W columns[2][VEC] = {};
  int held[2] = {kNoColumn, kNoColumn};
  for (int q = 0; q < args.bins_x; ++q) {
    W sums[VEC];
    const W begin = row.plane < 0 ? W(NAN) : outside(args, taps, Bin{row.box, row.p, q});
#pragma unroll
    for (int c = 0; c < VEC; ++c) sums[c] = begin;
    for (int t = 0; row.plane >= 0 && t < products.terms; ++t) {
      const TapList<W> ys = taps.y.list(row.box, products.term[t].y, row.p);
      const TapList<W> xs = taps.x.list(row.box, products.term[t].x, q);
      if (ys.count == 0) continue;  // nothing is read then, and 0 times an infinite weight is not 0
      if (products.terms > 1) held[0] = held[1] = kNoColumn;
      for (int k = 0; k < xs.count; ++k) {
        const Tap<W> x = xs.taps[k];
        if (x.pixel == held[0]) {
#pragma unroll
          for (int c = 0; c < VEC; ++c) sums[c] += x.weight * columns[0][c];
          continue;
        }
        if (x.pixel != held[1]) {
          held[0] = held[1];
          held[1] = x.pixel;
#pragma unroll
          for (int c = 0; c < VEC; ++c) {
            columns[0][c] = columns[1][c];
            columns[1][c] = W(0);
          }
          const Offset column = base + x.pixel * pixels.stride_x;
          add_rows<kRowsAtOnce>(
              ys,
              [&](int y, W(&values)[VEC]) { Pack<S, VEC>::load(pixels.data, column + y * pixels.stride_y, values); },
              columns[1]);
        }
#pragma unroll
        for (int c = 0; c < VEC; ++c) sums[c] += x.weight * columns[1][c];
      }
    }
    Pack<S, VEC>::stream(bins.data, at + q * bins.stride_x, sums);
  }
}

// Where channels lie apart: lanes are first columns of the map, so that neighbours read neighbouring memory, and then
// bins. As bins need fewer lanes than columns do, they have GROUPS of lanes, which share the channels. Narrow boxes
// leave lanes to several sets of kChannels channels side by side, at most as many as there are groups.
constexpr int kChannels = 8;
constexpr int kPitch = kWarp + 1;  // of the columns of one channel in shared memory: groups read different banks

template <class S, class Offset, int GROUPS>
__global__ void __launch_bounds__(kThreads, kBlocksFor<S, Offset>)
    pool_by_columns(const __grid_constant__ CallArgs args, const __grid_constant__ Products products,
                    const __grid_constant__ Taps<typename Access<S>::W> taps) {
  using W = typename Access<S>::W;
  constexpr int kChunk = kChannels * GROUPS, kOfSet = kChannels / GROUPS;  // channels of a warp; of a set, of a lane
  constexpr int kBinsAtOnce = kWarp / GROUPS;
  ROI_SHARED_BYTES(shared);
  W* const columns = reinterpret_cast<W*>(shared) + threadIdx.x / kWarp * (kChannels * kPitch);  // [channel][lane]
  const int lane = threadIdx.x % kWarp, group = lane / kBinsAtOnce;
  const RowOfBins row = row_of_bins(args, taps);
  const Image<S, Offset> pixels = image_of<S, Offset>(args, row), bins(args.bins, row.box);
  const Span window = row.plane < 0 ? Span{} : taps.x.pixels[row.box];
  int sets = GROUPS;
  while (sets > 1 && kWarp / sets < window.end - window.begin) sets /= 2;
  const int width = kWarp / sets, set = lane / width, own = lane % width;  // a lane's set, its column of a tile
  const Offset first_channel = static_cast<Offset>(row.chunk) * kChunk;
  const int64_t left = args.channels - first_channel;
  const int chunk = left < kChunk ? static_cast<int>(left) : kChunk;
  for (int channel = 0; channel < chunk; channel += sets * kChannels) {
    const int own_channel = channel + set * kChannels;
    const int count = chunk - own_channel < kChannels ? chunk - own_channel : kChannels;
    for (int first_bin = 0; first_bin < args.bins_x; first_bin += kBinsAtOnce) {
      const Bin bin = {row.box, row.p, first_bin + lane % kBinsAtOnce};
      const bool has_bin = bin.q < args.bins_x;
      W sums[GROUPS][kOfSet];  // of channels group, group + GROUPS, ... of every set
      const W start = row.plane < 0 ? W(NAN) : has_bin ? outside(args, taps, bin) : W(0);
#pragma unroll
      for (int s = 0; s < GROUPS; ++s) {
#pragma unroll
        for (int i = 0; i < kOfSet; ++i) sums[s][i] = start;
      }
      for (int t = 0; row.plane >= 0 && t < products.terms; ++t) {
        const TapList<W> ys = taps.y.list(row.box, products.term[t].y, row.p);
        const TapList<W> xs = has_bin ? taps.x.list(row.box, products.term[t].x, bin.q) : TapList<W>{};
        if (ys.count == 0) continue;
        int k = 0;  // the next tap of the bin
        for (int tile = window.begin; tile < window.end; tile += width) {
          if (!__any_sync(kAllLanes, k < xs.count && xs.taps[k].pixel < tile + width)) continue;
          W column[kChannels] = {};
          if (tile + own < window.end && count > 0) {
            const Offset top = (first_channel + own_channel) * pixels.stride_c + (tile + own) * pixels.stride_x;
            add_rows<2>(
                ys,
                [&](int y, W(&values)[kChannels]) {
                  const Offset at = top + y * pixels.stride_y;
                  for_each_channel<kChannels>(
                      count, [&](int c) { values[c] = Access<S>::load(pixels.data, at + c * pixels.stride_c); });
                },
                column);
          }
#pragma unroll
          for (int c = 0; c < kChannels; ++c) columns[c * kPitch + lane] = column[c];
          __syncwarp();
          for (; k < xs.count; ++k) {
            const Tap<W> x = xs.taps[k];
            if (x.pixel >= tile + width) break;
            const W* const summed = columns + group * kPitch + x.pixel - tile;
#pragma unroll
            for (int s = 0; s < GROUPS; ++s) {
              if (s >= sets) break;
#pragma unroll
              for (int i = 0; i < kOfSet; ++i) sums[s][i] += x.weight * summed[s * width + i * GROUPS * kPitch];
            }
          }
          __syncwarp();
        }
      }
      if (!has_bin) continue;
      const Offset at = row.p * bins.stride_y + bin.q * bins.stride_x;
#pragma unroll
      for (int s = 0; s < GROUPS; ++s) {
#pragma unroll
        for (int i = 0; i < kOfSet; ++i) {
          const int c = channel + s * kChannels + group + i * GROUPS;
          if (s < sets && c < chunk) Access<S>::stream(bins.data, at + (first_channel + c) * bins.stride_c, sums[s][i]);
        }
      }
    }
  }
}

}  // namespace

void pool_average(const CallArgs& args, Scratch& scratch, Launcher& launcher) {
  with_storage(args.storage, [&](auto element) {
    using S = decltype(element);
    using W = typename Access<S>::W;
    const Products products = average_products(args);
    const auto taps = take_taps<W>(args, products, scratch);
    if (scratch.counts_only()) return;
    build_taps(args, products, taps, launcher);
    with_offset(args, [&](auto offset) {
      using Offset = decltype(offset);
      if (!channels_lie_together(args)) {
        const bool narrow = args.bins_x <= kWarp / 4;
        const auto kernel = narrow ? pool_by_columns<S, Offset, 4> : pool_by_columns<S, Offset, 2>;
        const int64_t blocks = blocks_for_rows(args, kChannels * (narrow ? 4 : 2));
        launcher.launch("pool_by_columns", kernel, blocks, kThreads, kWarps * kChannels * kPitch * sizeof(W), args,
                        products, taps);
        return;
      }
      with_pack<S>(args, [&](auto vec) {
        launcher.launch("pool_by_channels", pool_by_channels<S, Offset, vec.value>,
                        blocks_for_rows(args, kWarp * vec.value), kThreads, 0, args, products, taps);
      });
    });
  });
}

}  // namespace roialign_ext::cuda
