// Average pooling, out = Wy F Wx^T (docs/math.md, section 4), and its derivatives along box directions. This is code
// that the kernels of both layouts share.
#pragma once

#include <algorithm>

#include "axis_tables.cuh"
#include "families.cuh"
#include "tuning.cuh"
#include "work.cuh"

namespace roialign_ext::cuda {

// The image of a plane. An invalid box, whose plane is -1, has that of plane 0, and reads nothing.
template <class S, class Offset>
__device__ __forceinline__ Slice<S, Offset> image_of_plane(const CallArgs& args, int plane) {
  const unsigned images = static_cast<unsigned>(args.images), level = plane < 0 ? 0 : plane / images;
  return Slice<S, Offset>(args.maps[level].pixels, plane < 0 ? 0 : plane - level * images);
}

// Contribution of samples outside the map to a bin.
template <class W>
__device__ __forceinline__ W outside(const CallArgs& args, const TapsByBin<W>& taps, const Bin& bin) {
  if (taps.y.on_map == nullptr) return W(0);
  return extrapolated<W>(args.extrapolation_value, args.sampling_ratio, taps.y.on_map[bin.box * taps.y.bins + bin.p],
                         taps.x.on_map[bin.box * taps.x.bins + bin.q]);
}

// The taps of one axis of a box in shared memory, ordered by bin.
template <class W>
struct StagedTaps {
  Tap<W>* taps;
  int* ends;  // [bins]

  __device__ int begin(int p) const { return p == 0 ? 0 : ends[p - 1]; }
  __device__ TapList<W> list(int p) const { return {taps + begin(p), ends[p] - begin(p)}; }
};

// A warp copies the lists of an axis, one bin per lane. `ends` also counts taps that exceed the room.
template <class W>
__device__ __forceinline__ void stage(const AxisTapsByBin<W>& axis, int box, int table, int room,
                                      const StagedTaps<W>& staged) {
  const int lane = threadIdx.x % kWarp, bins = static_cast<int>(axis.bins);
  int before = 0;
  for (int first = 0; first < bins; first += kWarp) {
    const int p = first + lane;
    const TapList<W> list = p < bins ? axis.list(box, table, p) : TapList<W>{};
    int end = list.count;
    for (int distance = 1; distance < kWarp; distance *= 2) {
      const int sum = __shfl_up_sync(kAllLanes, end, distance);
      if (lane >= distance) end += sum;
    }
    end += before;
    if (p < bins) staged.ends[p] = end;
    if (end <= room) {
      for (int i = 0; i < list.count; ++i) staged.taps[end - list.count + i] = list.taps[i];
    }
    before = __shfl_sync(kAllLanes, end, kWarp - 1);
  }
}

// ContiguousChannels and StridedChannels are the channels of one row that a lane loads at once. Row addresses are
// integers: nvcc splits sums of pointers and adds their terms again for each load. These were 13 of 70 instructions for
// a column of four rows.

// VEC contiguous channels, `bytes` after the begin of the row.
template <class S, int VEC>
struct ContiguousChannels {
  using W = typename Access<S>::W;
  using Words = typename Pack<S, VEC>::Word;
  static constexpr int kChannels = VEC;
  uintptr_t bytes;

  template <class Offset>
  __device__ explicit ContiguousChannels(Offset offset) : bytes(static_cast<uintptr_t>(offset) * sizeof(S)) {}
  __device__ __forceinline__ void fetch(uintptr_t row, Words& words) const {
    words = Pack<S, VEC>::read(reinterpret_cast<const void*>(row + bytes), 0);
  }
  __device__ __forceinline__ void add(W weight, const Words& words, W (&sums)[VEC]) const {
    W values[VEC];
    Pack<S, VEC>::decode(words, values);
#pragma unroll
    for (int c = 0; c < VEC; ++c) sums[c] += weight * values[c];
  }
};

// N channels of an NCHW map; if fewer are left, the last one is repeated.
template <class S, class Offset, int N>
struct StridedChannels {
  using W = typename Access<S>::W;
  using Words = S[N];
  static constexpr int kChannels = N;
  uintptr_t bytes[N];

  __device__ StridedChannels(Offset offset, Offset stride_c, int count) {
#pragma unroll
    for (int c = 0; c < N; ++c) {
      bytes[c] = static_cast<uintptr_t>(offset + (c < count ? c : count - 1) * stride_c) * sizeof(S);
    }
  }
  __device__ __forceinline__ void fetch(uintptr_t row, Words& words) const {
#pragma unroll
    for (int c = 0; c < N; ++c) words[c] = __ldg(reinterpret_cast<const S*>(row + bytes[c]));
  }
  __device__ __forceinline__ void add(W weight, const Words& words, W (&sums)[N]) const {
#pragma unroll
    for (int c = 0; c < N; ++c) sums[c] += weight * static_cast<W>(words[c]);
  }
};

// Map rows that a line of bins takes, and their weights, in registers.
template <class S, class Offset, int ROWS>
struct HeldRows {
  using W = typename Access<S>::W;
  uintptr_t rows[ROWS];
  W weights[ROWS];

  __device__ __forceinline__ HeldRows(const S* map, Offset stride_y, const TapList<W>& taps) {
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
      const Tap<W> tap = taps.taps[i];
      rows[i] = reinterpret_cast<uintptr_t>(map + tap.pixel * stride_y);
      weights[i] = tap.weight;
    }
  }
  // Adds the weighted rows at `channels`. All loads are in flight together.
  template <class Channels>
  __device__ __forceinline__ void add(const Channels& channels, W (&sums)[Channels::kChannels]) const {
    typename Channels::Words words[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; ++i) channels.fetch(rows[i], words[i]);
#pragma unroll
    for (int i = 0; i < ROWS; ++i) channels.add(weights[i], words[i], sums);
  }
};

// The same for any number of rows; their taps stay in memory.
template <class S, class Offset, int AT_ONCE>
struct ListedRows {
  using W = typename Access<S>::W;
  const S* map;
  Offset stride_y;
  TapList<W> taps;

  template <class Channels>
  __device__ __forceinline__ void add(const Channels& channels, W (&sums)[Channels::kChannels]) const {
#pragma unroll 1
    for (int first = 0; first < taps.count; first += AT_ONCE) {
      typename Channels::Words words[AT_ONCE];
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i) {
        if (first + i < taps.count) {
          channels.fetch(reinterpret_cast<uintptr_t>(map + taps.taps[first + i].pixel * stride_y), words[i]);
        }
      }
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i) {
        if (first + i < taps.count) channels.add(taps.taps[first + i].weight, words[i], sums);
      }
    }
  }
};

// Calls run(rows): with HeldRows for two to four rows, as two samples of a bin take, and otherwise with ListedRows.
template <class S, int AT_ONCE, class Offset, class W, class Run>
__device__ __forceinline__ void with_rows(const S* map, Offset stride_y, const TapList<W>& taps, Run&& run) {
  if (taps.count == 2) return run(HeldRows<S, Offset, 2>(map, stride_y, taps));
  if (taps.count == 3) return run(HeldRows<S, Offset, 3>(map, stride_y, taps));
  if (taps.count == 4) return run(HeldRows<S, Offset, 4>(map, stride_y, taps));
  run(ListedRows<S, Offset, AT_ONCE>{map, stride_y, taps});
}

// Writes results collected in shared memory, [channel][bin of the block], `pitch` elements per channel. Each channel
// has `run` contiguous elements, and channels are stride_c apart. The whole block must call it.
template <class S>
__device__ __forceinline__ void write_piece(const S* piece, int pitch, int run, int channels, S* out,
                                            int64_t stride_c) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = static_cast<int>(blockDim.x) / kWarp;
  if (run == pitch && run == stride_c) {  // one contiguous piece
    constexpr int kWide = 16 / sizeof(S);
    const int count = channels * run, wide = reinterpret_cast<uintptr_t>(out) % 16 == 0 ? count / kWide : 0;
    for (int i = threadIdx.x; i < wide; i += blockDim.x) {
      __stcs(reinterpret_cast<uint4*>(out) + i, reinterpret_cast<const uint4*>(piece)[i]);
    }
    for (int i = wide * kWide + threadIdx.x; i < count; i += blockDim.x) __stcs(out + i, piece[i]);
    return;
  }
  for (int c = warp; c < channels; c += warps) {
    for (int i = lane; i < run; i += kWarp) __stcs(out + c * stride_c + i, piece[c * pitch + i]);
  }
}

// Shape of the blocks of a launch. A warp has one line of bins at a time.
struct BlockPlan {
  int warps;
  int y_taps, x_taps;  // room in shared memory for the taps of a box; 0: lists are read from the tables
  int pitch;           // of results collected for NCHW, in elements per channel; 0: results are stored one by one
};

// The largest number of bins of a block whose results fit in `bytes` of shared memory, `bin_bytes` per bin. The pitch
// is odd, so the channels of one bin use different banks.
constexpr int64_t max_bins_collected(int64_t bytes, int64_t bin_bytes) { return (bytes / bin_bytes - 1) | 1; }

// Whether results are collected in shared memory: the bins of a box must be contiguous NCHW.
inline bool collects(const CallArgs& args, int64_t max_bins) {
  const View<void>& bins = args.bins;
  return bins.stride_c != 1 && bins.stride_x == 1 && bins.stride_y == args.bins_x &&
         bins.stride_c == args.bins_y * args.bins_x && args.bins_x <= max_bins;
}

// Room for the taps of an axis. For a fixed grid it is the maximum; for other grids it is enough for most boxes.
template <class W>
int room_for_taps(const CallArgs& args, int64_t bins, int64_t MapArgs::* length) {
  constexpr int64_t kMaxTaps = kAveragePoolListBytes / sizeof(Tap<W>);
  const bool fixed = args.sampling_ratio > 0 && !is_integral(args.rule);
  const int64_t of_grid = fixed ? 2 * bins * std::min(args.sampling_ratio, kMaxTaps) : kMaxTaps;
  int64_t of_map = 0;
  for (int i = 0; i < args.levels; ++i) of_map = std::max(of_map, args.maps[i].*length + 2 * bins);
  return static_cast<int>(std::min({of_grid, of_map, kMaxTaps}));
}

template <class W>
BlockPlan make_block_plan(const CallArgs& args, const Products& products, const TapsByBin<W>& taps, int64_t max_bins) {
  BlockPlan plan = {};
  const bool collected = collects(args, max_bins);
  const int64_t max_warps =
      collected ? std::min<int64_t>(kAveragePoolWarps, max_bins / args.bins_x) : kAveragePoolWarps;
  const int64_t rounds = (args.bins_y + max_warps - 1) / max_warps;
  plan.warps = static_cast<int>((args.bins_y + rounds - 1) / rounds);  // rounds are equal, or nearly
  if (collected) plan.pitch = static_cast<int>(plan.warps * args.bins_x) | 1;
  // Tables of derivatives, and those of a call with values outside the map, are not staged.
  if (products.terms == 1 && taps.y.on_map == nullptr && std::max(args.bins_y, args.bins_x) <= kAveragePoolListedBins) {
    plan.y_taps = room_for_taps<W>(args, args.bins_y, &MapArgs::height);
    plan.x_taps = room_for_taps<W>(args, args.bins_x, &MapArgs::width);
  }
  return plan;
}

// Enqueues the kernel of a layout, after the tables: channels_last, and all other strides.
template <class S>
void launch_average_pool_channels_last(const CallArgs& args, const Products& products,
                                       const TapsByBin<typename Access<S>::W>& taps, Launcher& launcher);
template <class S>
void launch_average_pool_nchw(const CallArgs& args, const Products& products,
                              const TapsByBin<typename Access<S>::W>& taps, Launcher& launcher);

}  // namespace roialign_ext::cuda
