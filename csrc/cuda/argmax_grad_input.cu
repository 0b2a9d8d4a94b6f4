// grad_input of pooling with a fixed argmax, and of its derivatives along box directions.
#include "argmax.cuh"
#include "tile_gather.cuh"
#include "transpose.cuh"

namespace roialign_ext::cuda {
namespace {

// A warp has a tile of kTilePixels pixels of one plane and 32 channels, one per lane. Sums are in shared memory. The
// warp visits every bin near the tile once, and adds the contribution of the argmax to the pixels inside the tile. So
// the cost depends on the number of bins, not on the size of the boxes. Each lane adds to its own sums, in the order of
// boxes and bins. With fewer chunks of channels than warps, the warps share a higher tile, whose list of boxes is made
// once.
constexpr int kPitch = kWarp + 1;
template <class W>
constexpr int kTileColumns = sizeof(W) == 8 ? kArgmaxTileColumnsWide : kArgmaxTileColumns;
template <class W>
constexpr int kTilePixels = kArgmaxTileRows * kTileColumns<W>;

template <class S>
__global__ void __launch_bounds__(kThreads, kArgmaxBlocks)
    argmax_grad_input(const __grid_constant__ CallArgs args, const __grid_constant__ TilePlan plan, int chunks_of_block,
                      const BoxesByPlane by_plane, const __grid_constant__ Samples<typename Access<S>::W> samples) {
  using W = typename Access<S>::W;
  constexpr int kColumns = kTileColumns<W>, kPixels = kTilePixels<W>, kLanesOfAxis = kWarp / 2;
  ROI_SHARED_BYTES(shared);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  W* const sums = reinterpret_cast<W*>(shared + kNearBytes) + warp * (kPixels * kPitch);  // [pixel][lane]
  const Tile tile = tile_of(args, plan, blockIdx.x);
  const MapArgs& map = args.maps[tile.level];
  const int top = tile.y.begin + warp / chunks_of_block * kArgmaxTileRows, left = tile.x.begin;
  const int64_t first = (tile.chunk * chunks_of_block + warp % chunks_of_block) * kWarp, channel = first + lane;
  for (int i = 0; i < kPixels; ++i) sums[i * kPitch + lane] = W(0);
  for_each_near_box(args, by_plane, tile, NearBoxes<Samples<W>>{samples}, shared, [&](int box) {
    // One lane finds the bins of each pixel row or column of the tile; the spans are then united.
    const bool is_y = lane < kLanesOfAxis;
    const int own = lane % kLanesOfAxis;
    Span bins = nothing();
    if (is_y ? own < kArgmaxTileRows : own < kColumns) {
      const Span found = is_y ? samples.y.bins_at(box, top + own) : samples.x.bins_at(box, left + own);
      if (found.begin < found.end) bins = found;
    }
    bins = unite_lanes<kLanesOfAxis>(bins);
    const Span y_bins = {__shfl_sync(kAllLanes, bins.begin, 0), __shfl_sync(kAllLanes, bins.end, 0)};
    const Span x_bins = {__shfl_sync(kAllLanes, bins.begin, kLanesOfAxis),
                         __shfl_sync(kAllLanes, bins.end, kLanesOfAxis)};
    if (channel >= args.channels) return;
    for (int p = y_bins.begin; p < y_bins.end; ++p) {
      for (int q = x_bins.begin; q < x_bins.end; ++q) {
        const ArgmaxSample<W> sample = argmax_sample(args, samples, Bin{box, p, q}, channel);
        const int y = sample.y.low - top, x = sample.x.low - left;
        if (!sample.found || y < -1 || y >= kArgmaxTileRows || x < -1 || x >= kColumns) continue;
        const Stencil<W> stencil = stencil_of(args, box, sample);
        const View<void>& grads = args.bins;
        const W grad = Access<S>::load(grads.data, grads.offset(box, channel, p, q));
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const W weight = stencil.weight[i][j];
            if (weight == W(0) || y + i < 0 || y + i >= kArgmaxTileRows || x + j < 0 || x + j >= kColumns) continue;
            sums[((y + i) * kColumns + x + j) * kPitch + lane] += weight * grad;
          }
        }
      }
    }
  });
  __syncwarp();
  // channels_last: lanes are channels; else lanes are pixels.
  const View<void>& pixels = map.pixels;
  const bool lanes_are_channels = pixels.stride_c == 1;
  for (int i = lane; i < kPixels * kWarp; i += kWarp) {
    const int pixel = lanes_are_channels ? i / kWarp : i % kPixels, c = lanes_are_channels ? lane : i / kPixels;
    const int64_t y = top + pixel / kColumns, x = left + pixel % kColumns;
    if (y >= map.height || x >= map.width || first + c >= args.channels) continue;
    Access<S>::store(pixels.data, pixels.offset(tile.image, first + c, y, x), sums[pixel * kPitch + c]);
  }
}

}  // namespace

void enqueue_argmax_grad_input(const CallArgs& original, Scratch& scratch, Launcher& launcher) {
  with_storage(original.storage, [&](auto element) {
    using S = decltype(element);
    using W = typename Access<S>::W;
    const auto samples = take_samples<W>(original, /*bins_of_pixel=*/true, scratch);
    const BoxesByPlane by_plane = take_boxes_by_plane(original, scratch);
    CallArgs args = original;
    const Shape shape = {args.boxes, args.channels, args.bins_y, args.bins_x};
    const bool copies = reads_channels_last(args) && args.bins.stride_c != 1;
    if (copies) args.bins = take_channels_last(args.storage, shape, scratch);
    if (scratch.counts_only()) return;
    build_samples(args, samples, by_plane, launcher);
    if (copies) build_channels_last(args.storage, shape, original.bins, args.bins, launcher);
    const int64_t chunks = (args.channels + kWarp - 1) / kWarp;
    int chunks_of_block = 1;
    while (chunks_of_block < kWarps && chunks_of_block < chunks) chunks_of_block *= 2;
    const TilePlan plan = make_tile_plan(args, kWarps / chunks_of_block * kArgmaxTileRows, kTileColumns<W>);
    launcher.launch("argmax_grad_input", argmax_grad_input<S>,
                    plan.tiles * ((chunks + chunks_of_block - 1) / chunks_of_block), kThreads,
                    kNearBytes + kWarps * kTilePixels<W> * kPitch * sizeof(W), args, plan, chunks_of_block, by_plane,
                    samples);
  });
}

}  // namespace roialign_ext::cuda
