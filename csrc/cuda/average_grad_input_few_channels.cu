// The transpose of average pooling for fewer channels than a warp has lanes; average_grad_input.cu has the others.
// Lanes are pixels.
#include "gather.cuh"
#include "kernels.h"

namespace roialign_ext::cuda {
namespace {

constexpr int kChannelsOfThread = 8;

// The Source of grad_input_gather().
template <class S, class Offset>
struct AverageSource {
  using W = typename Access<S>::W;
  static constexpr int kChannels = kChannelsOfThread, kBlocks = kBlocksFor<S, Offset>;
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
          const W wy = tables.y.weight(box, products.term[t].y, p, y);
          const W wx = tables.x.weight(box, products.term[t].x, q, x);
          if (wy != W(0) && wx != W(0)) weight += wy * wx;  // 0 times an infinite weight is not 0
        }
        if (weight == W(0)) continue;
        // From one channel's address to the next, in place of a product for each.
        const S* grad = static_cast<const S*>(bins.data) + (base + p * bins.stride_y + q * bins.stride_x);
        for_each_channel<kChannels>(channels.count, [&](int c) {
          sums[c] += weight * Access<S>::load(grad, 0);
          grad += bins.stride_c;
        });
      }
    }
  }
};

}  // namespace

void average_grad_input_few_channels(const CallArgs& args, Scratch& scratch, Launcher& launcher) {
  with_storage(args.storage, [&](auto element) {
    using S = decltype(element);
    using W = typename Access<S>::W;
    const Products products = average_products(args);
    const auto tables = take_tables<W>(args, products, /*by_pixel=*/true, scratch);
    const Groups groups = take_groups(args, scratch);
    if (scratch.counts_only()) return;
    build_tables(args, products, tables, groups, launcher);
    with_offset(args, [&](auto offset) {
      launch_grad_input_gather<S>(args, groups, AverageSource<S, decltype(offset)>{products, tables}, launcher);
    });
  });
}

}  // namespace roialign_ext::cuda
