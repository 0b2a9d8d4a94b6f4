// The argmax of a maximum: the places of the chosen sample along y and x among the bin's samples on the map
// (docs/math.md, section 5). They are packed as two 16-bit fields, so that decoding needs no division.
#pragma once

#include "host_device.h"

namespace roialign_ext {

// The argmax if the chosen sample is off the map, or if there is no sample.
constexpr int32_t kRejected = -1;

// Samples of a bin along one axis. With one more, the last sample would have the code of kRejected.
constexpr int64_t kMaxSamplesOfBin = 65535;

ROI_HOST_DEVICE int32_t make_argmax(int64_t sample_y, int64_t sample_x) {
  return static_cast<int32_t>(static_cast<uint32_t>(sample_y) << 16 | static_cast<uint32_t>(sample_x));
}
ROI_HOST_DEVICE uint32_t argmax_y(int32_t argmax) { return static_cast<uint32_t>(argmax) >> 16; }
ROI_HOST_DEVICE uint32_t argmax_x(int32_t argmax) { return static_cast<uint32_t>(argmax) & 0xffffu; }

}  // namespace roialign_ext
