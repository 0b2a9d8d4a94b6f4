// Average pooling, out = Wy F Wx^T (docs/math.md, section 4), its derivatives along box directions, and the transposes
// of all of them.
#include "gather.cuh"
#include "kernels.h"

namespace roialign_ext::cuda {
namespace {

constexpr int kChannels = 8;  // of a thread

// What samples outside the map add to a bin: their share of the extrapolation value.
template <class W>
__device__ __forceinline__ W outside(const CallArgs& args, const Tables<W>& tables, const Bin& bin) {
  if (tables.y.on_map == nullptr) return W(0);
  const double samples = static_cast<double>(args.sampling_ratio) * static_cast<double>(args.sampling_ratio);
  const double inside =
      tables.y.on_map[bin.box * tables.y.bins + bin.p] * tables.x.on_map[bin.box * tables.x.bins + bin.q];
  const double share = (samples - inside) / samples;
  return share == 0 ? W(0) : static_cast<W>(args.extrapolation_value * share);  // 0 times infinity is not 0
}

// Where channels lie together: a warp has one bin of one box and its lanes the channels, up to kChannels each
// (WorkMap). Pixels are read row by row, where both tables have weight.
template <class S>
__global__ void __launch_bounds__(kThreads)
    pool_by_channels(const __grid_constant__ CallArgs args, const __grid_constant__ Products products,
                     const __grid_constant__ Tables<typename Access<S>::W> tables, const WorkMap map) {
  using W = typename Access<S>::W;
  const Work work = work_of(map, int64_t(blockIdx.x) * kThreads + threadIdx.x, kChannels, args.channels);
  const Channels& channels = work.channels;
  if (channels.count <= 0) return;
  const Bin bin = bin_of(args, work.place);
  const int plane = tables.plane_of_box[bin.box];
  W sums[kChannels];
  const W begin = plane < 0 ? W(NAN) : outside(args, tables, bin);
#pragma unroll
  for (int c = 0; c < kChannels; ++c) sums[c] = begin;
  if (plane >= 0) {
    const Elements<void>& pixels = args.maps[plane / args.images].pixels;
    const int64_t image = plane % args.images, step = channels.step * pixels.stride_c;
    const int64_t base = image * pixels.stride_n + channels.first * pixels.stride_c;
    const Band y_band = tables.y.band(bin.box, bin.p), x_band = tables.x.band(bin.box, bin.q);
    for (int t = 0; t < products.terms; ++t) {
      const W* const y_weights = tables.y.table(bin.box, products.term[t].y) + y_band.offset;
      const W* const x_weights = tables.x.table(bin.box, products.term[t].x) + x_band.offset;
      for (int y = y_band.pixels.begin; y < y_band.pixels.end; ++y) {
        const W y_weight = y_weights[y];
        if (y_weight == W(0)) continue;
        const int64_t row = base + y * pixels.stride_y;
        for (int x = x_band.pixels.begin; x < x_band.pixels.end; ++x) {
          const W x_weight = x_weights[x];
          if (x_weight == W(0)) continue;
          const W weight = y_weight * x_weight;
          const int64_t at = row + x * pixels.stride_x;
#pragma unroll
          for (int c = 0; c < kChannels; ++c) {
            if (c < channels.count) sums[c] += weight * Access<S>::load(pixels.data, at + c * step);
          }
        }
      }
    }
  }
  const Elements<void>& bins = args.bins;
  const int64_t at =
      bin.box * bins.stride_n + channels.first * bins.stride_c + bin.p * bins.stride_y + bin.q * bins.stride_x;
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    if (c < channels.count) Access<S>::store(bins.data, at + c * channels.step * bins.stride_c, sums[c]);
  }
}

// Where channels lie apart: a warp has one row of bins of one box, and kChannels channels. Its lanes are first columns
// of the map, 32 at a time, each summed by the y table, so that every pixel is read once and neighbours together; then
// bins, whose sums by the x table read the columns from shared memory. As bins need fewer lanes than columns do, the
// channels are divided among `groups` of lanes of kWarp / groups bins each, the power of two that holds a row of bins.
constexpr int kPitch = kWarp + 1;  // of the columns of one channel in shared memory: groups read different banks

template <class S>
__global__ void __launch_bounds__(kThreads)
    pool_by_rows(const __grid_constant__ CallArgs args, const __grid_constant__ Products products,
                 const __grid_constant__ Tables<typename Access<S>::W> tables, int groups) {
  using W = typename Access<S>::W;
  ROI_SHARED_BYTES(shared);
  const int lane = threadIdx.x % kWarp, bins_at_once = kWarp / groups, group = lane / bins_at_once;
  W* const columns = reinterpret_cast<W*>(shared) + threadIdx.x / kWarp * (kChannels * kPitch);  // [channel][column]
  const int64_t warp = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / kWarp, rows = args.boxes * args.bins_y;
  const int64_t chunk = warp / rows, row = warp - chunk * rows;
  const Channels channels = channels_of(/*lanes_are_channels=*/false, chunk, lane, kChannels, args.channels);
  if (channels.count <= 0) return;
  Bin bin = {row / args.bins_y, static_cast<int>(row % args.bins_y), 0};
  const int plane = tables.plane_of_box[bin.box];
  const Elements<void>&pixels = args.maps[plane < 0 ? 0 : plane / args.images].pixels, &bins = args.bins;
  const int64_t image = plane < 0 ? 0 : plane % args.images;
  const int64_t base = image * pixels.stride_n + channels.first * pixels.stride_c;
  const Span window = plane < 0 ? Span{} : tables.x.pixels[bin.box];
  for (int first = 0; first < args.bins_x; first += bins_at_once) {
    bin.q = first + lane % bins_at_once;
    const bool has_bin = bin.q < args.bins_x;
    const Band y_band = plane < 0 ? Band{} : tables.y.band(bin.box, bin.p);
    const Band x_band = plane < 0 || !has_bin ? Band{} : tables.x.band(bin.box, bin.q);
    W sums[kChannels];  // of channels group, group + groups, ...
    const W begin = plane < 0 ? W(NAN) : has_bin ? outside(args, tables, bin) : W(0);
#pragma unroll
    for (int i = 0; i < kChannels; ++i) sums[i] = begin;
    for (int t = 0; t < products.terms; ++t) {
      const W* const y_weights = tables.y.table(bin.box, products.term[t].y) + y_band.offset;
      const W* const x_weights = tables.x.table(bin.box, products.term[t].x) + x_band.offset;
      for (int left = window.begin; left < window.end; left += kWarp) {
        const Span tile = {left, left + kWarp < window.end ? left + kWarp : window.end};
        if (!__any_sync(kAllLanes, overlap(x_band.pixels, tile))) continue;
        W column[kChannels] = {};
        if (left + lane < tile.end) {
          for (int y = y_band.pixels.begin; y < y_band.pixels.end; ++y) {
            const W weight = y_weights[y];
            if (weight == W(0)) continue;
            const int64_t at = base + y * pixels.stride_y + (left + lane) * pixels.stride_x;
#pragma unroll
            for (int c = 0; c < kChannels; ++c) {
              if (c < channels.count) column[c] += weight * Access<S>::load(pixels.data, at + c * pixels.stride_c);
            }
          }
        }
#pragma unroll
        for (int c = 0; c < kChannels; ++c) columns[c * kPitch + lane] = column[c];
        __syncwarp();
        const int end = x_band.pixels.end < tile.end ? x_band.pixels.end : tile.end;
        for (int x = x_band.pixels.begin > left ? x_band.pixels.begin : left; x < end; ++x) {
          const W weight = x_weights[x];
          if (weight == W(0)) continue;
#pragma unroll
          for (int i = 0; i < kChannels; ++i) {
            const int c = group + i * groups;
            if (c < kChannels) sums[i] += weight * columns[c * kPitch + x - left];
          }
        }
        __syncwarp();
      }
    }
    if (!has_bin) continue;
    const int64_t at =
        bin.box * bins.stride_n + channels.first * bins.stride_c + bin.p * bins.stride_y + bin.q * bins.stride_x;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      const int c = group + i * groups;
      if (c < channels.count) Access<S>::store(bins.data, at + c * bins.stride_c, sums[i]);
    }
  }
}

// What the bins of averages give to a pixel.
template <class S>
struct AverageSource {
  using W = typename Access<S>::W;
  static constexpr int kChannels = 8, kBlocks = sizeof(W) == 8 ? 2 : 3;
  Products products;
  Tables<W> tables;

  __device__ Span touched_y(int64_t box) const { return tables.y.pixels[box]; }
  __device__ Span touched_x(int64_t box) const { return tables.x.pixels[box]; }

  __device__ __forceinline__ void add(const CallArgs& args, int64_t box, int, int y, int x, const Channels& channels,
                                      W (&sums)[kChannels]) const {
    const Span y_bins = tables.y.bins_at(box, y), x_bins = tables.x.bins_at(box, x);
    const Elements<void>& bins = args.bins;
    const int64_t base = box * bins.stride_n + channels.first * bins.stride_c, step = channels.step * bins.stride_c;
    for (int p = y_bins.begin; p < y_bins.end; ++p) {
      const Band y_band = tables.y.band(box, p);
      if (!contains(y_band.pixels, y)) continue;
      for (int q = x_bins.begin; q < x_bins.end; ++q) {
        const Band x_band = tables.x.band(box, q);
        if (!contains(x_band.pixels, x)) continue;
        W weight = W(0);
        for (int t = 0; t < products.terms; ++t) {
          weight += tables.y.table(box, products.term[t].y)[y_band.offset + y] *
                    tables.x.table(box, products.term[t].x)[x_band.offset + x];
        }
        if (weight == W(0)) continue;
        const int64_t at = base + p * bins.stride_y + q * bins.stride_x;
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
          if (c < channels.count) sums[c] += weight * Access<S>::load(bins.data, at + c * step);
        }
      }
    }
  }
};

}  // namespace

void pool_average(const CallArgs& args, Scratch& scratch, cudaStream_t stream) {
  with_storage(args.storage, [&](auto element) {
    using S = decltype(element);
    using W = typename Access<S>::W;
    const Products products = average_products(args);
    const auto tables = take_tables<W>(args, products, /*by_pixel=*/false, scratch);
    if (scratch.counts_only()) return;
    build_tables(args, products, tables, stream);
    const WorkMap map = make_work_map(args, args.boxes * args.bins_y * args.bins_x, kChannels);
    if (map.lanes_are_channels) {
      launch(pool_by_channels<S>, blocks_for(map.threads()), kThreads, 0, stream, args, products, tables, map);
    } else {
      int groups = kChannels;
      while (groups > 1 && kWarp / groups < args.bins_x) groups /= 2;
      const int64_t warps = args.boxes * args.bins_y * map.chunks;
      launch(pool_by_rows<S>, blocks_for(warps * kWarp), kThreads, kWarps * kChannels * kPitch * sizeof(W), stream,
             args, products, tables, groups);
    }
  });
}

void spread_average(const CallArgs& args, Scratch& scratch, cudaStream_t stream) {
  with_storage(args.storage, [&](auto element) {
    using S = decltype(element);
    using W = typename Access<S>::W;
    const Products products = average_products(args);
    const auto tables = take_tables<W>(args, products, /*by_pixel=*/true, scratch);
    const Groups groups = take_groups(args, scratch);
    if (scratch.counts_only()) return;
    build_tables(args, products, tables, stream);
    build_groups(args, tables.plane_of_box, groups, stream);
    launch_gather<S>(args, groups, AverageSource<S>{products, tables}, stream);
  });
}

}  // namespace roialign_ext::cuda
