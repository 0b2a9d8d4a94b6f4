// Gradient of <G, Wy F Wx^T>, and of its derivative along a direction, w.r.t. the edges of each box (docs/math.md,
// section 6). One table is replaced by its derivative.
#include "axis_tables.cuh"
#include "families.cuh"
#include "tuning.cuh"
#include "work.cuh"

namespace roialign_ext::cuda {
namespace {

// Weights of one pixel in a bin, on one axis, in the three tables of a term (EdgeTable).
template <class W>
struct EdgeWeights {
  W kept, low, high;

  __device__ bool moves() const { return low != W(0) || high != W(0); }
};

// The three tables of a term, of which `first` is the first one. Pointers are to the slot of the bin's pixel 0.
template <class W>
struct TablesOfTerm {
  const W *kept, *low, *high;

  __device__ TablesOfTerm(const AxisWeightsByPixel<W>& axis, int64_t box, int first, const Band& band)
      : kept(axis.table(box, first + kKept) + band.offset),
        low(axis.table(box, first + kByLowEdge) + band.offset),
        high(axis.table(box, first + kByHighEdge) + band.offset) {}
  __device__ EdgeWeights<W> at(int pixel) const { return {kept[pixel], low[pixel], high[pixel]}; }
};

// Whether each of the three tables had weight at any pixel so far.
struct Used {
  bool kept, low, high;

  // Returns whether this pixel has weight by any of the tables.
  template <class W>
  __device__ __forceinline__ bool include(const EdgeWeights<W>& weights) {
    kept = kept || weights.kept != W(0);
    low = low || weights.low != W(0);
    high = high || weights.high != W(0);
    return weights.kept != W(0) || weights.moves();
  }
};

// A block has one box. Each thread sums the contributions of its bins and channels to the gradient w.r.t. the edges (x
// low, y low, x high, y high). The sums of all threads are added in a fixed order.
//
// channels_last: threads share bins and channels as in WorkPlan, in packs of VEC. A pixel is read only if both factors
// of some product have weight, as in the definition.
template <class S, int VEC>
__global__ void __launch_bounds__(kThreads)
    average_grad_boxes_channels_last(const __grid_constant__ CallArgs args,
                                     const __grid_constant__ WeightsByPixel<typename Access<S>::W> tables,
                                     const WorkPlan plan) {
  using W = typename Access<S>::W;
  constexpr int kPacks = kGradBoxesChannels / VEC;
  ROI_SHARED_BYTES(shared);
  const int64_t box = blockIdx.x;
  const int plane = tables.plane_of_box[box];
  W grad_edges[4] = {};
  const int64_t threads = plane < 0 ? 0 : plan.threads();
  const View<void>&pixels = args.maps[plane < 0 ? 0 : plane / args.images].pixels, &bins = args.bins;
  for (int64_t thread = threadIdx.x; thread < threads; thread += kThreads) {
    const Work work = work_of(plan, thread, kGradBoxesChannels, args.channels, VEC);
    const Channels& channels = work.channels;
    const Bin bin = bin_of(args, work.place);
    const int64_t at_bin = bins.offset(box, channels.first, bin.p, bin.q);
    const int64_t at_map = plane % args.images * pixels.stride_n + channels.first * pixels.stride_c;
    const int64_t step = channels.step * pixels.stride_c;
    W grad[kPacks][VEC] = {};
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      if (i < channels.count) Pack<S, VEC>::load(bins.data, at_bin + i * channels.step * bins.stride_c, grad[i]);
    }
    const Band y_band = tables.y.band(box, bin.p), x_band = tables.x.band(box, bin.q);
    for (int first = 0; first < tables.y.tables; first += kEdgeTables) {
      const TablesOfTerm<W> y_tables(tables.y, box, first, y_band), x_tables(tables.x, box, first, x_band);
      for (int y = y_band.pixels.begin; y < y_band.pixels.end; ++y) {
        const EdgeWeights<W> wy = y_tables.at(y);
        if (wy.kept == W(0) && !wy.moves()) continue;
        const int64_t row = at_map + y * pixels.stride_y;
        EdgeWeights<W> sums = {};  // of the row, by the x weights
        Used used_x = {};
        for (int x = x_band.pixels.begin; x < x_band.pixels.end; ++x) {
          const EdgeWeights<W> wx = x_tables.at(x);
          const bool used = (wy.moves() && wx.kept != W(0)) || (wy.kept != W(0) && wx.moves());
          if (!used) continue;
          used_x.include(wx);
          const int64_t at = row + x * pixels.stride_x;
          W product = W(0);
#pragma unroll
          for (int i = 0; i < kPacks; ++i) {
            if (i >= channels.count) continue;
            W values[VEC];
            Pack<S, VEC>::load(pixels.data, at + i * step, values);
#pragma unroll
            for (int c = 0; c < VEC; ++c) product += grad[i][c] * values[c];
          }
          if (wx.kept != W(0)) sums.kept += wx.kept * product;
          if (wx.low != W(0)) sums.low += wx.low * product;
          if (wx.high != W(0)) sums.high += wx.high * product;
        }
        if (wy.kept != W(0) && used_x.low) grad_edges[0] += wy.kept * sums.low;
        if (wy.kept != W(0) && used_x.high) grad_edges[2] += wy.kept * sums.high;
        if (wy.low != W(0) && used_x.kept) grad_edges[1] += wy.low * sums.kept;
        if (wy.high != W(0) && used_x.kept) grad_edges[3] += wy.high * sums.kept;
      }
    }
  }
  const W sum = sum_over_block(grad_edges, reinterpret_cast<W*>(shared));
  store_grad_boxes<4>(args, box, sum);
}

// NCHW: a warp takes one line of bins and kGradBoxesChannelsNchw channels at a time. Its lanes first are map columns,
// each summed by the three y tables. So loads are coalesced, and every pixel is read once. Then lanes are bins,
// kBinsAtOnce per channel, which read the sums of columns from shared memory.
constexpr int kBinsAtOnce = kWarp / kGradBoxesChannelsNchw, kPitch = kWarp + 1;

template <class W>
struct ColumnSums {
  W kept[kGradBoxesChannelsNchw][kPitch], low[kGradBoxesChannelsNchw][kPitch], high[kGradBoxesChannelsNchw][kPitch];
};

template <class S>
__global__ void __launch_bounds__(kThreads, kBlocksFor<S, int>)
    average_grad_boxes_nchw(const __grid_constant__ CallArgs args,
                            const __grid_constant__ WeightsByPixel<typename Access<S>::W> tables) {
  using W = typename Access<S>::W;
  ROI_SHARED_BYTES(shared);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  ColumnSums<W>& columns = reinterpret_cast<ColumnSums<W>*>(shared)[warp];
  const int64_t box = blockIdx.x;
  const int plane = tables.plane_of_box[box];
  const View<void>&pixels = args.maps[plane < 0 ? 0 : plane / args.images].pixels, &bins = args.bins;
  const Span window = plane < 0 ? Span{} : tables.x.pixels[box];
  const int64_t sets = (args.channels + kGradBoxesChannelsNchw - 1) / kGradBoxesChannelsNchw;
  W grad_edges[4] = {};
  for (int64_t unit = warp; plane >= 0 && unit < sets * args.bins_y; unit += kWarps) {
    const int64_t channel = unit / args.bins_y * kGradBoxesChannelsNchw, left = args.channels - channel;
    const int p = static_cast<int>(unit % args.bins_y),
              count = static_cast<int>(left < kGradBoxesChannelsNchw ? left : kGradBoxesChannelsNchw);
    const int64_t at_map = plane % args.images * pixels.stride_n + channel * pixels.stride_c;
    const Band y_band = tables.y.band(box, p);
    for (int first = 0; first < tables.y.tables; first += kEdgeTables) {
      const TablesOfTerm<W> y_tables(tables.y, box, first, y_band);
      for (int tile = window.begin; tile < window.end; tile += kWarp) {
        W kept[kGradBoxesChannelsNchw] = {}, low[kGradBoxesChannelsNchw] = {}, high[kGradBoxesChannelsNchw] = {};
        Used used_y = {};
        for (int y = y_band.pixels.begin; y < y_band.pixels.end; ++y) {
          const EdgeWeights<W> wy = y_tables.at(y);
          if (!used_y.include(wy) || tile + lane >= window.end) continue;
          const int64_t at = at_map + y * pixels.stride_y + (tile + lane) * pixels.stride_x;
          for_each_channel<kGradBoxesChannelsNchw>(count, [&](int c) {
            const W value = Access<S>::load(pixels.data, at + c * pixels.stride_c);
            if (wy.kept != W(0)) kept[c] += wy.kept * value;
            if (wy.low != W(0)) low[c] += wy.low * value;
            if (wy.high != W(0)) high[c] += wy.high * value;
          });
        }
#pragma unroll
        for (int c = 0; c < kGradBoxesChannelsNchw; ++c) {
          columns.kept[c][lane] = kept[c];
          columns.low[c][lane] = low[c];
          columns.high[c][lane] = high[c];
        }
        __syncwarp();
        const int c = lane / kBinsAtOnce;
        for (int q = lane % kBinsAtOnce; q < args.bins_x && c < count; q += kBinsAtOnce) {
          const Band x_band = tables.x.band(box, q);
          const TablesOfTerm<W> x_tables(tables.x, box, first, x_band);
          const int end = x_band.pixels.end < tile + kWarp ? x_band.pixels.end : tile + kWarp;
          W grad_of_bin[4] = {};
          Used used_x = {};
          for (int x = x_band.pixels.begin > tile ? x_band.pixels.begin : tile; x < end; ++x) {
            const EdgeWeights<W> wx = x_tables.at(x);
            used_x.include(wx);
            if (wx.low != W(0)) grad_of_bin[0] += wx.low * columns.kept[c][x - tile];
            if (wx.high != W(0)) grad_of_bin[2] += wx.high * columns.kept[c][x - tile];
            if (wx.kept != W(0)) {
              grad_of_bin[1] += wx.kept * columns.low[c][x - tile];
              grad_of_bin[3] += wx.kept * columns.high[c][x - tile];
            }
          }
          // A gradient without weight contributes nothing, even if it is infinite.
          const bool used[4] = {used_x.low && used_y.kept, used_x.kept && used_y.low, used_x.high && used_y.kept,
                                used_x.kept && used_y.high};
          if (!(used[0] || used[1] || used[2] || used[3])) continue;
          const W grad = Access<S>::load(bins.data, bins.offset(box, channel + c, p, q));
#pragma unroll
          for (int edge = 0; edge < 4; ++edge) {
            if (used[edge]) grad_edges[edge] += grad * grad_of_bin[edge];
          }
        }
        __syncwarp();
      }
    }
  }
  const W sum = sum_over_block(grad_edges, reinterpret_cast<W*>(shared + kWarps * sizeof(ColumnSums<W>)));
  store_grad_boxes<4>(args, box, sum);
}

}  // namespace

void enqueue_average_grad_boxes(const CallArgs& args, Scratch& scratch, Launcher& launcher) {
  with_storage(args.storage, [&](auto element) {
    using S = decltype(element);
    using W = typename Access<S>::W;
    const Products products = grad_boxes_products(args.rule, args.direction_count);
    const auto tables = take_weights_by_pixel<W>(args, products, /*bins_of_pixel=*/false, scratch);
    if (scratch.counts_only()) return;
    build_weights_by_pixel(args, products, tables, BoxesByPlane{}, launcher);
    const size_t sums_bytes = kWarps * 4 * sizeof(W);
    if (reads_channels_last(args)) {
      const WorkPlan plan = make_work_plan(args, args.bins_y * args.bins_x, kGradBoxesChannels);
      with_pack<S>(takes_packs<S>(args), [&](auto vec) {
        launcher.launch("average_grad_boxes_channels_last", average_grad_boxes_channels_last<S, vec.value>, args.boxes,
                        kThreads, sums_bytes, args, tables, plan);
      });
    } else {
      const size_t columns_bytes = kWarps * sizeof(ColumnSums<W>);
      launcher.launch("average_grad_boxes_nchw", average_grad_boxes_nchw<S>, args.boxes, kThreads,
                      columns_bytes + sums_bytes, args, tables);
    }
  });
}

}  // namespace roialign_ext::cuda
