// Mapping of work to threads, and reductions over a block.
#pragma once

#include "tuning.cuh"

namespace roialign_ext::cuda {

// A thread has one place (a bin or a pixel) and WIDTH channels, so that weights are computed once for WIDTH channels.
// There are two mappings of lanes, both coalesced.
//   channels_last: a warp has one place, and its lanes have 32 WIDTH channels.
//   NCHW: a warp has 32 places, and every lane has the same WIDTH channels.
// Places vary faster than channels. So blocks that run concurrently share a range of channels, which may fit the L2
// cache.
struct WorkPlan {
  bool lanes_are_channels;
  int64_t places, chunks;  // a chunk is the channels of a warp (lanes are channels) or of a lane

  ROI_HOST_DEVICE int64_t threads() const { return places * chunks * (lanes_are_channels ? kWarp : 1); }
};

// Whether the lanes of kernels over these maps are channels. Fewer than 32 channels would leave lanes idle. So the
// kernels named _nchw, which take any strides, then run for channels_last maps too: average_pool_nchw,
// average_grad_boxes_nchw and rotated_grad_input_nchw. Of averages, grad_input has average_grad_input_few_channels.
inline bool reads_channels_last(const CallArgs& args) {
  return args.maps[0].pixels.stride_c == 1 && args.channels >= kWarp;
}

// Whether `vec` channels are contiguous and aligned to their total size, at every pixel or bin.
template <class S>
bool has_packs(const View<void>& view, int vec) {
  return view.stride_c == 1 && view.stride_n % vec == 0 && view.stride_y % vec == 0 && view.stride_x % vec == 0 &&
         reinterpret_cast<uintptr_t>(view.data) % (vec * sizeof(S)) == 0;
}

template <class S>
bool maps_have_packs(const CallArgs& args, int vec) {
  bool all = true;
  for (int i = 0; i < args.levels; ++i) all = all && has_packs<S>(args.maps[i].pixels, vec);
  return all;
}

// Whether the channels are whole packs of `vec`, at least one for every lane of a warp.
inline bool packs_fill_warp(int64_t channels, int vec) { return channels % vec == 0 && channels >= kWarp * vec; }

// Channels of a pack, 16 bytes in float32.
template <class S>
constexpr int kPack = sizeof(S) == 8 ? 2 : 4;

// Whether lanes can have packs of kPack channels both of the maps and of the bins.
template <class S>
bool takes_packs(const CallArgs& args) {
  return packs_fill_warp(args.channels, kPack<S>) && maps_have_packs<S>(args, kPack<S>) &&
         has_packs<S>(args.bins, kPack<S>);
}

// Calls run(vec) with the number of channels that a lane loads at once, as a compile-time constant: kPack or one.
template <class S, class Run>
void with_pack(bool packs, Run&& run) {
  if (packs) return run(std::integral_constant<int, kPack<S>>());
  run(std::integral_constant<int, 1>());
}

// Slice n of a tensor: one image of a map, or the bins of one box. Offset is int if all extents are below 2^31
// elements: 32-bit offsets take half the registers and instructions.
template <class S, class Offset>
struct Slice {
  void* data;
  Offset stride_c, stride_y, stride_x;

  __device__ __forceinline__ Slice(const View<void>& view, int64_t n)
      : data(static_cast<S*>(view.data) + n * view.stride_n),
        stride_c(static_cast<Offset>(view.stride_c)),
        stride_y(static_cast<Offset>(view.stride_y)),
        stride_x(static_cast<Offset>(view.stride_x)) {}
};

// Minimum resident blocks of kernels over features.
template <class S, class Offset>
constexpr int kBlocksFor = sizeof(S) == 8 || sizeof(Offset) == 8 ? kFeatureBlocksWide : kFeatureBlocks;

inline bool offsets_are_int(const CallArgs& args) {
  const auto fits = [&](const View<void>& view, int64_t height, int64_t width) {
    return args.channels * view.stride_c + height * view.stride_y + width * view.stride_x <= INT32_MAX;
  };
  bool all = fits(args.bins, args.bins_y, args.bins_x);
  for (int i = 0; i < args.levels; ++i) all = all && fits(args.maps[i].pixels, args.maps[i].height, args.maps[i].width);
  return all;
}

// Calls run(Offset()), where Offset is int or int64_t.
template <class Run>
void with_offset(const CallArgs& args, Run&& run) {
  if (offsets_are_int(args)) return run(int());
  run(int64_t());
}

// Calls run(c) for the `count` channels of a thread. `count` is at most N, and usually N.
template <int N, class Run>
__device__ __forceinline__ void for_each_channel(int count, Run&& run) {
  if (count == N) {
#pragma unroll
    for (int c = 0; c < N; ++c) run(c);
  } else {
#pragma unroll
    for (int c = 0; c < N; ++c) {
      if (c < count) run(c);
    }
  }
}

inline WorkPlan make_work_plan(const CallArgs& args, int64_t places, int width) {
  const bool lanes = reads_channels_last(args);
  const int64_t chunk = lanes ? kWarp * width : width;
  return {lanes, places, (args.channels + chunk - 1) / chunk};
}

// The channels of a thread: `count` packs, `step` channels apart.
struct Channels {
  int64_t first, step;
  int count;
};

// `width` is WIDTH of WorkPlan; a pack is `vec` contiguous channels.
__device__ __forceinline__ Channels channels_of(bool lanes_are_channels, int64_t chunk, int lane, int width,
                                                int64_t channels, int vec = 1) {
  const int64_t step = lanes_are_channels ? kWarp * vec : 1, packs = width / vec;
  const int64_t first = chunk * width * (lanes_are_channels ? kWarp : 1) + (lanes_are_channels ? lane * vec : 0);
  const int64_t left = first < channels ? (channels - first + step - 1) / step : 0;
  return {first, step, static_cast<int>(left < packs ? left : packs)};
}

struct Work {
  int64_t place;
  Channels channels;  // none if the thread has no work
};

// `thread` is the index of the thread in the launch.
__device__ __forceinline__ Work work_of(const WorkPlan& plan, int64_t thread, int width, int64_t channels,
                                        int vec = 1) {
  const int64_t unit = plan.lanes_are_channels ? thread / kWarp : thread;
  const int64_t chunk = unit / plan.places;
  return {unit - chunk * plan.places,
          channels_of(plan.lanes_are_channels, chunk, static_cast<int>(thread % kWarp), width, channels, vec)};
}

// One bin of one box.
struct Bin {
  int64_t box;
  int p, q;
};

__device__ __forceinline__ Bin bin_of(const CallArgs& args, int64_t place) {
  const int64_t bins = args.bins_y * args.bins_x;
  const int64_t box = place / bins;
  const int bin = static_cast<int>(place - box * bins), width = static_cast<int>(args.bins_x);
  return {box, bin / width, bin % width};
}

// Returns the number of threads with the flag before this one; `total` is their number in the block. All threads must
// call it. `counts` is shared memory for kWarps integers.
__device__ __forceinline__ int rank_in_block(bool flag, int* counts, int& total) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const unsigned votes = __ballot_sync(kAllLanes, flag);
  if (lane == 0) counts[warp] = __popc(votes);
  __syncthreads();
  int rank = __popc(votes & ((1u << lane) - 1));
  total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) rank += counts[w];
    total += counts[w];
  }
  __syncthreads();
  return rank;
}

// Returns the sum of `value` over the threads before this one (exclusive prefix sum); `total` is the sum over the
// block. All threads must call it. `partial` is shared memory for kWarps integers.
__device__ __forceinline__ int sum_before_in_block(int value, int* partial, int& total) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int up_to = value;  // inclusive prefix sum over the lanes
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const int other = __shfl_up_sync(kAllLanes, up_to, distance);
    if (lane >= distance) up_to += other;
  }
  if (lane == kWarp - 1) partial[warp] = up_to;
  __syncthreads();
  int before = up_to - value;
  total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += partial[w];
    total += partial[w];
  }
  __syncthreads();
  return before;
}

// Sums of M values over the block, in a fixed order; thread m < M returns sum m. All threads must call it. `partial` is
// shared memory for kWarps * M values.
template <int M, class W>
__device__ __forceinline__ W sum_over_block(W (&values)[M], W* partial) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int m = 0; m < M; ++m) {
    W value = values[m];
    for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_down_sync(kAllLanes, value, offset);
    if (lane == 0) partial[warp * M + m] = value;
  }
  __syncthreads();
  W sum = W(0);
  if (threadIdx.x < M) {
    for (int w = 0; w < kWarps; ++w) sum += partial[w * M + threadIdx.x];
  }
  return sum;
}

// Writes the gradient w.r.t. one box: 0 for its index, then the sums of threads m < M.
template <int M, class W>
__device__ __forceinline__ void store_grad_boxes(const CallArgs& args, int64_t box, W sum) {
  const int m = threadIdx.x;
  if (m > M) return;
  const int64_t at = box * (M + 1) + (m == M ? 0 : m + 1);
  const W value = m == M ? W(0) : sum;
  if (args.boxes_are_double) {
    static_cast<double*>(args.grad_boxes)[at] = static_cast<double>(value);
  } else {
    static_cast<float*>(args.grad_boxes)[at] = static_cast<float>(value);
  }
}

}  // namespace roialign_ext::cuda
