// The pixels of each bin and the bins of each pixel on one axis, and the slots of their table entries.
#pragma once

#include <climits>

#include "portable.cuh"

namespace roialign_ext::cuda {

// The interval [begin, end) of integers; empty if begin = end. A Span, like a Band, is read by one load.
struct alignas(8) Span {
  int begin, end;
};

ROI_HOST_DEVICE bool contains(Span span, int i) { return span.begin <= i && i < span.end; }
ROI_HOST_DEVICE bool overlap(Span a, Span b) { return a.begin < b.end && b.begin < a.end; }

// The neutral element of unite().
__device__ __forceinline__ Span nothing() { return {INT_MAX, 0}; }

__device__ __forceinline__ Span unite(Span a, Span b) {
  return {a.begin < b.begin ? a.begin : b.begin, a.end > b.end ? a.end : b.end};
}

// The union over groups of LANES neighbouring lanes. The whole warp must call it.
template <int LANES>
__device__ __forceinline__ Span unite_lanes(Span span) {
#pragma unroll
  for (int other = 1; other < LANES; other *= 2) {
    const int begin = __shfl_xor_sync(kAllLanes, span.begin, other), end = __shfl_xor_sync(kAllLanes, span.end, other);
    span = unite(span, {begin, end});
  }
  return span;
}

// One bin on one axis of the map.
struct alignas(16) Band {
  Span pixels;  // pixels that the bin may touch
  int offset;   // averages: pixel i has slot offset + i; maxima: the first sample is samples[offset]
  int samples;  // maxima: number of samples on the map
};

struct AxisSpans {
  Span* pixels;          // [boxes] pixels that any bin of the box may touch
  int64_t bins, length;  // length: of the longest map, in pixels
};

struct AxisBands : AxisSpans {
  Band* bands;          // [boxes][bins]
  Span* bins_of_pixel;  // [boxes][length] bins that may touch a pixel of `pixels`; null if not requested

  __device__ Band band(int64_t box, int p) const { return bands[box * bins + p]; }
  // Bins of `box` that may touch the pixel.
  __device__ Span bins_at(int64_t box, int pixel) const {
    const Span own = pixels[box];
    return contains(own, pixel) ? bins_of_pixel[box * length + pixel] : Span{0, 0};
  }
};

// Bins find their slots without a prefix sum. Even bins use the first half of the slots, odd bins the second half.
// Within a half, pixel i of bin p has slot i + kPerBin * (p / 2). So bin p must end at most kPerBin pixels after bin p
// + 2 begins.
//
// Let u be the last place of a position. The rounding error of a position is u / 2. On kMaxPixels pixels it is at most
// half a pixel, and with kMaxBins bins at most an eighth of a bin. So the positions of bin p end before bin p + 2
// begins, with one exception. Bins smaller than 0.54 u can round to one place. Then bin p ends u later, which is one
// pixel. A position has two taps, which adds one pixel, and `end` is exclusive: 3 in all.
//
// A maximum's bin of n > 1 samples is at least n / 2 pixels long. So its samples fit in the pixels of bins p and p + 1.
// The 3 further slots hold samples that are clamped to a border.
struct Slots {
  static constexpr int kPerBin = 3;

  static int64_t count(int64_t length, int64_t bins) { return 2 * (length + (bins + 1) / 2 * kPerBin); }
  // Slot of pixel 0 of the bin. `place` counts bins by ascending position.
  static ROI_HOST_DEVICE int begin(int64_t slots, int64_t place) {
    return static_cast<int>((place % 2 == 0 ? 0 : slots / 2) + place / 2 * kPerBin);
  }
};

}  // namespace roialign_ext::cuda
