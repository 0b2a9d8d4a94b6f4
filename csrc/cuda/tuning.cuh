// Constants that decide speed and no result, each with the count or the measurement that set it.
#pragma once

#include <cstdint>

namespace roialign_ext::cuda {

// Input gradient: blocks below which each takes fewer channels, so that all multiprocessors have some; a few for each
// of the 132 multiprocessors of a large device.
constexpr int64_t kManyBlocks = 512;

// Input gradient of averages: boxes whose weights a block has at once, one for each of its warps to build; and bins of
// one box along an axis, more than 7 x 7 or 14 x 14 bins have in 8 pixels unless boxes are smaller than 8 pixels.
constexpr int kTableBoxes = 8, kTableBins = 16;

// Average pooling: rows of bins of a block, a warp each. Heads pool 7 x 7 or 14 x 14 bins, so that seven leave none
// idle.
constexpr int kPoolRows = 7;
// Bytes of shared memory for the taps of a box along one axis, and how many bins it may have for them: 512 taps in
// float32, more than a box of 14 x 14 bins has on a map of 200 x 336 pixels whatever its grid.
constexpr int kPoolListBytes = 4096, kPoolListedBins = 128;
// Bytes of shared memory for results on their way to NCHW, in float32 five rows of 14 bins: of 128 channels, where
// channels of the map lie together, and of 64 elsewhere, so that blocks keep within 48 KB.
constexpr int kPoolPieceBytes = 36 * 1024, kPoolPieceBytesNchw = 20 * 1024;
// A map is copied to channels_last where its pixels are fewer than this share of those that its boxes take
// (average_pool.cu). The bytes that caches move, counted for boxes of 16 to 512 px on one map of stride 4: 1.12 GB
// where it lies and 0.48 GB in the copy, which costs twice the map.
constexpr double kCopyBelow = 0.35;

// Transpose: planes of up to this many places are a tile's whole width, so that bins [C, PH, PW] of a box are read as
// one contiguous piece; 256 holds 14 x 14 bins. Larger planes are cut into pieces of kPlacesOfTile, 128 bytes or more.
constexpr int kMostPlacesOfTile = 256, kPlacesOfTile = 64;
// Tiles up to this wide have twice as many channels, rows of 256 bytes of the result: 12 KB for 7 x 7 bins.
constexpr int kNarrowTile = 128;

}  // namespace roialign_ext::cuda
