// How a maximum names the sample that it chose: by its row and its column among those samples of the bin that are on
// the map, 16 bits each, so that nobody has to divide.
#pragma once

#include "host_device.h"

namespace roialign_ext {

// A sample off the map, or none at all.
constexpr int32_t kRejected = -1;

// The most rows or columns of a bin: with one more, the last sample would be called kRejected.
constexpr int64_t kMaxSamples = 65535;

ROI_HOST_DEVICE int32_t make_winner(int64_t row, int64_t column) {
  return static_cast<int32_t>(static_cast<uint32_t>(row) << 16 | static_cast<uint32_t>(column));
}
ROI_HOST_DEVICE uint32_t winner_row(int32_t winner) { return static_cast<uint32_t>(winner) >> 16; }
ROI_HOST_DEVICE uint32_t winner_column(int32_t winner) { return static_cast<uint32_t>(winner) & 0xffffu; }

}  // namespace roialign_ext
