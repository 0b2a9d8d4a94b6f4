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

// A thread has one bin of one box and up to kChannels channels (WorkMap). Pixels are read row by row, where both
// tables have weight.
template <class S>
__global__ void __launch_bounds__(kThreads)
    pool(const __grid_constant__ CallArgs args, const __grid_constant__ Products products,
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

// What the bins of averages give to a pixel.
template <class S>
struct AverageSource {
  using W = typename Access<S>::W;
  static constexpr int kChannels = 8, kBlocks = sizeof(W) == 8 ? 3 : 4;
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
    launch(pool<S>, blocks_for(map.threads()), kThreads, 0, stream, args, products, tables, map);
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
