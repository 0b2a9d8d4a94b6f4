// grad_input of average pooling for fewer channels than a warp has lanes; average_grad_input.cu has the others.
// Lanes are pixels.
#include "axis_tables.cuh"
#include "families.cuh"
#include "tile_gather.cuh"

namespace roialign_ext::cuda {
namespace {

// The Source of gather_pixels.
template <class S, class Offset>
struct AverageSource {
  using W = typename Access<S>::W;
  static constexpr int kChannels = kGatherChannels;
  Products products;
  WeightsByPixel<W> tables;

  __device__ Span touched_y(int64_t box) const { return tables.y.pixels[box]; }
  __device__ Span touched_x(int64_t box) const { return tables.x.pixels[box]; }

  __device__ __forceinline__ void add(const CallArgs& args, int64_t box, int y, int x, const Channels& channels,
                                      W (&sums)[kChannels]) const {
    const Span y_bins = tables.y.bins_at(box, y), x_bins = tables.x.bins_at(box, x);
    const Slice<S, Offset> bins(args.bins, box);
    const Offset base = static_cast<Offset>(channels.first) * bins.stride_c;
    for (int p = y_bins.begin; p < y_bins.end; ++p) {
      for (int q = x_bins.begin; q < x_bins.end; ++q) {
        W weight = W(0);
        for (int t = 0; t < products.terms; ++t) {
          const W wy = tables.y.weight(box, products.term[t].y, p, y);
          const W wx = tables.x.weight(box, products.term[t].x, q, x);
          if (wy != W(0) && wx != W(0)) weight += wy * wx;  // avoids 0 * infinity
        }
        if (weight == W(0)) continue;
        // Adding the stride is cheaper than one product per channel.
        const S* grad = static_cast<const S*>(bins.data) + (base + p * bins.stride_y + q * bins.stride_x);
        for_each_channel<kChannels>(channels.count, [&](int c) {
          sums[c] += weight * Access<S>::load(grad, 0);
          grad += bins.stride_c;
        });
      }
    }
  }
};

template <class S, class Offset>
__global__ void __launch_bounds__(kThreads, kBlocksFor<S, Offset>)
    average_grad_input_few_channels(const __grid_constant__ CallArgs args, const __grid_constant__ TilePlan plan,
                                    const BoxesByPlane by_plane,
                                    const __grid_constant__ AverageSource<S, Offset> source) {
  gather_pixels<S>(args, plan, by_plane, source);
}

}  // namespace

void enqueue_average_grad_input_few_channels(const CallArgs& args, Scratch& scratch, Launcher& launcher) {
  with_storage(args.storage, [&](auto element) {
    using S = decltype(element);
    using W = typename Access<S>::W;
    const Products products = average_products(args.rule, args.direction_count);
    const auto tables = take_weights_by_pixel<W>(args, products, /*bins_of_pixel=*/true, scratch);
    const BoxesByPlane by_plane = take_boxes_by_plane(args, scratch);
    if (scratch.counts_only()) return;
    build_weights_by_pixel(args, products, tables, by_plane, launcher);
    with_offset(args, [&](auto offset) {
      using Offset = decltype(offset);
      launch_gather("average_grad_input_few_channels", average_grad_input_few_channels<S, Offset>, args, by_plane,
                    AverageSource<S, Offset>{products, tables}, launcher);
    });
  });
}

}  // namespace roialign_ext::cuda
