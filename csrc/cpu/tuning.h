// Constants that affect speed, each with its reason (on CUDA: csrc/cuda/tuning.cuh). No result depends on them, except
// that kVectorsOfWideBlock decides in which order grad_boxes sums over channels.
#pragma once

#include <cstddef>
#include <cstdint>

namespace roialign_ext {

constexpr int64_t kMiB = 1 << 20;

// A narrow block has one vector of channels. The values of a block sit in vector registers.
constexpr int64_t kVectorsOfWideBlock = 4;

// Largest block of a map, in bytes, whose boxes are visited one by one: it stays in the second-level cache of a core.
constexpr int64_t kCachedBlockBytes = 1 * kMiB;

// For calls that touch fewer elements, waking threads takes longer than it saves.
constexpr double kWorthThreads = 1 << 16;

// Pixels a multiple of this many bytes apart map to few cache sets, so even a small block of them would be evicted.
// Such maps are packed.
constexpr int64_t kCacheSetPeriod = 4096;

// Results of more bytes are not in any cache when they are read back. So they are written past the caches.
constexpr int64_t kPastCachesBytes = 8 * kMiB;

// Taps of a bin along an axis for which tables reserve memory: those of two samples.
constexpr size_t kReservedTaps = 4;

// grad_input with a fixed argmax, channels_last: channels of a block, a cache line of them in float32.
constexpr int64_t kArgmaxChannels = 16;
// Pixels that it copies at a time from the sums to the map, so that source and target stay in the cache.
constexpr int64_t kArgmaxCopiedPixels = 16;

// Memory of results (pages.h). Allocators keep smaller blocks, and supplying their pages would save little time.
constexpr int64_t kWorthPopulating = 8 * kMiB;
// Bytes that one thread populates, or looks up, at a time; whole huge pages.
constexpr int64_t kPageChunk = 2 * kMiB;
// glibc maps every larger block separately. So the advice ends with the block and never covers other memory.
constexpr int64_t kWorthHugePages = 32 * kMiB;
// Free blocks that are required for each block that is needed. The kernel keeps a reserve, and other processes may take
// blocks at the same time.
constexpr int64_t kFreeBlocksPerBlock = 4;
// Nanoseconds in which one thread gets a MiB in small pages. Huge pages that take longer are a loss.
constexpr int64_t kStallPerMiB = 350'000;
// Stalls in succession after which results get small pages, and the number of results that do so the first time. One
// stall alone decides nothing: the first touch of free memory may wait for the host. Memory that the process has just
// returned is available at once.
constexpr int kDecisiveStalls = 2;
constexpr int64_t kFirstResultsWithout = 4;

}  // namespace roialign_ext
