// The transpose of average pooling, dF = Wy^T G Wx (docs/math.md, section 6), and of its derivatives along box
// directions.
#include "gather.cuh"
#include "kernels.h"

namespace roialign_ext::cuda {
namespace {

constexpr int64_t kManyBlocks = 512;  // a few for each multiprocessor of a large device

// The weight of a pixel in a bin, if the bin may touch it.
template <class W>
__device__ __forceinline__ W weight_of(const AxisTables<W>& axis, int64_t box, int t, int bin, int pixel) {
  const Band& band = axis.band(box, bin);
  return contains(band.pixels, pixel) ? axis.table(box, t)[band.offset + pixel] : W(0);
}

// What the bins of averages give to a pixel.
template <class S, class Offset, int CHANNELS>
struct AverageSource {
  using W = typename Access<S>::W;
  static constexpr int kChannels = CHANNELS, kBlocks = kBlocksFor<S, Offset>;
  Products products;
  Tables<W> tables;

  __device__ Span touched_y(int64_t box) const { return tables.y.pixels[box]; }
  __device__ Span touched_x(int64_t box) const { return tables.x.pixels[box]; }

  __device__ __forceinline__ void add(const CallArgs& args, int64_t box, int, int y, int x, const Channels& channels,
                                      W (&sums)[kChannels]) const {
    const Span y_bins = tables.y.bins_at(box, y), x_bins = tables.x.bins_at(box, x);
    const Image<S, Offset> bins(args.bins, box);
    const Offset base = static_cast<Offset>(channels.first) * bins.stride_c;
    for (int p = y_bins.begin; p < y_bins.end; ++p) {
      for (int q = x_bins.begin; q < x_bins.end; ++q) {
        W weight = W(0);
        for (int t = 0; t < products.terms; ++t) {
          const W wy = weight_of(tables.y, box, products.term[t].y, p, y);
          const W wx = weight_of(tables.x, box, products.term[t].x, q, x);
          if (wy != W(0) && wx != W(0)) weight += wy * wx;  // 0 times an infinite weight is not 0
        }
        if (weight == W(0)) continue;
        const Offset at = base + p * bins.stride_y + q * bins.stride_x;
        for_each_channel<kChannels>(
            channels.count, [&](int c) { sums[c] += weight * Access<S>::load(bins.data, at + c * bins.stride_c); });
      }
    }
  }
};

// Where channels lie together: a warp has one row of a tile and its lanes the channels, VEC of them each. Every bin
// column of a box is summed by the y table once, for all pixels of the row. Lanes fetch the weights of both tables, and
// shuffles or shared memory hand them to the whole warp.
constexpr int kTileColumns = 8, kBinsAtOnce = kWarp / kTileColumns;

template <class S, class Offset, int VEC>
__global__ void __launch_bounds__(kThreads, AverageSource<S, Offset, VEC>::kBlocks)
    spread_by_channels(const __grid_constant__ CallArgs args, const __grid_constant__ TileMap map, const Groups groups,
                       const __grid_constant__ AverageSource<S, Offset, VEC> source) {
  using W = typename Access<S>::W;
  const Products& products = source.products;
  const Tables<W>& tables = source.tables;
  ROI_SHARED_BYTES(shared);
  W* const weights = reinterpret_cast<W*>(shared + kNearBytes) + threadIdx.x / kWarp * kWarp;  // [bin][column]
  const Tile tile = tile_of(args, map, blockIdx.x);
  const MapArgs& level = args.maps[tile.level];
  const int lane = threadIdx.x % kWarp, y = tile.y.begin + static_cast<int>(threadIdx.x) / kWarp;
  const int own_bin = lane / kTileColumns, own_pixel = tile.x.begin + lane % kTileColumns;
  const Offset channel = static_cast<Offset>((tile.chunk * kWarp + lane) * VEC);
  const bool has_channels = channel < args.channels;
  const Offset read = has_channels ? channel : 0;  // lanes without channels read along, and write nothing
  W sums[kTileColumns][VEC] = {};
  const auto add = [&](int64_t box) {
    const Span y_bins = tables.y.bins_at(box, y);
    if (y_bins.begin == y_bins.end) return;
    Span x_bins = tables.x.bins_at(box, own_pixel);  // those of all pixels of the row, once the lanes have met
    if (x_bins.begin == x_bins.end) x_bins.begin = static_cast<int>(args.bins_x);
#pragma unroll
    for (int other = 1; other < kTileColumns; other *= 2) {
      const int begin = __shfl_xor_sync(kAllLanes, x_bins.begin, other);
      const int end = __shfl_xor_sync(kAllLanes, x_bins.end, other);
      x_bins = {begin < x_bins.begin ? begin : x_bins.begin, end > x_bins.end ? end : x_bins.end};
    }
    const Image<S, Offset> bins(args.bins, box);
    for (int t = 0; t < products.terms; ++t) {
      for (int y_first = y_bins.begin; y_first < y_bins.end; y_first += kWarp) {
        const int rows = y_bins.end - y_first < kWarp ? y_bins.end - y_first : kWarp;
        const W y_weight = lane < rows ? weight_of(tables.y, box, products.term[t].y, y_first + lane, y) : W(0);
        if (!__any_sync(kAllLanes, y_weight != W(0))) continue;
        for (int x_first = x_bins.begin; x_first < x_bins.end; x_first += kBinsAtOnce) {
          const bool has_bin = x_first + own_bin < x_bins.end;
          weights[lane] = has_bin ? weight_of(tables.x, box, products.term[t].x, x_first + own_bin, own_pixel) : W(0);
          __syncwarp();
#pragma unroll
          for (int pair = 0; pair < kBinsAtOnce; pair += 2) {
            if (x_first + pair >= x_bins.end) break;
            W column[2][VEC] = {};
            for (int i = 0; i < rows; ++i) {
              const W weight = __shfl_sync(kAllLanes, y_weight, i);
              if (weight == W(0)) continue;
              const Offset at = read * bins.stride_c + (y_first + i) * bins.stride_y + (x_first + pair) * bins.stride_x;
              W grads[2][VEC] = {};
              Pack<S, VEC>::load(bins.data, at, grads[0]);
              if (x_first + pair + 1 < x_bins.end) Pack<S, VEC>::load(bins.data, at + bins.stride_x, grads[1]);
#pragma unroll
              for (int j = 0; j < 2; ++j) {
#pragma unroll
                for (int c = 0; c < VEC; ++c) column[j][c] += weight * grads[j][c];
              }
            }
#pragma unroll
            for (int j = 0; j < 2; ++j) {
#pragma unroll
              for (int x = 0; x < kTileColumns; ++x) {
                const W weight = weights[(pair + j) * kTileColumns + x];
                if (weight == W(0)) continue;
#pragma unroll
                for (int c = 0; c < VEC; ++c) sums[x][c] += weight * column[j][c];
              }
            }
          }
          __syncwarp();
        }
      }
    }
  };
  for_each_near_box(args, groups, tile, source, shared, add);
  if (y >= level.height || !has_channels) return;
  const Image<S, Offset> pixels(level.pixels, tile.image);
  const Offset at = channel * pixels.stride_c + y * pixels.stride_y;
#pragma unroll
  for (int x = 0; x < kTileColumns; ++x) {
    if (tile.x.begin + x < level.width) {
      Pack<S, VEC>::store(pixels.data, at + (tile.x.begin + x) * pixels.stride_x, sums[x]);
    }
  }
}

}  // namespace

void spread_average(const CallArgs& args, Scratch& scratch, Launcher& launcher) {
  with_storage(args.storage, [&](auto element) {
    using S = decltype(element);
    using W = typename Access<S>::W;
    const Products products = average_products(args);
    const auto tables = take_tables<W>(args, products, /*by_pixel=*/true, scratch);
    const Groups groups = take_groups(args, scratch);
    if (scratch.counts_only()) return;
    build_tables(args, products, tables, groups, launcher);
    // Where there are few tiles, blocks take fewer channels, so that all multiprocessors have some.
    const auto has_many_blocks = [&](const TileMap& map, int channels) {
      return map.tiles * (args.channels / channels) >= kManyBlocks;
    };
    with_offset(args, [&](auto offset) {
      using Offset = decltype(offset);
      if (!channels_lie_together(args)) {
        constexpr int kMany = sizeof(W) == 8 ? 16 : 32, kFew = 8;
        if (has_many_blocks(make_tile_map(args, 16, 16), kMany)) {
          return launch_gather<S>(args, groups, AverageSource<S, Offset, kMany>{products, tables}, launcher);
        }
        return launch_gather<S>(args, groups, AverageSource<S, Offset, kFew>{products, tables}, launcher);
      }
      const TileMap map = make_tile_map(args, kWarps, kTileColumns);
      const auto spread = [&](auto vec) {
        const int64_t chunk = kWarp * vec.value, chunks = (args.channels + chunk - 1) / chunk;
        launcher.launch("spread_by_channels", spread_by_channels<S, Offset, vec.value>, map.tiles * chunks, kThreads,
                        kNearBytes + kThreads * sizeof(W), args, map, groups,
                        AverageSource<S, Offset, vec.value>{products, tables});
      };
      with_pack<S>(args, [&](auto vec) {
        if (has_many_blocks(map, kWarp * vec.value)) return spread(vec);
        spread(std::integral_constant<int, 1>());
      });
    });
  });
}

}  // namespace roialign_ext::cuda
