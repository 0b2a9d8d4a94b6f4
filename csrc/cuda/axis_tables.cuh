// Weights of all boxes of a call, by pixel (Tables) or as lists (Taps). One launch writes them to scratch memory, and
// the kernels over features only read them (on the CPU: csrc/cpu/plan.h).
#pragma once

#include "../core/axis_weights.h"
#include "../core/products.h"
#include "axis_bands.cuh"
#include "planes.cuh"
#include "scratch.h"

namespace roialign_ext::cuda {

// Weights by pixel, for threads that own pixels. Gaps between samples hold zeros.
template <class W>
struct AxisTables : AxisBands {
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
struct Tables {
  using Weight = W;
  int* plane_of_box;  // level * images + image; -1 for an invalid row
  AxisTables<W> y, x;
};

// Weights as a list without zeros, for threads that own bins.
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

template <class W>
struct AxisTaps : AxisSpans {
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
struct Taps {
  using Weight = W;
  int* plane_of_box;
  AxisTaps<W> y, x;
};

template <class W>
Tables<W> take_tables(const CallArgs& args, const Products& products, bool by_pixel, Scratch& scratch);
template <class W>
Taps<W> take_taps(const CallArgs& args, const Products& products, Scratch& scratch);

// If `groups` is requested, the same launch lists the boxes of each plane.
template <class W>
void build_tables(const CallArgs& args, const Products& products, const Tables<W>& tables, const Groups& groups,
                  Launcher& launcher);
template <class W>
void build_taps(const CallArgs& args, const Products& products, const Taps<W>& taps, Launcher& launcher);

}  // namespace roialign_ext::cuda
