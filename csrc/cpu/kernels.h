// The vectorised loops of one instruction set, as a table of functions on ranges of independent units of work.
#pragma once

#include <vector>

#include "rotated_plan.h"
#include "row_sweep.h"
#include "sample_tables.h"
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

// The features or bins of a plane are touched in one of two orders, with the same sums in the same order:
//   box by box, where a block of the map stays in the cache (or lies there ready to be read in place);
//   row by row of the map, all boxes of a row at once, where it does not.
// Parts of a plane share no result: in pooling they may have some of its boxes, in the transpose they have all of them.
template <class W, class MapView, class BinsView>
struct AverageJob {
  Pyramid<MapView> maps;
  BinsView bins;
  const AveragePlan<W>* plan;
  std::vector<PlanePart> parts;
  ChannelBlocks blocks;
};
template <class W>
using PoolJob = AverageJob<W, Input, Output>;
template <class W>
using GradInputJob = AverageJob<W, Output, Input>;

// Gradient by the box edges: the form with one table replaced by its derivative by each edge.
template <class W>
struct EdgePlan {
  TablesByBin<W, 1> x;  // tables of the other axis: values, or derivatives along a direction
  TablesByPixel<W, 1> y;
  TablesByBin<W, 2> x_edges;
  TablesByPixel<W, 2> y_edges;
};

template <class W>
struct BoxGradientJob {
  Pyramid<Input> maps;
  Input grad;
  const EdgePlan<W>* plan;
  const int64_t* plane_of_box;
  ChannelBlocks blocks;
  W* partial;  // [K, blocks, 4]: by x low, y low, x high, y high edge, summed over the block's channels
};

template <class W>
struct MaxJob {
  Pyramid<Input> maps;
  Output values;
  WinnersView<int32_t> winners;
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
  W* partial;  // box gradient only: [K, blocks, 5]
};
template <class W>
using RotatedPoolJob = RotatedJob<W, Input, Output>;
template <class W>
using RotatedGradInputJob = RotatedJob<W, Output, Input>;
template <class W>
using RotatedBoxGradientJob = RotatedJob<W, Input, Input>;

template <class W>
struct Kernels {
  int64_t lanes;  // channels per vector; a block has one or `kWideBlock` vectors
  void (*pool)(const PoolJob<W>&, int64_t begin, int64_t end);
  void (*grad_input)(const GradInputJob<W>&, int64_t begin, int64_t end);
  void (*grad_boxes)(const BoxGradientJob<W>&, int64_t begin, int64_t end);
  void (*max)(const MaxJob<W>&, int64_t begin, int64_t end);
  void (*rotated_pool)(const RotatedPoolJob<W>&, int64_t begin, int64_t end);
  void (*rotated_grad_input)(const RotatedGradInputJob<W>&, int64_t begin, int64_t end);
  void (*rotated_grad_boxes)(const RotatedBoxGradientJob<W>&, int64_t begin, int64_t end);
};

constexpr int64_t kWideBlock = 4;

template <class W>
Kernels<W> kernels_default();
template <class W>
Kernels<W> kernels_avx2();
template <class W>
Kernels<W> kernels_avx512();

}  // namespace roialign_ext
