// The vectorised loops of one instruction set, as a table of functions on ranges of independent units of work.
#pragma once

// Headers of the standard library that the bodies use. They have to come before the target regions, which include the
// bodies.
#include <algorithm>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "axis_samples.h"
#include "axis_tables.h"
#include "rotated_boxes.h"
#include "row_sweep.h"
#include "tuning.h"
#include "views.h"

namespace roialign_ext {

// Channels are processed in blocks whose values sit in vector registers. A unit of work is (part of a plane, block), or
// (box, block).
struct ChannelBlocks {
  int64_t width;  // channels per block
  int64_t count;  // blocks per part or box
};

// The feature maps of a call, one per level; a plane is one image of one of them.
template <class MapView>
struct Pyramid {
  std::vector<MapView> levels;
  int64_t images;

  const MapView& map(int64_t plane) const { return levels[static_cast<size_t>(plane / images)]; }
  int64_t image(int64_t plane) const { return plane % images; }
  int64_t planes() const { return static_cast<int64_t>(levels.size()) * images; }
  int64_t elements() const {
    int64_t total = 0;
    for (const MapView& level : levels) total += level.elements();
    return total;
  }
};

// A kernel visits the boxes of a plane in one of two orders. Both add the same terms in the same order.
//   Box by box, if a block of the map stays in the cache.
//   Row by row of the map, all boxes of a row at once, if it does not.
//
// Parts write disjoint results. Pooling may split the boxes of a plane; grad_input never does.
template <class W, class MapView, class BinsView>
struct AverageJob {
  Pyramid<MapView> maps;
  BinsView bins;
  const AveragePlan<W>* plan;
  std::vector<PlanePart> parts;
  ChannelBlocks blocks;
};
template <class W>
using AveragePoolJob = AverageJob<W, ConstView, MutableView>;
template <class W>
using AverageGradInputJob = AverageJob<W, MutableView, ConstView>;

// grad_boxes of averages: the form with one table replaced by its derivative with respect to each edge.
template <class W>
struct EdgePlan {
  AxisTapsByBin<W, 1> x;  // tables that are kept: values, or derivatives along a direction
  AxisTapsByPixel<W, 1> y;
  AxisTapsByBin<W, 2> x_edges;
  AxisTapsByPixel<W, 2> y_edges;
};

template <class W>
struct AverageGradBoxesJob {
  Pyramid<ConstView> maps;
  ConstView grad;
  const EdgePlan<W>* plan;
  const int64_t* plane_of_box;
  ChannelBlocks blocks;
  W* partial;  // [K, blocks, 4]: w.r.t. (x low, y low, x high, y high), summed over the block's channels
};

template <class W>
struct MaxPoolJob {
  Pyramid<ConstView> maps;
  MutableView values;
  ArgmaxView<int32_t> argmax;
  const MaxPlan<W>* plan;
  std::vector<PlanePart> parts;
  ChannelBlocks blocks;
};

// Rotated boxes: taps without tables.
template <class W, class MapView, class BinsView>
struct RotatedJob {
  Pyramid<MapView> maps;
  BinsView bins;
  const RotatedPlan<W>* plan;
  ChannelBlocks blocks;
  W* partial;  // grad_boxes only: [K, blocks, 5]
};
template <class W>
using RotatedPoolJob = RotatedJob<W, ConstView, MutableView>;
template <class W>
using RotatedGradInputJob = RotatedJob<W, MutableView, ConstView>;
template <class W>
using RotatedGradBoxesJob = RotatedJob<W, ConstView, ConstView>;

template <class W>
struct Kernels {
  int64_t lanes;  // channels per vector; a block has one or `kVectorsOfWideBlock` vectors
  void (*average_pool_units)(const AveragePoolJob<W>&, int64_t begin, int64_t end);
  void (*average_grad_input_units)(const AverageGradInputJob<W>&, int64_t begin, int64_t end);
  void (*average_grad_boxes_units)(const AverageGradBoxesJob<W>&, int64_t begin, int64_t end);
  void (*max_pool_units)(const MaxPoolJob<W>&, int64_t begin, int64_t end);
  void (*rotated_pool_units)(const RotatedPoolJob<W>&, int64_t begin, int64_t end);
  void (*rotated_grad_input_units)(const RotatedGradInputJob<W>&, int64_t begin, int64_t end);
  void (*rotated_grad_boxes_units)(const RotatedGradBoxesJob<W>&, int64_t begin, int64_t end);
};

template <class W>
Kernels<W> kernels_default();
template <class W>
Kernels<W> kernels_avx2();
template <class W>
Kernels<W> kernels_avx512();

}  // namespace roialign_ext
