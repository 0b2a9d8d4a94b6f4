// Average pooling of NCHW maps. A block has one box and 64 channels, a warp one line of bins. Lanes first are map
// columns, which they sum by the y table with coalesced loads. Then lanes are bins, which sum the columns from shared
// memory by the x table.
#include "average_pool.cuh"

namespace roialign_ext::cuda {
namespace {

// A lane sums kAveragePoolSetChannels channels of a column at once. Each bin has kAveragePoolGroups lanes, which split
// the channels. Narrow boxes leave lanes idle, so a warp then sums up to kAveragePoolGroups sets of channels side by
// side.
constexpr int kBinsAtOnce = kWarp / kAveragePoolGroups, kOfLane = kAveragePoolSetChannels / kAveragePoolGroups;
constexpr int kColumnPitch = kWarp + 1;  // of one channel's columns in shared memory; groups then use different banks
constexpr int kColumnsOfWarp = kAveragePoolSetChannels * kColumnPitch;

// Neighbouring bins whose taps touch at most kWarp distinct columns.
struct Run {
  int first_bin, first_column;
};

// In shared memory: the runs of a box with an end marker, and the pixel of each column. A slot is an index into
// columns.
struct Runs {
  Run* runs;
  int* columns;
  int* count;  // 0 if the box, or one bin, has too many taps
};

// Forms the runs of a box, and replaces the pixels of its taps by slots. One warp calls it.
template <class W>
__device__ __forceinline__ void form_runs(const StagedTaps<W>& x, int bins, int room, const Runs& runs) {
  const int lane = threadIdx.x % kWarp, rounds = (bins + kBinsAtOnce - 1) / kBinsAtOnce;
  const int bins_of_run = (bins + rounds - 1) / rounds;  // at most; runs are equally long
  int count = 0, column = 0;
  for (int first = 0; first < bins; ++count) {
    const int begin = x.begin(first);
    const bool fits = lane < bins_of_run && first + lane < bins && x.ends[first + lane] - begin <= kWarp;
    const int own = __popc(__ballot_sync(kAllLanes, fits));
    if (own == 0 || x.ends[bins - 1] > room) {
      if (lane == 0) *runs.count = 0;
      return;
    }
    const bool has_tap = begin + lane < x.ends[first + own - 1];
    const int pixel = has_tap ? x.taps[begin + lane].pixel : -1;
    int same = lane;  // the first lane with the same pixel
    for (int distance = 1; distance < kWarp; ++distance) {
      const int other = __shfl_up_sync(kAllLanes, pixel, distance);
      if (lane >= distance && other == pixel) same = lane - distance;
    }
    const bool is_first = has_tap && same == lane;
    const unsigned distinct = __ballot_sync(kAllLanes, is_first);
    const int slot = __popc(distinct & ((1u << same) - 1));
    if (has_tap) x.taps[begin + lane].pixel = slot;
    if (is_first) runs.columns[column + slot] = pixel;
    if (lane == 0) runs.runs[count] = {first, column};
    first += own;
    column += __popc(distinct);
  }
  if (lane == 0) {
    runs.runs[count] = {bins, column};
    *runs.count = count;
  }
}

// The channels of a block, and the destination of their results.
template <class S, class Offset>
struct Results {
  using W = typename Access<S>::W;
  S* to;  // the line of bins at the first channel, in shared memory or in the output
  Offset stride_c, stride_x;
  bool collected;

  __device__ __forceinline__ void store(int channel, int q, W value) const {
    S* const place = to + (channel * stride_c + q * stride_x);
    if (collected) {
      *place = static_cast<S>(value);
    } else {
      Access<S>::stream(place, 0, value);
    }
  }
};

// Sums kAveragePoolSetChannels channels of a column, `offset` elements after the row's begin. If fewer channels are
// left, the last one is repeated. If none is left, the sums are 0.
template <class S, class Offset, class W, class Rows>
__device__ __forceinline__ void sum_columns(const Rows& rows, Offset stride_c, Offset offset, int count, W* columns) {
#pragma unroll 1
  for (int c = 0; c < kAveragePoolSetChannels; c += kAveragePoolLoadsAtOnce) {
    W sums[kAveragePoolLoadsAtOnce] = {};
    if (c < count) {
      rows.add(StridedChannels<S, Offset, kAveragePoolLoadsAtOnce>(offset + c * stride_c, stride_c, count - c), sums);
    }
#pragma unroll
    for (int i = 0; i < kAveragePoolLoadsAtOnce; ++i) columns[(c + i) * kColumnPitch] = sums[i];
  }
}

// Pools a line of bins, one run at a time. `columns` is the warp's shared memory for sums of kAveragePoolSetChannels
// channels.
template <class S, class Offset, class W>
__device__ __forceinline__ void pool_staged(const S* map, const Slice<S, Offset>& pixels, const TapList<W>& ys,
                                            const StagedTaps<W>& x, const Runs& runs, int chunk, W* columns,
                                            const Results<S, Offset>& results) {
  const int lane = threadIdx.x % kWarp, group = lane / kBinsAtOnce;
#pragma unroll 1
  for (int r = 0; r < *runs.count; ++r) {
    const Run run = runs.runs[r], next = runs.runs[r + 1];
    const int distinct = next.first_column - run.first_column;
    int sets = kAveragePoolGroups;
    while (sets > 1 && kWarp / sets < distinct) sets /= 2;
    const int width = kWarp / sets, set = lane / width, own = lane % width;  // the lane's set and its column
    const bool has_column = own < distinct;
    const S* const top = map + (has_column ? runs.columns[run.first_column + own] * pixels.stride_x : 0);
    const int q = run.first_bin + lane % kBinsAtOnce;
    const bool has_bin = q < next.first_bin;
    const TapList<W> xs = has_bin ? x.list(q) : TapList<W>{};
    with_rows<S, kAveragePoolRowsAtOnceNchw>(top, pixels.stride_y, ys, [&](const auto& rows) {
#pragma unroll 1
      for (int channel = 0; channel < chunk; channel += sets * kAveragePoolSetChannels) {
        const int own_channel = channel + set * kAveragePoolSetChannels;
        const int count = chunk - own_channel < kAveragePoolSetChannels ? chunk - own_channel : kAveragePoolSetChannels;
        sum_columns<S>(rows, pixels.stride_c, own_channel * pixels.stride_c, has_column ? count : 0, columns + lane);
        __syncwarp();
        W sums[kAveragePoolGroups][kOfLane] = {};  // of channels group, group + kAveragePoolGroups, ... in every set
        const auto add = [&](const Tap<W>& tap) {
          const W* const summed = columns + group * kColumnPitch + tap.pixel;
#pragma unroll
          for (int s = 0; s < kAveragePoolGroups; ++s) {
            if (s >= sets) break;
#pragma unroll
            for (int i = 0; i < kOfLane; ++i) {
              sums[s][i] += tap.weight * summed[s * width + i * kAveragePoolGroups * kColumnPitch];
            }
          }
        };
        for (int k = 0; k < xs.count; ++k) add(xs.taps[k]);
        __syncwarp();
        if (!has_bin) continue;
#pragma unroll
        for (int s = 0; s < kAveragePoolGroups; ++s) {
          if (s >= sets) break;
#pragma unroll
          for (int i = 0; i < kOfLane; ++i) {
            const int c = channel + s * kAveragePoolSetChannels + group + i * kAveragePoolGroups;
            if (c < chunk) results.store(c, q, sums[s][i]);
          }
        }
      }
    });
  }
}

// The general case: several terms, samples outside the map, invalid boxes, and more taps than a run or shared memory
// holds. Columns are all pixels of the box's window, 32 at a time.
template <class S, class Offset, class W>
__device__ __forceinline__ void pool_listed(const CallArgs& args, const Products& products, const TapsByBin<W>& taps,
                                            const S* map, const Slice<S, Offset>& pixels, int box, int p, int plane,
                                            int chunk, W* columns, const Results<S, Offset>& results) {
  const int lane = threadIdx.x % kWarp, group = lane / kBinsAtOnce;
  const Span window = plane < 0 ? Span{} : taps.x.pixels[box];
#pragma unroll 1
  for (int channel = 0; channel < chunk; channel += kAveragePoolSetChannels) {
    const int count = chunk - channel < kAveragePoolSetChannels ? chunk - channel : kAveragePoolSetChannels;
#pragma unroll 1
    for (int first_bin = 0; first_bin < args.bins_x; first_bin += kBinsAtOnce) {
      const Bin bin = {box, p, first_bin + lane % kBinsAtOnce};
      const bool has_bin = bin.q < args.bins_x;
      W sums[kOfLane];  // of channels group, group + kAveragePoolGroups, ...
      const W start = plane < 0 ? W(NAN) : has_bin ? outside(args, taps, bin) : W(0);
#pragma unroll
      for (int i = 0; i < kOfLane; ++i) sums[i] = start;
#pragma unroll 1
      for (int t = 0; plane >= 0 && t < products.terms; ++t) {
        const TapList<W> ys = taps.y.list(box, products.term[t].y, p);
        const TapList<W> xs = has_bin ? taps.x.list(box, products.term[t].x, bin.q) : TapList<W>{};
        if (ys.count == 0) continue;  // nothing is read; avoids 0 * infinity
        int k = 0;                    // the bin's next tap
#pragma unroll 1
        for (int tile = window.begin; tile < window.end; tile += kWarp) {
          if (!__any_sync(kAllLanes, k < xs.count && xs.taps[k].pixel < tile + kWarp)) continue;
          const ListedRows<S, Offset, kAveragePoolRowsAtOnceNchw> rows = {map, pixels.stride_y, ys};
          sum_columns<S>(rows, pixels.stride_c, channel * pixels.stride_c + (tile + lane) * pixels.stride_x,
                         tile + lane < window.end ? count : 0, columns + lane);
          __syncwarp();
          for (; k < xs.count; ++k) {
            const Tap<W> tap = xs.taps[k];
            if (tap.pixel >= tile + kWarp) break;
            const W* const summed = columns + group * kColumnPitch + tap.pixel - tile;
#pragma unroll
            for (int i = 0; i < kOfLane; ++i) sums[i] += tap.weight * summed[i * kAveragePoolGroups * kColumnPitch];
          }
          __syncwarp();
        }
      }
      if (!has_bin) continue;
#pragma unroll
      for (int i = 0; i < kOfLane; ++i) {
        const int c = channel + group + i * kAveragePoolGroups;
        if (c < chunk) results.store(c, bin.q, sums[i]);
      }
    }
  }
}

// Boxes vary faster than chunks. So blocks that run concurrently share a range of channels, which may fit the L2 cache.
template <class S, class Offset>
__global__ void __launch_bounds__(kAveragePoolWarps* kWarp, kBlocksFor<S, Offset>)
    average_pool_nchw(const __grid_constant__ CallArgs args, const __grid_constant__ Products products,
                      const __grid_constant__ TapsByBin<typename Access<S>::W> taps, const BlockPlan plan) {
  using W = typename Access<S>::W;
  ROI_SHARED_BYTES(shared);
  const int bins_y = static_cast<int>(args.bins_y), bins_x = static_cast<int>(args.bins_x);
  const int warp = threadIdx.x / kWarp;
  S* const piece = reinterpret_cast<S*>(shared);
  W* const columns = reinterpret_cast<W*>(piece + kAveragePoolChunkNchw * plan.pitch);
  Tap<W>* const lists = reinterpret_cast<Tap<W>*>(columns + plan.warps * kColumnsOfWarp);
  int* const ends = reinterpret_cast<int*>(lists + plan.y_taps + plan.x_taps);
  const StagedTaps<W> y = {lists, ends}, x = {lists + plan.y_taps, ends + bins_y};
  Run* const first_run = reinterpret_cast<Run*>(ends + bins_y + bins_x);
  int* const run_columns = reinterpret_cast<int*>(first_run + bins_x + 1);
  const Runs runs = {first_run, run_columns, run_columns + plan.x_taps};
  const unsigned boxes = static_cast<unsigned>(args.boxes), chunk = blockIdx.x / boxes;
  const int box = static_cast<int>(blockIdx.x - chunk * boxes), plane = taps.plane_of_box[box];
  bool staged = plane >= 0 && plan.y_taps > 0;
  if (staged) {
    if (warp == 0) stage(taps.y, box, products.term[0].y, plan.y_taps, y);
    if (warp == plan.warps - 1) {
      stage(taps.x, box, products.term[0].x, plan.x_taps, x);
      __syncwarp();
      form_runs(x, bins_x, plan.x_taps, runs);
    }
    __syncthreads();
    staged = y.ends[bins_y - 1] <= plan.y_taps && *runs.count > 0;
  }
  const Slice<S, Offset> pixels = image_of_plane<S, Offset>(args, plane), bins(args.bins, box);
  const int64_t first_channel = int64_t(chunk) * kAveragePoolChunkNchw, left = args.channels - first_channel;
  const int channels = static_cast<int>(left < kAveragePoolChunkNchw ? left : kAveragePoolChunkNchw);
  const S* const map = static_cast<const S*>(pixels.data) + static_cast<Offset>(first_channel) * pixels.stride_c;
  S* const out = static_cast<S*>(bins.data) + static_cast<Offset>(first_channel) * bins.stride_c;
  for (int first = 0; first < bins_y; first += plan.warps) {
    const int p = first + warp;
    if (p < bins_y) {
      Results<S, Offset> results = {out + p * bins.stride_y, bins.stride_c, bins.stride_x, false};
      if (plan.pitch > 0) results = {piece + warp * bins_x, Offset(plan.pitch), Offset(1), true};
      W* const own = columns + warp * kColumnsOfWarp;
      if (staged) {
        pool_staged(map, pixels, y.list(p), x, runs, channels, own, results);
      } else {
        pool_listed(args, products, taps, map, pixels, box, p, plane, channels, own, results);
      }
    }
    if (plan.pitch == 0) continue;
    __syncthreads();
    const int lines = bins_y - first < plan.warps ? bins_y - first : plan.warps;
    write_piece(piece, plan.pitch, lines * bins_x, channels, out + first * bins_x, bins.stride_c);
    __syncthreads();
  }
}

}  // namespace

template <class S>
void launch_average_pool_nchw(const CallArgs& args, const Products& products,
                              const TapsByBin<typename Access<S>::W>& taps, Launcher& launcher) {
  using W = typename Access<S>::W;
  const BlockPlan plan = make_block_plan(
      args, products, taps, max_bins_collected(kAveragePoolPieceBytesNchw, kAveragePoolChunkNchw * sizeof(S)));
  // A block has 48 KB without cudaFuncSetAttribute.
  static_assert(kAveragePoolPieceBytesNchw + kAveragePoolWarps * kColumnsOfWarp * sizeof(W) +
                    2 * kAveragePoolListBytes + (2 * kAveragePoolListedBins + 1) * sizeof(int) +
                    (kAveragePoolListedBins + 1) * sizeof(Run) + kAveragePoolListBytes / sizeof(Tap<W>) * sizeof(int) <=
                48 * 1024);
  size_t bytes = kAveragePoolChunkNchw * plan.pitch * sizeof(S) + plan.warps * kColumnsOfWarp * sizeof(W);
  if (plan.y_taps > 0) {
    bytes += (plan.y_taps + plan.x_taps) * sizeof(Tap<W>) + (args.bins_y + args.bins_x) * sizeof(int) +
             (args.bins_x + 1) * sizeof(Run) + (plan.x_taps + 1) * sizeof(int);
  }
  with_offset(args, [&](auto offset) {
    launcher.launch("average_pool_nchw", average_pool_nchw<S, decltype(offset)>,
                    args.boxes * ((args.channels + kAveragePoolChunkNchw - 1) / kAveragePoolChunkNchw),
                    plan.warps * kWarp, bytes, args, products, taps, plan);
  });
}
template void launch_average_pool_nchw<float>(const CallArgs&, const Products&, const TapsByBin<float>&, Launcher&);
template void launch_average_pool_nchw<double>(const CallArgs&, const Products&, const TapsByBin<double>&, Launcher&);
template void launch_average_pool_nchw<__half>(const CallArgs&, const Products&, const TapsByBin<float>&, Launcher&);
template void launch_average_pool_nchw<__nv_bfloat16>(const CallArgs&, const Products&, const TapsByBin<float>&,
                                                      Launcher&);

}  // namespace roialign_ext::cuda
