// grad_input as a gather, for every rule. One thread owns each element, sums the contributions of the bins, box by box,
// and writes the sum once. So sums have a fixed order and one rounding, and are equal in every run. They need no
// atomics and no zero fill.
#pragma once

#include "planes.cuh"
#include "tuning.cuh"

namespace roialign_ext::cuda {

// A block has one tile of one plane and one chunk of channels.
struct TilePlan {
  int tile_rows, tile_columns;
  int64_t tiles;  // of all planes

  ROI_HOST_DEVICE int64_t rows(const MapArgs& map) const { return tiles_of(map.height, tile_rows); }
  ROI_HOST_DEVICE int64_t columns(const MapArgs& map) const { return tiles_of(map.width, tile_columns); }

 private:
  static ROI_HOST_DEVICE int64_t tiles_of(int64_t length, int size) {
    return (static_cast<unsigned>(length) + size - 1) / size;  // at most kMaxPixels
  }
};

inline TilePlan make_tile_plan(const CallArgs& args, int tile_rows, int tile_columns) {
  TilePlan plan = {tile_rows, tile_columns, 0};
  for (int i = 0; i < args.levels; ++i)
    plan.tiles += args.images * plan.rows(args.maps[i]) * plan.columns(args.maps[i]);
  return plan;
}

struct Tile {
  int level;
  int64_t image;
  Span y, x;
  int64_t chunk;
};

// Coarse levels come first: their tiles have the longest lists of boxes. The number of blocks fits 32 bits, and so do
// all of these numbers.
__device__ __forceinline__ Tile tile_of(const CallArgs& args, const TilePlan& plan, unsigned block) {
  const unsigned tiles = static_cast<unsigned>(plan.tiles), images = static_cast<unsigned>(args.images);
  const unsigned chunk = block / tiles;
  unsigned tile = block - chunk * tiles, rows, columns;
  int level = args.levels - 1;
  for (;; --level) {
    rows = static_cast<unsigned>(plan.rows(args.maps[level]));
    columns = static_cast<unsigned>(plan.columns(args.maps[level]));
    if (level == 0 || tile < images * rows * columns) break;
    tile -= images * rows * columns;
  }
  const unsigned image = tile / (rows * columns), row = tile / columns - image * rows, column = tile % columns;
  const int y = static_cast<int>(row) * plan.tile_rows, x = static_cast<int>(column) * plan.tile_columns;
  return {level, image, {y, y + plan.tile_rows}, {x, x + plan.tile_columns}, chunk};
}

// Shared memory of for_each_near_batch.
constexpr int kMaxBatch = 8;
constexpr size_t kNearBytes = (kWarps + kThreads + kMaxBatch) * sizeof(int);

// The Source of boxes that are measured by axis: Boxes is WeightsByPixel or Samples.
template <class Boxes>
struct NearBoxes {
  const Boxes& boxes;

  __device__ Span touched_y(int64_t box) const { return boxes.y.pixels[box]; }
  __device__ Span touched_x(int64_t box) const { return boxes.x.pixels[box]; }
};

// Calls add(boxes, count) for the boxes of the tile's plane that may touch the tile, in ascending order and in batches
// of N. The last batch may be shorter. All threads of the block must call it, and all get the same boxes. If N > 1,
// `add` must end with a barrier. `Source` returns the pixels that a box may touch (touched_y, touched_x).
template <int N, class Source, class Add>
__device__ __forceinline__ void for_each_near_batch(const CallArgs& args, const BoxesByPlane& by_plane,
                                                    const Tile& tile, const Source& source, unsigned char* shared,
                                                    Add&& add) {
  static_assert(N <= kMaxBatch);
  int* const counts = reinterpret_cast<int*>(shared);
  int* const near = counts + kWarps;  // [kThreads + N]: boxes that wait for a batch, then those of this round
  int waiting = 0;
  const Span segment = by_plane.segments[tile.level * args.images + tile.image];
  for (int first = segment.begin; first < segment.end; first += kThreads) {
    const int i = first + static_cast<int>(threadIdx.x);
    const int candidate = i < segment.end ? by_plane.boxes[i] : -1;
    const bool touches =
        candidate >= 0 && overlap(source.touched_y(candidate), tile.y) && overlap(source.touched_x(candidate), tile.x);
    int listed;
    const int rank = rank_in_block(touches, counts, listed);
    if (touches) near[waiting + rank] = candidate;
    waiting += listed;
    __syncthreads();
    const bool is_last = first + kThreads >= segment.end;
    int done = 0;
    for (; waiting - done >= N || (is_last && done < waiting); done += N) {
      add(near + done, waiting - done < N ? waiting - done : N);
    }
    waiting -= done;
    if (done > 0 && static_cast<int>(threadIdx.x) < waiting) near[threadIdx.x] = near[done + threadIdx.x];
    // No barrier is needed: `near` is written again only after the barrier in rank_in_block.
  }
}

// The same for single boxes: add(box).
template <class Source, class Add>
__device__ __forceinline__ void for_each_near_box(const CallArgs& args, const BoxesByPlane& by_plane, const Tile& tile,
                                                  const Source& source, unsigned char* shared, Add&& add) {
  for_each_near_batch<1>(args, by_plane, tile, source, shared, [&](const int* box, int) { add(*box); });
}

static_assert(kGatherTile * kGatherTile == kThreads);

// grad_input whose lanes are pixels, for maps of any strides: a thread has one pixel of a tile and up to
// Source::kChannels channels. Source adds the contribution of a box to the pixel (add).
template <class S, class Source>
__device__ __forceinline__ void gather_pixels(const CallArgs& args, const TilePlan& plan, const BoxesByPlane& by_plane,
                                              const Source& source) {
  using W = typename Access<S>::W;
  constexpr int kChannels = Source::kChannels;
  ROI_SHARED_BYTES(shared);
  const Tile tile = tile_of(args, plan, blockIdx.x);
  const MapArgs& map = args.maps[tile.level];
  const int y = tile.y.begin + threadIdx.x / kGatherTile, x = tile.x.begin + threadIdx.x % kGatherTile;
  const Channels channels = channels_of(false, tile.chunk, 0, kChannels, args.channels);
  const bool has_pixel = y < map.height && x < map.width && channels.count > 0;
  W sums[kChannels] = {};
  for_each_near_box(args, by_plane, tile, source, shared, [&](int box) {
    if (has_pixel) source.add(args, box, y, x, channels, sums);
  });
  if (!has_pixel) return;
  const View<void>& pixels = map.pixels;
  const Access<S> access(args.storage);
  const int64_t at = pixels.offset(tile.image, channels.first, y, x);
  for_each_channel<kChannels>(channels.count,
                              [&](int c) { access.store(pixels.data, at + c * pixels.stride_c, sums[c]); });
}

// Enqueues a kernel whose threads call gather_pixels.
template <class Source>
void launch_gather(const char* name, void (*kernel)(CallArgs, TilePlan, BoxesByPlane, Source), const CallArgs& args,
                   const BoxesByPlane& by_plane, const Source& source, Launcher& launcher) {
  const TilePlan plan = make_tile_plan(args, kGatherTile, kGatherTile);
  const int64_t chunks = (args.channels + Source::kChannels - 1) / Source::kChannels;
  launcher.launch(name, kernel, plan.tiles * chunks, kThreads, kNearBytes, args, plan, by_plane, source);
}

}  // namespace roialign_ext::cuda
