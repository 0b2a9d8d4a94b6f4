// Average pooling over rotated boxes, its transpose and its box gradient (docs/math.md, section 14). Both axes depend
// on all parameters of a box, so there are no tables: threads walk the samples of their bins, with the geometry of a
// box made once for all of them. Most of the time goes into that, so the type of the features is told apart at run
// time.
#include "../core/rotated_box.h"
#include "gather.cuh"
#include "groups.cuh"
#include "kernels.h"

namespace roialign_ext::cuda {
namespace {

constexpr int kRotatedChannels = 8;  // of a thread
constexpr int kBlocks = 1;  // of a multiprocessor at least: more would leave too few registers for the geometry
constexpr int kColumns = kRotatedParameters + 1;

// What is known of the boxes before their samples are.
template <class T>
struct RotatedBoxes {
  int* plane_of_box;
  RotatedBox<T>* boxes;
  Span *y_pixels, *x_pixels;  // [boxes] those that a box may touch
};

template <class T>
RotatedBoxes<T> take_boxes(const CallArgs& args, Scratch& scratch) {
  RotatedBoxes<T> boxes;
  boxes.plane_of_box = scratch.take<int>(args.boxes);
  boxes.boxes = scratch.take<RotatedBox<T>>(args.boxes);
  boxes.y_pixels = scratch.take<Span>(args.boxes);
  boxes.x_pixels = scratch.take<Span>(args.boxes);
  return boxes;
}

// The pixels within reach of an interval of positions; all of them where it is not a number.
template <class T>
__device__ __forceinline__ Span pixels_near(T centre, T half, int64_t length) {
  const T margin = T(2) + T(4e-6) * (std::fabs(centre) + half);  // one pixel, and roundings
  const T from = centre - half - margin, to = centre + half + margin, end = static_cast<T>(length);
  return {from > T(0) ? static_cast<int>(from < end ? from : end) : 0,
          to < end ? static_cast<int>(to > T(0) ? to : T(0)) : static_cast<int>(length)};
}

// A thread has one box, in blocks behind those of the lists.
template <class T>
__global__ void __launch_bounds__(kThreads)
    fill_boxes(const __grid_constant__ CallArgs args, const RotatedBoxes<T> boxes, const Groups groups) {
  const int64_t block = blockIdx.x - list_blocks(args, groups);
  if (block < 0) return list_boxes<T>(args, groups, static_cast<int>(blockIdx.x));
  const int64_t k = block * kThreads + threadIdx.x;
  if (k >= args.boxes) return;
  const T* data = static_cast<const T*>(args.box_data) + kColumns * k;
  const int plane = find_plane(args, k, data);
  // A box without a plane touches nothing.
  const MapArgs& map = args.maps[plane < 0 ? 0 : plane / args.images];
  const RotatedBox<T> box = make_rotated_box<T>(args.rule, data + 1, static_cast<T>(map.scale), args.bins_y,
                                                args.bins_x, map.height, map.width, args.sampling_ratio);
  const T cosine = std::fabs(box.cosine), sine = std::fabs(box.sine);
  const T half_y = std::fabs(box.y.start), half_x = std::fabs(box.x.start);
  boxes.plane_of_box[k] = plane;
  boxes.boxes[k] = box;
  boxes.y_pixels[k] = pixels_near(box.centre_y, half_y * cosine + half_x * sine, map.height);
  boxes.x_pixels[k] = pixels_near(box.centre_x, half_y * sine + half_x * cosine, map.width);
}

template <class T>
__device__ __forceinline__ const T* direction_of(const CallArgs& args, int d, int64_t box) {
  return static_cast<const T*>(args.directions[d]) + kColumns * box + 1;
}

// What taps are wanted: the value's, or those of its derivative along the ORDER directions of the call.
template <int ORDER, class T>
__device__ __forceinline__ PointDerivative<T, 1, ORDER> derivative_of(const CallArgs& args, int64_t box) {
  PointDerivative<T, 1, ORDER> derivative = {};
  if constexpr (ORDER > 0) derivative.first[0] = direction_of<T>(args, 0, box);
  if constexpr (ORDER > 1) derivative.second[0] = direction_of<T>(args, 1, box);
  return derivative;
}

// A thread has one bin of one box and up to kRotatedChannels channels (WorkMap).
template <class S, class T, int ORDER>
__global__ void __launch_bounds__(kThreads, kBlocks)
    rotated_pool(const __grid_constant__ CallArgs args, const RotatedBoxes<T> boxes, const WorkMap map) {
  using W = typename Access<S>::W;
  const Work work = work_of(map, int64_t(blockIdx.x) * kThreads + threadIdx.x, kRotatedChannels, args.channels);
  const Channels& channels = work.channels;
  if (channels.count <= 0) return;
  const Access<S> access(args.storage);
  const Bin bin = bin_of(args, work.place);
  const int plane = boxes.plane_of_box[bin.box];
  W sums[kRotatedChannels];
#pragma unroll
  for (int c = 0; c < kRotatedChannels; ++c) sums[c] = plane < 0 ? W(NAN) : W(0);
  if (plane >= 0) {
    const Elements<void>& pixels = args.maps[plane / args.images].pixels;
    const int64_t base = plane % args.images * pixels.stride_n + channels.first * pixels.stride_c;
    const int64_t step = channels.step * pixels.stride_c;
    const RotatedBox<T> box = boxes.boxes[bin.box];
    for_each_rotated_tap<W>(box, turn_back(window_of_map(box), box), bin.p, bin.q,
                            derivative_of<ORDER, T>(args, bin.box), [&](int64_t y, int64_t x, const W* weight) {
                              const int64_t at = base + y * pixels.stride_y + x * pixels.stride_x;
#pragma unroll
                              for (int c = 0; c < kRotatedChannels; ++c) {
                                if (c < channels.count) sums[c] += *weight * access.load(pixels.data, at + c * step);
                              }
                            });
  }
  const Elements<void>& bins = args.bins;
  const int64_t at =
      bin.box * bins.stride_n + channels.first * bins.stride_c + bin.p * bins.stride_y + bin.q * bins.stride_x;
#pragma unroll
  for (int c = 0; c < kRotatedChannels; ++c) {
    if (c < channels.count) access.store(bins.data, at + c * channels.step * bins.stride_c, sums[c]);
  }
}

// The bins of an axis that meet a reach: no sample of the others can matter. Bins ascend.
template <class T>
__device__ __forceinline__ Span bins_met(const BoxAxis<T>& axis, const Reach<T>& reach) {
  const int64_t begin =
      first_beyond(int64_t(0), axis.bins, reach.from, false, [&](int64_t p) { return bin_start(axis, p + 1); });
  const int64_t end = first_beyond(begin, axis.bins, reach.to, true, [&](int64_t p) { return bin_start(axis, p); });
  return {static_cast<int>(begin), static_cast<int>(end)};
}

// What the bins of one rotated box give to a pixel: the pixel's neighbourhood is turned into the upright box, and of
// the bins that it meets the samples near the pixel are walked.
template <class T, int ORDER>
struct PixelOfBox {
  const RotatedBox<T> box;
  const PointDerivative<T, 1, ORDER> derivative;
  const int y, x;
  const UprightWindow<T> window;
  const Span rows, columns;  // of bins

  __device__ __forceinline__ PixelOfBox(const CallArgs& args, const RotatedBoxes<T>& boxes, int64_t k, int y, int x)
      : box(boxes.boxes[k]),
        derivative(derivative_of<ORDER, T>(args, k)),
        y(y),
        x(x),
        window(turn_back(Window<T>{static_cast<T>(y - 1), static_cast<T>(x - 1), T(2), T(2)}, box)),
        rows(bins_met(box.y, window.y)),
        columns(bins_met(box.x, window.x)) {}

  template <class W>
  __device__ __forceinline__ W weight(int p, int q) const {
    W weight = W(0);
    for_each_rotated_tap<W>(box, window, p, q, derivative, [&](int64_t tap_y, int64_t tap_x, const W* tap) {
      if (tap_y == y && tap_x == x) weight += *tap;
    });
    return weight;
  }
};

// Adds the channels of one bin, `step` elements apart. Their type is looked at once for all of them.
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

// The input gradient where channels lie apart, for gather.cuh. Most of the time goes into the weight of a pixel in a
// bin, so a thread has many channels.
template <class S, class T, int ORDER>
struct RotatedSource {
  using W = typename Access<S>::W;
  static constexpr int kChannels = sizeof(W) == 8 ? 8 : 32, kBlocks = cuda::kBlocks;
  RotatedBoxes<T> boxes;

  __device__ Span touched_y(int64_t box) const { return boxes.y_pixels[box]; }
  __device__ Span touched_x(int64_t box) const { return boxes.x_pixels[box]; }

  __device__ __forceinline__ void add(const CallArgs& args, int64_t k, int, int y, int x, const Channels& channels,
                                      W (&sums)[kChannels]) const {
    const PixelOfBox<T, ORDER> pixel(args, boxes, k, y, x);
    const Elements<void>& bins = args.bins;
    const int64_t base = k * bins.stride_n + channels.first * bins.stride_c;
    for (int p = pixel.rows.begin; p < pixel.rows.end; ++p) {
      for (int q = pixel.columns.begin; q < pixel.columns.end; ++q) {
        const W weight = pixel.template weight<W>(p, q);
        if (weight == W(0)) continue;
        add_bin<S>(args.storage, bins.data, base + p * bins.stride_y + q * bins.stride_x, bins.stride_c, channels.count,
                   weight, sums);
      }
    }
  }
};

// The input gradient where channels lie together: a warp has a pixel. Its lanes have a bin each while they find the
// pixel's weights, and then channels, to which a shuffle hands one weight after the other.
constexpr int kTileRows = 2, kTileColumns = kWarps / kTileRows;

template <class S, class T, int ORDER>
__global__ void __launch_bounds__(kThreads, kBlocks)
    rotated_grad_input_channels_last(const __grid_constant__ CallArgs args, const __grid_constant__ TileMap map,
                                     const Groups groups, const RotatedSource<S, T, ORDER> source) {
  using W = typename Access<S>::W;
  ROI_SHARED_BYTES(shared);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const Tile tile = tile_of(args, map, blockIdx.x);
  const MapArgs& level = args.maps[tile.level];
  const int y = tile.y.begin + warp / kTileColumns, x = tile.x.begin + warp % kTileColumns;
  const Channels channels = channels_of(true, tile.chunk, lane, kRotatedChannels, args.channels);
  const bool has_pixel = y < level.height && x < level.width;
  const Elements<void>&pixels = level.pixels, &bins = args.bins;
  W sums[kRotatedChannels] = {};
  for_each_near_box(args, groups, tile, source, shared, [&](int box) {
    if (!has_pixel) return;
    const PixelOfBox<T, ORDER> pixel(args, source.boxes, box, y, x);
    const int width = pixel.columns.end - pixel.columns.begin;
    const int met = (pixel.rows.end - pixel.rows.begin) * width;
    const int64_t base = box * bins.stride_n + channels.first * bins.stride_c;
    for (int first = 0; first < met; first += kWarp) {
      const int own = first + lane, p = pixel.rows.begin + own / width, q = pixel.columns.begin + own % width;
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
  const int64_t at =
      tile.image * pixels.stride_n + channels.first * pixels.stride_c + y * pixels.stride_y + x * pixels.stride_x;
  for_each_channel<kRotatedChannels>(
      channels.count, [&](int c) { access.store(pixels.data, at + c * channels.step * pixels.stride_c, sums[c]); });
}

// A block has one box, its threads share the bins and channels (WorkMap); see box_gradient.cu. ORDER 1 is the gradient
// of <G, A F>, ORDER 2 that of its derivative along a direction.
template <class S, class T, int ORDER>
__global__ void __launch_bounds__(kThreads, kBlocks)
    rotated_grad_boxes(const __grid_constant__ CallArgs args, const RotatedBoxes<T> boxes, const WorkMap map) {
  using W = typename Access<S>::W;
  constexpr int M = kRotatedParameters;
  ROI_SHARED_BYTES(shared);
  const int64_t k = blockIdx.x;
  const int plane = boxes.plane_of_box[k];
  const Access<S> access(args.storage);
  const T unit[M][M] = {{1, 0, 0, 0, 0}, {0, 1, 0, 0, 0}, {0, 0, 1, 0, 0}, {0, 0, 0, 1, 0}, {0, 0, 0, 0, 1}};
  PointDerivative<T, M, ORDER> derivative = {};
  for (int m = 0; m < M; ++m) {
    derivative.first[m] = unit[m];
    if constexpr (ORDER > 1) derivative.second[m] = direction_of<T>(args, 0, k);
  }
  W by_parameter[M] = {};
  const int64_t threads = plane < 0 ? 0 : map.threads();
  for (int64_t thread = threadIdx.x; thread < threads; thread += kThreads) {
    const Work work = work_of(map, thread, kRotatedChannels, args.channels);
    const Channels& channels = work.channels;
    const Bin bin = bin_of(args, work.place);
    const Elements<void>&pixels = args.maps[plane / args.images].pixels, &bins = args.bins;
    const int64_t at_bin =
        k * bins.stride_n + channels.first * bins.stride_c + bin.p * bins.stride_y + bin.q * bins.stride_x;
    const int64_t at_map = plane % args.images * pixels.stride_n + channels.first * pixels.stride_c;
    const int64_t step = channels.step * pixels.stride_c;
    W grad[kRotatedChannels];
#pragma unroll
    for (int c = 0; c < kRotatedChannels; ++c) {
      grad[c] = c < channels.count ? access.load(bins.data, at_bin + c * channels.step * bins.stride_c) : W(0);
    }
    const RotatedBox<T> box = boxes.boxes[k];
    for_each_rotated_tap<W>(box, turn_back(window_of_map(box), box), bin.p, bin.q, derivative,
                            [&](int64_t y, int64_t x, const W* weight) {
                              const int64_t at = at_map + y * pixels.stride_y + x * pixels.stride_x;
                              W product = W(0);
#pragma unroll
                              for (int c = 0; c < kRotatedChannels; ++c) {
                                if (c < channels.count) product += grad[c] * access.load(pixels.data, at + c * step);
                              }
                              for (int m = 0; m < M; ++m) by_parameter[m] += weight[m] * product;
                            });
  }
  const W sum = sum_over_block(by_parameter, reinterpret_cast<W*>(shared));
  store_grad_boxes<M>(args, k, sum);
}

// Calls run(S(), T()) with the types of the features and of the coordinates.
template <class Run>
void with_types(const CallArgs& args, Run&& run) {
  if (args.storage == Storage::kDouble) return run(double(), double());
  if (args.wide_boxes) return run(AnyFloat(), double());
  run(AnyFloat(), float());
}

// Calls run(order) with the number of directions as a constant.
template <class Run>
void with_order(const CallArgs& args, Run&& run) {
  if (args.direction_count == 0) return run(std::integral_constant<int, 0>());
  if (args.direction_count == 1) return run(std::integral_constant<int, 1>());
  run(std::integral_constant<int, 2>());
}

template <class T>
void build_boxes(const CallArgs& args, const RotatedBoxes<T>& boxes, const Groups& groups, Launcher& launcher) {
  launcher.launch("fill_boxes", fill_boxes<T>, list_blocks(args, groups) + blocks_for(args.boxes), kThreads,
                  kGroupsBytes, args, boxes, groups);
}

}  // namespace

void rotated_pool(const CallArgs& args, Scratch& scratch, Launcher& launcher) {
  with_types(args, [&](auto element, auto coordinate) {
    using S = decltype(element);
    using T = decltype(coordinate);
    const auto boxes = take_boxes<T>(args, scratch);
    if (scratch.counts_only()) return;
    build_boxes(args, boxes, Groups{}, launcher);
    const WorkMap map = make_work_map(args, args.boxes * args.bins_y * args.bins_x, kRotatedChannels);
    with_order(args, [&](auto order) {
      launcher.launch("rotated_pool", rotated_pool<S, T, order.value>, blocks_for(map.threads()), kThreads, 0, args,
                      boxes, map);
    });
  });
}

void rotated_grad_input(const CallArgs& args, Scratch& scratch, Launcher& launcher) {
  with_types(args, [&](auto element, auto coordinate) {
    using S = decltype(element);
    using T = decltype(coordinate);
    const auto boxes = take_boxes<T>(args, scratch);
    const Groups groups = take_groups(args, scratch);
    if (scratch.counts_only()) return;
    build_boxes(args, boxes, groups, launcher);
    with_order(args, [&](auto order) {
      const RotatedSource<S, T, order.value> source{boxes};
      if (!reads_channels_last(args)) return launch_grad_input_gather<S>(args, groups, source, launcher);
      const TileMap map = make_tile_map(args, kTileRows, kTileColumns);
      launcher.launch("rotated_grad_input_channels_last", rotated_grad_input_channels_last<S, T, order.value>,
                      map.tiles * make_work_map(args, 0, kRotatedChannels).chunks, kThreads, kNearBytes, args, map,
                      groups, source);
    });
  });
}

void rotated_grad_boxes(const CallArgs& args, Scratch& scratch, Launcher& launcher) {
  with_types(args, [&](auto element, auto coordinate) {
    using S = decltype(element);
    using T = decltype(coordinate);
    const auto boxes = take_boxes<T>(args, scratch);
    if (scratch.counts_only()) return;
    build_boxes(args, boxes, Groups{}, launcher);
    const WorkMap map = make_work_map(args, args.bins_y * args.bins_x, kRotatedChannels);
    const size_t shared_bytes = kWarps * kRotatedParameters * sizeof(typename Access<S>::W);
    const auto kernel = args.direction_count == 0 ? rotated_grad_boxes<S, T, 1> : rotated_grad_boxes<S, T, 2>;
    launcher.launch("rotated_grad_boxes", kernel, args.boxes, kThreads, shared_bytes, args, boxes, map);
  });
}

}  // namespace roialign_ext::cuda
