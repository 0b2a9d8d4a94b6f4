// The argmax of a maximum: row and column of the chosen sample among the bin's samples on the map (docs/math.md,
// section 5). They are packed as two 16-bit fields, so that decoding needs no division.
#pragma once

#include "host_device.h"

namespace roialign_ext {

// The argmax if the chosen sample is off the map, or if there is no sample.
constexpr int32_t kRejected = -1;

// Limit of rows and columns of a bin: with one more, the last sample would have the code of kRejected.
constexpr int64_t kMaxSamples = 65535;

ROI_HOST_DEVICE int32_t make_winner(int64_t row, int64_t column) {
  return static_cast<int32_t>(static_cast<uint32_t>(row) << 16 | static_cast<uint32_t>(column));
}
ROI_HOST_DEVICE uint32_t winner_row(int32_t winner) { return static_cast<uint32_t>(winner) >> 16; }
ROI_HOST_DEVICE uint32_t winner_column(int32_t winner) { return static_cast<uint32_t>(winner) & 0xffffu; }

}  // namespace roialign_ext
