// Tables of all boxes of a call: WeightsByPixel or TapsByBin. One launch writes them to scratch memory, and the kernels
// over features only read them (on the CPU: csrc/cpu/axis_tables.h).
#pragma once

#include "../core/axis_weights.h"
#include "../core/products.h"
#include "axis_bands.cuh"
#include "planes.cuh"
#include "scratch.h"

namespace roialign_ext::cuda {

// The tables of one axis for threads that own pixels. Gaps between samples hold zeros.
template <class W>
struct AxisWeightsByPixel : AxisBands {
  W* weights;  // [boxes][tables][slots]
  int64_t tables, slots;

  // Table t of a box: pixel i has weight table[band.offset + i] in a bin.
  __device__ const W* table(int64_t box, int t) const { return weights + (box * tables + t) * slots; }
  // The same for any pixel: 0 if the bin cannot touch the pixel.
  __device__ __forceinline__ W weight(int64_t box, int t, int bin, int pixel) const {
    const Band own = band(box, bin);
    return contains(own.pixels, pixel) ? table(box, t)[own.offset + pixel] : W(0);
  }
};

template <class W>
struct WeightsByPixel {
  using Weight = W;
  int* plane_of_box;  // level * images + image; -1 for an invalid box
  AxisWeightsByPixel<W> y, x;
};

template <class W>
struct alignas(2 * sizeof(W)) Tap {
  int pixel;
  W weight;
};

template <class W>
struct TapList {
  const Tap<W>* taps;
  int count;
};

// The tables of one axis for threads that own bins: lists without zeros.
template <class W>
struct AxisTapsByBin : AxisSpans {
  Tap<W>* taps;    // [boxes][tables][slots]
  Span* lists;     // [boxes][tables][bins] slots of each list
  double* on_map;  // [boxes][bins] number of samples on the map; null if not requested
  int64_t tables, slots;
  int64_t slots_of_bin;  // the list of bin p begins at slot p * slots_of_bin; 0: Slots gives the begin

  // The taps of a bin by table t, by ascending pixel.
  __device__ TapList<W> list(int64_t box, int t, int p) const {
    const int64_t table = box * tables + t;
    const Span own = lists[table * bins + p];
    return {taps + table * slots + own.begin, own.end - own.begin};
  }
};

template <class W>
struct TapsByBin {
  using Weight = W;
  int* plane_of_box;
  AxisTapsByBin<W> y, x;
};

template <class W>
WeightsByPixel<W> take_weights_by_pixel(const CallArgs& args, const Products& products, bool bins_of_pixel,
                                        Scratch& scratch);
template <class W>
TapsByBin<W> take_taps_by_bin(const CallArgs& args, const Products& products, Scratch& scratch);

// If `by_plane` is requested, the same launch lists the boxes of each plane.
template <class W>
void build_weights_by_pixel(const CallArgs& args, const Products& products, const WeightsByPixel<W>& tables,
                            const BoxesByPlane& by_plane, Launcher& launcher);
template <class W>
void build_taps_by_bin(const CallArgs& args, const Products& products, const TapsByBin<W>& taps, Launcher& launcher);

}  // namespace roialign_ext::cuda
