// Constants that affect speed but no result, each with its reason. benchmarks/gpu/variants.py times other values.
#pragma once

#include "portable.cuh"

namespace roialign_ext::cuda {

// Minimum resident blocks per multiprocessor (__launch_bounds__). More blocks hide more latency, but leave fewer
// registers.
constexpr int kFeatureBlocks = 3;      // kernels over features: 80 registers per lane
constexpr int kFeatureBlocksWide = 2;  // the same in float64 or with 64-bit offsets, which need more registers
constexpr int kAveragePoolBlocks = 4;  // channels_last: 72 registers; one block less with 8 channels per lane
constexpr int kMaxPoolBlocks = 2;      // max_pool; more would spill registers, as in the next two kernels
constexpr int kArgmaxBlocks = 2;
constexpr int kMeasureBlocks = 1;
constexpr int kRotatedBlocks = 1;  // the geometry of a rotated box needs the registers

// Average pooling: warps per block, each with one line of bins. Heads pool 7 x 7 or 14 x 14 bins, so seven warps leave
// none idle.
constexpr int kAveragePoolWarps = 7;
// Bytes of shared memory for the taps of a box along one axis, and the largest number of bins staged there. The bytes
// hold 512 taps in float32. No box of 14 x 14 bins has more on a map of 200 x 336 pixels.
constexpr int kAveragePoolListBytes = 4096, kAveragePoolListedBins = 128;
// Bytes of shared memory for results that are stored as NCHW: five lines of 14 bins in float32. The first is for
// channels_last maps (chunks of 128 channels), the second for NCHW maps (64 channels). Both keep a block below 48 KB.
constexpr int kAveragePoolPieceBytes = 36 * 1024, kAveragePoolPieceBytesNchw = 20 * 1024;
// Map rows whose loads are in flight together, if a bin has too many rows for registers. NCHW loads several channels of
// each row.
constexpr int kAveragePoolRowsAtOnce = 4, kAveragePoolRowsAtOnceNchw = 2;
// NCHW: channels of a block; channels of a map column that a lane sums at once; and loads of them in flight together.
constexpr int kAveragePoolChunkNchw = 64, kAveragePoolSetChannels = 8, kAveragePoolLoadsAtOnce = 4;
// NCHW: lanes per bin, which split the channels. Bins need fewer lanes than columns: 7 bins have 28 of 32 lanes.
constexpr int kAveragePoolGroups = 4;
// A map is copied to channels_last if it has fewer pixels than this share of the pixels that its boxes read
// (average_pool.cu). For boxes of 16 to 512 px on one map of stride 4, the counted L2 traffic is 1.12 GB from NCHW, and
// 0.48 GB from the copy. The copy itself moves the map twice.
constexpr double kCopyBelow = 0.35;

// grad_input of averages: with fewer blocks than this, blocks take fewer channels, so that every multiprocessor has
// work. 512 is about four blocks for each of the 132 multiprocessors of an H100.
constexpr int64_t kManyBlocks = 512;
// Boxes whose weights a block builds at once, one per warp, and bins of a box along one axis. Boxes of 14 x 14 bins
// take one round.
constexpr int kTableBoxes = kWarps, kTableBins = 16;

// grad_input with lanes as pixels: rows and columns of a tile, one thread per pixel.
constexpr int kGatherTile = 16;
// Channels of a thread. Finding the weights of a pixel dominates for rotated boxes, so there they serve more channels.
constexpr int kGatherChannels = 8, kRotatedGatherChannels = 32, kRotatedGatherChannelsWide = 8;

// Gradient of averages with respect to the boxes: channels of a thread, and in NCHW of a warp. Weights are found once
// for all of them.
constexpr int kGradBoxesChannels = 8, kGradBoxesChannelsNchw = 4;

// Maximum: channels of a thread, 16 bytes in float32.
constexpr int kMaxPoolChannels = 4;

// grad_input with a fixed argmax: rows and columns of a warp's tile. The sums of 8 warps, 32 pixels and 32 channels
// take 33 KB in float32; float64 has half the columns.
constexpr int kArgmaxTileRows = 4, kArgmaxTileColumns = 8, kArgmaxTileColumnsWide = 4;

// Rotated boxes: channels of a thread, and rows of a tile with one warp per pixel.
constexpr int kRotatedChannels = 8, kRotatedTileRows = 2;

// Transpose: a plane of at most kMaxPlacesOfTile places is one tile. So the bins [C, PH, PW] of a box are read as one
// contiguous piece; 256 places hold 14 x 14 bins. Larger planes are cut into tiles of kPlacesOfTile places, 128 bytes
// or more.
constexpr int kMaxPlacesOfTile = 256, kPlacesOfTile = 64;
// Tiles of at most this many places have twice as many channels, so that lanes write 256 bytes per place. 7 x 7 bins
// take 12 KB.
constexpr int kNarrowTile = 128;

}  // namespace roialign_ext::cuda
