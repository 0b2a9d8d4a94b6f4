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

// Transpose: planes of up to this many places are a tile's whole width, so that bins [C, PH, PW] of a box are read as
// one contiguous piece; 256 holds 14 x 14 bins. Larger planes are cut into pieces of kPlacesOfTile, 128 bytes or more.
constexpr int kMostPlacesOfTile = 256, kPlacesOfTile = 64;
// Tiles up to this wide have twice as many channels, rows of 256 bytes of the result: 12 KB for 7 x 7 bins.
constexpr int kNarrowTile = 128;

}  // namespace roialign_ext::cuda
