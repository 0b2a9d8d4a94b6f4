// The vectorised loops of one instruction set, as a table of functions on ranges of independent units of work.
#pragma once

#include <vector>

#include "row_sweep.h"
#include "sample_tables.h"
#include "views.h"

namespace roialign_ext {

// Channels are processed in blocks whose values sit in vector registers. A unit of work is (image or box, block).
struct ChannelBlocks {
  int64_t width;  // channels per block
  int64_t count;  // blocks per image or box
};

// The features or bins of an image are touched in one of two orders, with the same sums in the same order:
//   box by box, where a block of the map stays in the cache (or lies there ready to be read in place);
//   row by row of the map, all boxes of a row at once, where it does not. Then `sweeps` has one schedule per image.
template <class S>
struct AverageJob {
  View<const S> read;  // pooling: features [N, C, H, W]; input gradient: gradient of the bins [K, C, PH, PW]
  View<S> write;       // the other of the two
  const AveragePlan<arithmetic_t<S>>* plan;
  std::vector<ImageSweep> sweeps;
  ChannelBlocks blocks;
};

// Gradient by the box edges: the form with one table replaced by its derivative by each edge.
template <class W>
struct EdgePlan {
  TablesByBin<W, 1> x;  // tables of the other axis: values, or derivatives along a direction
  TablesByPixel<W, 1> y;
  TablesByBin<W, 2> x_edges;
  TablesByPixel<W, 2> y_edges;
};

template <class S>
struct BoxGradientJob {
  View<const S> features;
  View<const S> grad;
  const EdgePlan<arithmetic_t<S>>* plan;
  const int64_t* image_of_box;
  ChannelBlocks blocks;
  arithmetic_t<S>* partial;  // [K, blocks, 4]: by x low, y low, x high, y high edge, summed over the block's channels
};

template <class S>
struct MaxJob {
  View<const S> features;
  View<S> values;
  View<int32_t> winners;
  const SamplePlan<arithmetic_t<S>>* plan;
  const int64_t* image_of_box;
  ChannelBlocks blocks;
};

template <class S>
struct Kernels {
  int64_t lanes;  // channels per vector; a block has one or `kWideBlock` vectors
  void (*pool)(const AverageJob<S>&, int64_t begin, int64_t end);
  void (*grad_input)(const AverageJob<S>&, int64_t begin, int64_t end);
  void (*grad_boxes)(const BoxGradientJob<S>&, int64_t begin, int64_t end);
  void (*max)(const MaxJob<S>&, int64_t begin, int64_t end);
};

constexpr int64_t kWideBlock = 4;

template <class S>
Kernels<S> kernels_default();
template <class S>
Kernels<S> kernels_avx2();
template <class S>
Kernels<S> kernels_avx512();

}  // namespace roialign_ext
