// grad_input of average pooling, dF = Wy^T G Wx (docs/math.md, section 6), and of its derivatives along box
// directions. A block has 8 x 8 pixels, a warp one row of them, a lane VEC channels. The warps first build the weights
// of up to eight boxes in shared memory, one box each. Then every warp visits the boxes that have weight in its row. It
// sums a column of bins by the y weights once, for all eight pixels.
#include <climits>

#include "axis_tables.cuh"
#include "families.cuh"
#include "tile_gather.cuh"
#include "transpose.cuh"
#include "tuning.cuh"

namespace roialign_ext::cuda {
namespace {

constexpr int kTileRows = kWarps, kTileColumns = 8;
constexpr int kQuad = kWarp / kTileColumns;  // weights per load; bins whose weights a warp loads at once

template <class W>
struct alignas(16) Quad {
  W at[kQuad];

  __device__ __forceinline__ bool has_weight() const {
    return at[0] != W(0) || at[1] != W(0) || at[2] != W(0) || at[3] != W(0);
  }
};

// Weights of one box in one tile, for one term (core/products.h) and at most kTableBins bins per axis.
template <class W>
struct BoxWeights {
  int64_t grads;              // offset of the top bin of the first bin column, in elements
  int columns, y_quads;       // bin columns of the tile; largest number of bins along y of a pixel row, in quads
  unsigned rows;              // bit y: pixel row y has weight (0 if no column has)
  int first_bin[kTileRows];   // first bin along y of each pixel row
  unsigned used[kTableBins];  // bit x: pixel column x has weight in this bin column
  Quad<W> x[kTableBins][kTileColumns / kQuad];
  Quad<W> y[kTableBins / kQuad][kTileRows];
};

// A warp writes the weights of one box. Several terms, or more than kTableBins bins, take several rounds. Returns
// whether another round follows.
template <class W>
__device__ __forceinline__ bool build_weights(const CallArgs& args, const Products& products,
                                              const WeightsByPixel<W>& tables, const Tile& tile, int64_t box, int round,
                                              BoxWeights<W>& weights) {
  const int lane = threadIdx.x % kWarp, own = lane % kTileColumns, own_bin = lane / kTileColumns;
  const int x = tile.x.begin + own, y = tile.y.begin + own;
  // Lanes 0 to 7 find the bins of the pixel columns, lanes 8 to 15 those of the pixel rows. Lanes 16 to 31 repeat this.
  const bool is_y = own_bin % 2 != 0;
  const AxisBands& axis = is_y ? static_cast<const AxisBands&>(tables.y) : tables.x;
  const Span found = axis.bins_at(box, is_y ? y : x);
  int begin = found.begin < found.end ? found.begin : INT_MAX, end = found.end, count = found.end - found.begin;
#pragma unroll
  for (int other = 1; other < kTileColumns; other *= 2) {
    begin = min(begin, __shfl_xor_sync(kAllLanes, begin, other));
    end = max(end, __shfl_xor_sync(kAllLanes, end, other));
    count = max(count, __shfl_xor_sync(kAllLanes, count, other));
  }
  Span columns = {__shfl_sync(kAllLanes, begin, 0), __shfl_sync(kAllLanes, end, 0)};  // bins of all pixel columns
  if (columns.begin >= columns.end) columns = {0, 0};
  Span bins_of_row = {__shfl_sync(kAllLanes, found.begin, kTileColumns + own),
                      __shfl_sync(kAllLanes, found.end, kTileColumns + own)};  // bins of pixel row `own`
  int most_bins = __shfl_sync(kAllLanes, count, kTileColumns);  // the largest number of bins of a pixel row
  const int x_rounds = (columns.end - columns.begin + kTableBins - 1) / kTableBins;
  const int rounds = products.terms * x_rounds * ((most_bins + kTableBins - 1) / kTableBins);
  int term = 0;
  if (round > 0 && round < rounds) {
    term = round % products.terms;
    const int piece = round / products.terms, y_round = piece / x_rounds;
    columns.begin += (piece - y_round * x_rounds) * kTableBins;
    bins_of_row.begin += y_round * kTableBins;
    most_bins -= y_round * kTableBins;
  }
  columns.end = min(columns.end, columns.begin + kTableBins);
  most_bins = min(most_bins, kTableBins);
  const W* const x_table = tables.x.table(box, products.term[term].x) + x;
  const W* const y_table = tables.y.table(box, products.term[term].y) + y;
  unsigned x_votes = 0, y_votes = 0;
  // Loads of both axes are in flight together.
#pragma unroll 1
  for (int first = 0; round < rounds && (first < columns.end - columns.begin || first < most_bins); first += kQuad) {
    const int bin = first + own_bin, q = columns.begin + bin, p = bins_of_row.begin + bin;
    Band x_band = {}, y_band = {};
    if (q < columns.end) x_band = tables.x.band(box, q);
    if (p < bins_of_row.end) y_band = tables.y.band(box, p);
    W x_weight = W(0), y_weight = W(0);
    if (contains(x_band.pixels, x)) x_weight = x_table[x_band.offset];
    if (contains(y_band.pixels, y)) y_weight = y_table[y_band.offset];
    const unsigned votes = __ballot_sync(kAllLanes, x_weight != W(0));
    x_votes |= votes;
    y_votes |= __ballot_sync(kAllLanes, y_weight != W(0));
    weights.x[bin][own / kQuad].at[own % kQuad] = x_weight;
    weights.y[first / kQuad][own].at[own_bin] = y_weight;
    if (own == 0) weights.used[bin] = votes >> lane & 0xff;
  }
  y_votes |= y_votes >> 16;
  y_votes |= y_votes >> 8;
  if (lane < kTileRows) weights.first_bin[lane] = bins_of_row.begin;
  if (lane == 0) {
    weights.grads = box * args.bins.stride_n + columns.begin * args.bins.stride_x;
    weights.columns = columns.end - columns.begin;
    weights.y_quads = (most_bins + kQuad - 1) / kQuad;
    weights.rows = x_votes != 0 ? y_votes & 0xff : 0;
  }
  return round + 1 < rounds;
}

// Adds one box to pixel row y of the tile. `grads` points to the lane's channels in the first bin of box 0.
template <class S, class Offset, int VEC, class W>
__device__ __forceinline__ void add_box(const Slice<S, Offset>& bins, const S* grads, const BoxWeights<W>& weights,
                                        int y, W (&sums)[kTileColumns][VEC]) {
  using Word = typename Pack<S, VEC>::Word;
  const int columns = weights.columns, y_quads = weights.y_quads;
  grads += weights.grads + weights.first_bin[y] * bins.stride_y;
  for (int quad = 0; quad < y_quads; ++quad, grads += kQuad * bins.stride_y) {
    const Quad<W> wy = weights.y[quad][y];
    if (!wy.has_weight()) continue;
    const S* grad = grads;
    for (int q = 0; q < columns; ++q, grad += bins.stride_x) {
      const unsigned used = weights.used[q];
      if (used == 0) continue;
      W column[VEC] = {};
      // Both loads of a pair are in flight together. Bins without weight are not read, which avoids 0 * infinity.
      const auto add_pair = [&](const S* first, W weight, W next_weight) {
        Word words[2] = {};
        if (weight != W(0)) words[0] = Pack<S, VEC>::read(first, 0);
        if (next_weight != W(0)) words[1] = Pack<S, VEC>::read(first, bins.stride_y);
        W values[VEC], next_values[VEC];
        Pack<S, VEC>::decode(words[0], values);
        Pack<S, VEC>::decode(words[1], next_values);
#pragma unroll
        for (int c = 0; c < VEC; ++c) column[c] += weight * values[c];
#pragma unroll
        for (int c = 0; c < VEC; ++c) column[c] += next_weight * next_values[c];
      };
      add_pair(grad, wy.at[0], wy.at[1]);
      if (wy.at[2] != W(0) || wy.at[3] != W(0)) add_pair(grad + 2 * bins.stride_y, wy.at[2], wy.at[3]);
#pragma unroll
      for (int half = 0; half < kTileColumns / kQuad; ++half) {
        if ((used >> half * kQuad & 0xf) == 0) continue;
        const Quad<W> wx = weights.x[q][half];
#pragma unroll
        for (int i = 0; i < kQuad; ++i) {
          if ((used >> (half * kQuad + i) & 1) == 0) continue;
#pragma unroll
          for (int c = 0; c < VEC; ++c) sums[half * kQuad + i][c] += wx.at[i] * column[c];
        }
      }
    }
  }
}

// Adds all boxes to the tile. A warp has one pixel row, a lane VEC channels from `channel` on.
template <class S, class Offset, int VEC, class W>
__device__ __forceinline__ void add_boxes(const CallArgs& args, const BoxesByPlane& by_plane, const Products& products,
                                          const WeightsByPixel<W>& tables, const Tile& tile, Offset channel,
                                          unsigned char* shared, W (&sums)[kTileColumns][VEC]) {
  static_assert(kTableBoxes == kWarps && kTileRows == kWarps);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  auto* const weights = reinterpret_cast<BoxWeights<W>*>(shared + kNearBytes);
  // Lanes after the last channel read channel 0 and store nothing.
  const Slice<S, Offset> bins(args.bins, 0);
  const S* const grads = static_cast<const S*>(bins.data) + (channel < args.channels ? channel : 0);
  for_each_near_batch<kTableBoxes>(
      args, by_plane, tile, NearBoxes<WeightsByPixel<W>>{tables}, shared, [&](const int* boxes, int count) {
        for (int round = 0;; ++round) {
          bool has_more = false;
          if (warp < count) {
            has_more = build_weights(args, products, tables, tile, boxes[warp], round, weights[warp]);
          } else if (lane == 0) {
            weights[warp].rows = 0;
          }
          __syncthreads();
          unsigned left = __ballot_sync(kAllLanes, lane < kTableBoxes && (weights[lane].rows >> warp & 1) != 0);
          for (; left != 0; left &= left - 1) {
            add_box<S, Offset, VEC>(bins, grads, weights[__ffs(static_cast<int>(left)) - 1], warp, sums);
          }
          if (!__syncthreads_or(has_more)) break;
        }
      });
}

template <class S, class Offset, int VEC>
__global__ void __launch_bounds__(kThreads, kBlocksFor<S, Offset>)
    average_grad_input_channels_last(const __grid_constant__ CallArgs args, const __grid_constant__ TilePlan plan,
                                     const BoxesByPlane by_plane, const __grid_constant__ Products products,
                                     const __grid_constant__ WeightsByPixel<typename Access<S>::W> tables) {
  using W = typename Access<S>::W;
  ROI_SHARED_BYTES(shared);
  const Tile tile = tile_of(args, plan, blockIdx.x);
  const Offset channel = static_cast<Offset>((tile.chunk * kWarp + threadIdx.x % kWarp) * VEC);
  W sums[kTileColumns][VEC] = {};
  add_boxes<S>(args, by_plane, products, tables, tile, channel, shared, sums);
  const MapArgs& map = args.maps[tile.level];
  const int y = tile.y.begin + static_cast<int>(threadIdx.x) / kWarp;
  if (y >= map.height || channel >= args.channels) return;
  const Slice<S, Offset> pixels(map.pixels, tile.image);
  const Offset at = channel + y * pixels.stride_y;
#pragma unroll
  for (int x = 0; x < kTileColumns; ++x) {
    if (tile.x.begin + x < map.width) {
      Pack<S, VEC>::store(pixels.data, at + (tile.x.begin + x) * pixels.stride_x, sums[x]);
    }
  }
}

// Results go through shared memory: eight lanes store the eight pixels of one channel, in float32 one whole sector.
constexpr int kPitch = kTileColumns + 1;  // of the pixels of a lane; odd, so that lanes write to different banks
template <class W>
constexpr size_t kTransposedBytes = kThreads * kPitch * sizeof(W);

template <class S, class Offset, int VEC>
__global__ void __launch_bounds__(kThreads, kBlocksFor<S, Offset>)
    average_grad_input_nchw(const __grid_constant__ CallArgs args, const __grid_constant__ TilePlan plan,
                            const BoxesByPlane by_plane, const __grid_constant__ Products products,
                            const __grid_constant__ WeightsByPixel<typename Access<S>::W> tables) {
  using W = typename Access<S>::W;
  ROI_SHARED_BYTES(shared);
  const Tile tile = tile_of(args, plan, blockIdx.x);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const Offset first = static_cast<Offset>(tile.chunk * kWarp * VEC);
  W sums[kTileColumns][VEC] = {};
  add_boxes<S>(args, by_plane, products, tables, tile, first + lane * VEC, shared, sums);
  const MapArgs& map = args.maps[tile.level];
  const int y = tile.y.begin + warp, x = tile.x.begin + lane % kTileColumns;
  if (y >= map.height) return;
  const Slice<S, Offset> pixels(map.pixels, tile.image);
  W* const transposed = reinterpret_cast<W*>(shared) + warp * kWarp * kPitch;
  const Offset at = y * pixels.stride_y + x * pixels.stride_x;
#pragma unroll
  for (int c = 0; c < VEC; ++c) {
#pragma unroll
    for (int i = 0; i < kTileColumns; ++i) transposed[lane * kPitch + i] = sums[i][c];
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kWarp; i += kWarp / kTileColumns) {
      const int other = i + lane / kTileColumns;
      const Offset channel = first + other * VEC + c;
      if (x < map.width && channel < args.channels) {
        Access<S>::store(pixels.data, at + channel * pixels.stride_c, transposed[other * kPitch + lane % kTileColumns]);
      }
    }
    __syncwarp();
  }
}

}  // namespace

void enqueue_average_grad_input(const CallArgs& original, Scratch& scratch, Launcher& launcher) {
  if (original.channels < kWarp) return enqueue_average_grad_input_few_channels(original, scratch, launcher);
  with_storage(original.storage, [&](auto element) {
    using S = decltype(element);
    using W = typename Access<S>::W;
    const Products products = average_products(original.rule, original.direction_count);
    const auto tables = take_weights_by_pixel<W>(original, products, /*bins_of_pixel=*/true, scratch);
    const BoxesByPlane by_plane = take_boxes_by_plane(original, scratch);
    // Lanes are channels, so an NCHW gradient is copied to channels_last. Reading it per channel would be uncoalesced
    // in every tile.
    CallArgs args = original;
    const Shape shape = {args.boxes, args.channels, args.bins_y, args.bins_x};
    const bool copies = args.bins.stride_c != 1;
    if (copies) args.bins = take_channels_last(args.storage, shape, scratch);
    if (scratch.counts_only()) return;
    build_weights_by_pixel(args, products, tables, by_plane, launcher);
    if (copies) build_channels_last(args.storage, shape, original.bins, args.bins, launcher);
    const bool is_nchw = args.maps[0].pixels.stride_c != 1;
    // The padding of a copy may be read, and NCHW maps are stored element by element.
    const bool packs = packs_fill_warp(copies ? args.bins.stride_x : args.channels, kPack<S>) &&
                       has_packs<S>(args.bins, kPack<S>) && (is_nchw || maps_have_packs<S>(args, kPack<S>));
    const TilePlan plan = make_tile_plan(args, kTileRows, kTileColumns);
    with_offset(args, [&](auto offset) {
      using Offset = decltype(offset);
      const auto run = [&](auto vec) {
        constexpr int kVec = vec.value;
        const int64_t chunk = kWarp * kVec, blocks = plan.tiles * ((args.channels + chunk - 1) / chunk);
        const size_t shared_bytes = kNearBytes + kTableBoxes * sizeof(BoxWeights<W>);
        if (is_nchw) {
          launcher.launch("average_grad_input_nchw", average_grad_input_nchw<S, Offset, kVec>, blocks, kThreads,
                          shared_bytes > kTransposedBytes<W> ? shared_bytes : kTransposedBytes<W>, args, plan, by_plane,
                          products, tables);
        } else {
          launcher.launch("average_grad_input_channels_last", average_grad_input_channels_last<S, Offset, kVec>, blocks,
                          kThreads, shared_bytes, args, plan, by_plane, products, tables);
        }
      };
      with_pack<S>(packs, [&](auto vec) {
        // With few tiles, blocks take fewer channels, so that every multiprocessor has work.
        if (plan.tiles * (args.channels / (kWarp * vec.value)) >= kManyBlocks) return run(vec);
        run(std::integral_constant<int, 1>());
      });
    });
  });
}

}  // namespace roialign_ext::cuda
