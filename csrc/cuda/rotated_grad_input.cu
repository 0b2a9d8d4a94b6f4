// grad_input of average pooling of rotated boxes, and of its derivatives along box directions.
#include "rotated_boxes.cuh"
#include "tile_gather.cuh"

namespace roialign_ext::cuda {
namespace {

// Bins of an axis that meet a reach; no other bin has a sample there. Bins ascend.
template <class T>
__device__ __forceinline__ Span bins_met(const BoxAxis<T>& axis, const Reach<T>& reach) {
  const int64_t begin =
      first_beyond(int64_t(0), axis.bins, reach.from, false, [&](int64_t p) { return bin_start(axis, p + 1); });
  const int64_t end = first_beyond(begin, axis.bins, reach.to, true, [&](int64_t p) { return bin_start(axis, p); });
  return {static_cast<int>(begin), static_cast<int>(end)};
}

// Contribution of the bins of one rotated box to a pixel. The pixel's neighbourhood is turned into the frame of the
// upright box. Only bins that meet it are visited, and only their samples near the pixel.
template <class T, int ORDER>
struct PixelOfBox {
  const RotatedBox<T> box;
  const PointDerivative<T, 1, ORDER> derivative;
  const int y, x;
  const UprightWindow<T> window;
  const Span bins_y, bins_x;  // that the neighbourhood meets

  __device__ __forceinline__ PixelOfBox(const CallArgs& args, const RotatedBoxes<T>& boxes, int64_t k, int y, int x)
      : box(boxes.boxes[k]),
        derivative(derivative_of<ORDER, T>(args, k)),
        y(y),
        x(x),
        window(turn_back(Window<T>{static_cast<T>(y - 1), static_cast<T>(x - 1), T(2), T(2)}, box)),
        bins_y(bins_met(box.y, window.y)),
        bins_x(bins_met(box.x, window.x)) {}

  template <class W>
  __device__ __forceinline__ W weight(int p, int q) const {
    W weight = W(0);
    for_each_rotated_tap<W>(box, window, p, q, derivative, [&](int64_t tap_y, int64_t tap_x, const W* tap) {
      if (tap_y == y && tap_x == x) weight += *tap;
    });
    return weight;
  }
};

// Adds the channels of one bin, `step` elements apart. The storage type is tested once for all channels.
template <class S, int N, class W>
__device__ __forceinline__ void add_bin(Storage storage, const void* data, int64_t at, int64_t step, int count,
                                        W weight, W (&sums)[N]) {
  const auto add = [&](auto element) {
    using E = decltype(element);
    const E* one = static_cast<const E*>(data) + at;
    for_each_channel<N>(count, [&](int c) {
      sums[c] += weight * Access<E>::load(one, 0);
      one += step;
    });
  };
  if constexpr (!std::is_same_v<S, AnyFloat>) {
    add(S());
  } else if (storage == Storage::kHalf) {
    add(__half());
  } else if (storage == Storage::kBFloat16) {
    add(__nv_bfloat16());
  } else {
    add(float());
  }
}

// The Source of gather_pixels. Computing the weight of a pixel in a bin dominates, so a thread has many channels.
template <class S, class T, int ORDER>
struct RotatedSource {
  using W = typename Access<S>::W;
  static constexpr int kChannels = sizeof(W) == 8 ? kRotatedGatherChannelsWide : kRotatedGatherChannels;
  RotatedBoxes<T> boxes;

  __device__ Span touched_y(int64_t box) const { return boxes.y_pixels[box]; }
  __device__ Span touched_x(int64_t box) const { return boxes.x_pixels[box]; }

  __device__ __forceinline__ void add(const CallArgs& args, int64_t k, int y, int x, const Channels& channels,
                                      W (&sums)[kChannels]) const {
    const PixelOfBox<T, ORDER> pixel(args, boxes, k, y, x);
    const View<void>& bins = args.bins;
    const int64_t base = k * bins.stride_n + channels.first * bins.stride_c;
    for (int p = pixel.bins_y.begin; p < pixel.bins_y.end; ++p) {
      for (int q = pixel.bins_x.begin; q < pixel.bins_x.end; ++q) {
        const W weight = pixel.template weight<W>(p, q);
        if (weight == W(0)) continue;
        add_bin<S>(args.storage, bins.data, base + p * bins.stride_y + q * bins.stride_x, bins.stride_c, channels.count,
                   weight, sums);
      }
    }
  }
};

template <class S, class T, int ORDER>
__global__ void __launch_bounds__(kThreads, kRotatedBlocks)
    rotated_grad_input_nchw(const __grid_constant__ CallArgs args, const __grid_constant__ TilePlan plan,
                            const BoxesByPlane by_plane, const __grid_constant__ RotatedSource<S, T, ORDER> source) {
  gather_pixels<S>(args, plan, by_plane, source);
}

// channels_last maps: a warp has one pixel. Its lanes first have one bin each and compute the weights of the pixel.
// Then lanes are channels, and shuffles broadcast one weight after another.
constexpr int kTileColumns = kWarps / kRotatedTileRows;

template <class S, class T, int ORDER>
__global__ void __launch_bounds__(kThreads, kRotatedBlocks)
    rotated_grad_input_channels_last(const __grid_constant__ CallArgs args, const __grid_constant__ TilePlan plan,
                                     const BoxesByPlane by_plane, const RotatedSource<S, T, ORDER> source) {
  using W = typename Access<S>::W;
  ROI_SHARED_BYTES(shared);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const Tile tile = tile_of(args, plan, blockIdx.x);
  const MapArgs& map = args.maps[tile.level];
  const int y = tile.y.begin + warp / kTileColumns, x = tile.x.begin + warp % kTileColumns;
  const Channels channels = channels_of(true, tile.chunk, lane, kRotatedChannels, args.channels);
  const bool has_pixel = y < map.height && x < map.width;
  const View<void>&pixels = map.pixels, &bins = args.bins;
  W sums[kRotatedChannels] = {};
  for_each_near_box(args, by_plane, tile, source, shared, [&](int box) {
    if (!has_pixel) return;
    const PixelOfBox<T, ORDER> pixel(args, source.boxes, box, y, x);
    const int width = pixel.bins_x.end - pixel.bins_x.begin;
    const int met = (pixel.bins_y.end - pixel.bins_y.begin) * width;
    const int64_t base = box * bins.stride_n + channels.first * bins.stride_c;
    for (int first = 0; first < met; first += kWarp) {
      const int own = first + lane, p = pixel.bins_y.begin + own / width, q = pixel.bins_x.begin + own % width;
      const W own_weight = own < met ? pixel.template weight<W>(p, q) : W(0);
      const int64_t own_bin = p * bins.stride_y + q * bins.stride_x;
      for (unsigned left = __ballot_sync(kAllLanes, own_weight != W(0)); left != 0; left &= left - 1) {
        const int from = __ffs(static_cast<int>(left)) - 1;
        const W weight = __shfl_sync(kAllLanes, own_weight, from);
        const int64_t bin = __shfl_sync(kAllLanes, own_bin, from);
        add_bin<S>(args.storage, bins.data, base + bin, channels.step * bins.stride_c, channels.count, weight, sums);
      }
    }
  });
  if (!has_pixel) return;
  const Access<S> access(args.storage);
  const int64_t at = pixels.offset(tile.image, channels.first, y, x);
  for_each_channel<kRotatedChannels>(
      channels.count, [&](int c) { access.store(pixels.data, at + c * channels.step * pixels.stride_c, sums[c]); });
}

}  // namespace

void enqueue_rotated_grad_input(const CallArgs& args, Scratch& scratch, Launcher& launcher) {
  with_rotated_types(args, [&](auto element, auto coordinate) {
    using S = decltype(element);
    using T = decltype(coordinate);
    const auto boxes = take_rotated_boxes<T>(args, scratch);
    const BoxesByPlane by_plane = take_boxes_by_plane(args, scratch);
    if (scratch.counts_only()) return;
    build_rotated_boxes(args, boxes, by_plane, launcher);
    with_order(args, [&](auto order) {
      const RotatedSource<S, T, order.value> source{boxes};
      if (!reads_channels_last(args)) {
        return launch_gather("rotated_grad_input_nchw", rotated_grad_input_nchw<S, T, order.value>, args, by_plane,
                             source, launcher);
      }
      const TilePlan plan = make_tile_plan(args, kRotatedTileRows, kTileColumns);
      launcher.launch("rotated_grad_input_channels_last", rotated_grad_input_channels_last<S, T, order.value>,
                      plan.tiles * make_work_plan(args, 0, kRotatedChannels).chunks, kThreads, kNearBytes, args, plan,
                      by_plane, source);
    });
  });
}

}  // namespace roialign_ext::cuda
