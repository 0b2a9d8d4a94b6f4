// Constants that affect speed but no result, each with the count or measurement behind it.
#pragma once

#include <cstdint>

namespace roialign_ext::cuda {

// Input gradient: with fewer blocks than this, blocks take fewer channels, so that every multiprocessor has work. 512
// is about four blocks for each of the 132 multiprocessors of an H100.
constexpr int64_t kManyBlocks = 512;

// Input gradient of averages: boxes whose weights a block builds at once, one per warp; and bins of a box along one
// axis, so that boxes of 14 x 14 bins take one round.
constexpr int kTableBoxes = 8, kTableBins = 16;

// Input gradient of NCHW maps with lanes as pixels: rows and columns of a tile, a thread for each pixel.
constexpr int kGatherTile = 16;

// Average pooling: rows of bins per block, one per warp. Heads pool 7 x 7 or 14 x 14 bins, so seven warps leave none
// idle.
constexpr int kPoolRows = 7;
// Bytes of shared memory for the taps of a box along one axis, and the most bins that are staged there. 512 taps in
// float32 are more than any box of 14 x 14 bins has on a map of 200 x 336 pixels.
constexpr int kPoolListBytes = 4096, kPoolListedBins = 128;
// Bytes of shared memory for results that are stored as NCHW: five rows of 14 bins in float32. The first is for
// channels_last maps (chunks of 128 channels), the second for NCHW maps (64 channels). Both keep a block below 48 KB.
constexpr int kPoolPieceBytes = 36 * 1024, kPoolPieceBytesNchw = 20 * 1024;
// A map is copied to channels_last if its pixels are fewer than this share of the pixels that its boxes read
// (average_pool.cu). Counted L2 traffic for boxes of 16 to 512 px on one map of stride 4: 1.12 GB from NCHW, 0.48 GB
// from the copy. The copy itself moves the map twice.
constexpr double kCopyBelow = 0.35;

// Transpose: a plane of at most kMostPlacesOfTile places is one tile, so that the bins [C, PH, PW] of a box are read as
// one contiguous piece; 256 holds 14 x 14 bins. Larger planes are cut into tiles of kPlacesOfTile places, 128 bytes or
// more.
constexpr int kMostPlacesOfTile = 256, kPlacesOfTile = 64;
// Tiles of at most this many places have twice as many channels, so that lanes write 256 bytes per place. 7 x 7 bins
// take 12 KB.
constexpr int kNarrowTile = 128;

}  // namespace roialign_ext::cuda
