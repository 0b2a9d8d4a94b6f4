// The units of work of a call and their threads.
#pragma once

#include "../parallel.h"
#include "isa.h"
#include "tuning.h"

namespace roialign_ext {

// Wide blocks, unless narrow ones are needed to give every thread a unit or fit the channels better.
inline ChannelBlocks choose_blocks(int64_t lanes, int64_t channels, int64_t units_per_block) {
  const int64_t wide = lanes * kVectorsOfWideBlock;
  const bool fits = channels > wide / 2 && channels % wide <= channels - channels % wide;
  const bool enough = (channels + wide - 1) / wide * units_per_block >= num_threads();
  const int64_t width = fits && enough ? wide : lanes;
  return {width, (channels + width - 1) / width};
}

// Whether a block of the map stays in the cache while boxes are visited one by one. Larger blocks are swept row by row.
template <class W>
bool stays_in_cache(const Extents& map, const ChannelBlocks& blocks) {
  return map.area() * blocks.width * static_cast<int64_t>(sizeof(W)) <= kCachedBlockBytes;
}

// If results are summed over channels, the width of a block must not depend on the number of threads.
inline ChannelBlocks summed_blocks(int64_t lanes, int64_t channels) {
  const int64_t width = channels > lanes ? lanes * kVectorsOfWideBlock : lanes;
  return {width, (channels + width - 1) / width};
}

// Number of parts into which the boxes of a plane are split, so that every thread has a unit.
inline int64_t parts_of_plane(const ChannelBlocks& blocks, int64_t planes, double elements_touched) {
  const int64_t units = planes * blocks.count, threads = num_threads();
  return elements_touched < kWorthThreads ? 1 : (threads + units - 1) / units;
}

// Runs kernel(begin, end) over the units, in parallel if the call touches enough elements. Units are independent, and
// every thread runs a unit in the same way. So results do not depend on the number of threads.
template <class Kernel>
void run_units(int64_t units, double elements_touched, Kernel&& kernel) {
  if (elements_touched < kWorthThreads) {
    kernel(int64_t(0), units);
  } else {
    parallel_for(units, kernel);
  }
}

}  // namespace roialign_ext
