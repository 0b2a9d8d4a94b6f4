// The gradient by the maps, whatever the rule: every element is owned by one thread, which adds up what the bins give
// to it, box after box, and writes it once. So sums have a fixed order, are rounded once, need neither atomics nor
// zeros to begin with, and the result is the same in every run.
#pragma once

#include "tables.cuh"
#include "work.cuh"

namespace roialign_ext::cuda {

// A block has one tile of one plane and one chunk of channels.
struct TileMap {
  int tile_rows, tile_columns;
  int64_t tiles;  // of all planes

  ROI_HOST_DEVICE int64_t rows(const MapArgs& map) const { return tiles_of(map.height, tile_rows); }
  ROI_HOST_DEVICE int64_t columns(const MapArgs& map) const { return tiles_of(map.width, tile_columns); }

 private:
  static ROI_HOST_DEVICE int64_t tiles_of(int64_t length, int size) {
    return (static_cast<unsigned>(length) + size - 1) / size;  // at most kMaxPixels
  }
};

inline TileMap make_tile_map(const CallArgs& args, int tile_rows, int tile_columns) {
  TileMap map = {tile_rows, tile_columns, 0};
  for (int i = 0; i < args.levels; ++i) map.tiles += args.images * map.rows(args.maps[i]) * map.columns(args.maps[i]);
  return map;
}

struct Tile {
  int level;
  int64_t image;
  Span y, x;
  int64_t chunk;
};

// Coarse levels come first: their tiles have the longest lists of boxes. There are as many blocks as tiles and chunks,
// so that all of these numbers have 32 bits.
__device__ __forceinline__ Tile tile_of(const CallArgs& args, const TileMap& map, unsigned block) {
  const unsigned tiles = static_cast<unsigned>(map.tiles), images = static_cast<unsigned>(args.images);
  const unsigned chunk = block / tiles;
  unsigned tile = block - chunk * tiles, rows, columns;
  int level = args.levels - 1;
  for (;; --level) {
    rows = static_cast<unsigned>(map.rows(args.maps[level]));
    columns = static_cast<unsigned>(map.columns(args.maps[level]));
    if (level == 0 || tile < images * rows * columns) break;
    tile -= images * rows * columns;
  }
  const unsigned image = tile / (rows * columns), row = tile / columns - image * rows, column = tile % columns;
  const int y = static_cast<int>(row) * map.tile_rows, x = static_cast<int>(column) * map.tile_columns;
  return {level, image, {y, y + map.tile_rows}, {x, x + map.tile_columns}, chunk};
}

// The shared memory of for_each_near_batch.
constexpr int kLongestBatch = 8;
constexpr size_t kNearBytes = (kWarps + kThreads + kLongestBatch) * sizeof(int);

// Calls add(boxes, count) for the boxes of the tile's plane that may touch it, in their order, N at a time but for the
// last ones. All threads of the block call it, and all see the same boxes. With N above 1 they have to meet at a
// barrier before `add` returns. `Source` knows what a box may touch (touched_y, touched_x).
template <int N, class Source, class Add>
__device__ __forceinline__ void for_each_near_batch(const CallArgs& args, const Groups& groups, const Tile& tile,
                                                    const Source& source, unsigned char* shared, Add&& add) {
  static_assert(N <= kLongestBatch);
  int* const counts = reinterpret_cast<int*>(shared);
  int* const near = counts + kWarps;  // [kThreads + N]: those found last, after those that wait for a batch
  int waiting = 0;
  const Span segment = groups.segments[tile.level * args.images + tile.image];
  for (int first = segment.begin; first < segment.end; first += kThreads) {
    const int i = first + static_cast<int>(threadIdx.x);
    const int candidate = i < segment.end ? groups.boxes[i] : -1;
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
    // No barrier: nobody writes to `near` again before all have met in rank_in_block.
  }
}

// The same, one box at a time: add(box).
template <class Source, class Add>
__device__ __forceinline__ void for_each_near_box(const CallArgs& args, const Groups& groups, const Tile& tile,
                                                  const Source& source, unsigned char* shared, Add&& add) {
  for_each_near_batch<1>(args, groups, tile, source, shared, [&](const int* box, int) { add(*box); });
}

// A thread has one pixel, and the channels that WorkMap says. Source adds what a box gives to the pixel (add); it also
// says how many channels a thread has (kChannels), and how many blocks a multiprocessor should hold (kBlocks).
template <class S, class Source>
__global__ void __launch_bounds__(kThreads, Source::kBlocks)
    grad_input_gather(const __grid_constant__ CallArgs args, const __grid_constant__ TileMap map,
                      bool lanes_are_channels, const Groups groups, const __grid_constant__ Source source) {
  using W = typename Access<S>::W;
  constexpr int kChannels = Source::kChannels;
  ROI_SHARED_BYTES(shared);
  const Tile tile = tile_of(args, map, blockIdx.x);
  const MapArgs& level = args.maps[tile.level];
  const int place = lanes_are_channels ? threadIdx.x / kWarp : threadIdx.x;
  const int y = tile.y.begin + place / map.tile_columns, x = tile.x.begin + place % map.tile_columns;
  const Channels channels = channels_of(lanes_are_channels, tile.chunk, threadIdx.x % kWarp, kChannels, args.channels);
  const bool has_pixel = y < level.height && x < level.width && channels.count > 0;
  W sums[kChannels] = {};
  for_each_near_box(args, groups, tile, source, shared, [&](int box) {
    if (has_pixel) source.add(args, box, tile.level, y, x, channels, sums);
  });
  if (!has_pixel) return;
  const Elements<void>& pixels = level.pixels;
  const Access<S> access(args.storage);
  const int64_t at =
      tile.image * pixels.stride_n + channels.first * pixels.stride_c + y * pixels.stride_y + x * pixels.stride_x;
  for_each_channel<kChannels>(
      channels.count, [&](int c) { access.store(pixels.data, at + c * channels.step * pixels.stride_c, sums[c]); });
}

template <class S, class Source>
void launch_grad_input_gather(const CallArgs& args, const Groups& groups, const Source& source, Launcher& launcher) {
  const WorkMap channels = make_work_map(args, 0, Source::kChannels);
  const bool lanes = channels.lanes_are_channels;
  const TileMap map = lanes ? make_tile_map(args, 2, 4) : make_tile_map(args, 16, 16);
  launcher.launch("grad_input_gather", grad_input_gather<S, Source>, map.tiles * channels.chunks, kThreads, kNearBytes,
                  args, map, lanes, groups, source);
}

}  // namespace roialign_ext::cuda
