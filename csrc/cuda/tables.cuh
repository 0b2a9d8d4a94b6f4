// Data that depends on the boxes of a call but not on its features. One launch writes the data of all boxes to scratch
// memory, and the kernels over features only read it (on the CPU: csrc/cpu/plan.h, sample_tables.h). So the geometry of
// csrc/core is compiled once per coordinate type, not once per kernel and feature type. Every box is measured once, not
// once per chunk of channels.
#pragma once

#include "../core/axis_weights.h"
#include "portable.cuh"

namespace roialign_ext::cuda {

// Allocates pieces of the scratch memory, or only counts their bytes.
class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(void* memory) : memory_(static_cast<char*>(memory)), counts_only_(false) {}

  template <class Item>
  Item* take(int64_t count) {
    char* const piece = counts_only_ ? nullptr : memory_ + bytes_;
    bytes_ += (count * static_cast<int64_t>(sizeof(Item)) + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<Item*>(piece);
  }
  int64_t bytes() const { return bytes_; }
  bool counts_only() const { return counts_only_; }

 private:
  static constexpr int64_t kAlignment = 256;
  char* memory_ = nullptr;
  bool counts_only_ = true;
  int64_t bytes_ = 0;
};

// The interval [begin, end) of integers; empty if begin = end. A Span, like a Band, is read by one load.
struct alignas(8) Span {
  int begin, end;
};

ROI_HOST_DEVICE bool contains(Span span, int i) { return span.begin <= i && i < span.end; }
ROI_HOST_DEVICE bool overlap(Span a, Span b) { return a.begin < b.end && b.begin < a.end; }

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

// A derivative of an axis' table. Order 0 is the table itself; `first` and `second` name what it is differentiated
// along.
enum Along { kAlongU, kAlongV, kAlongLowEdge, kAlongHighEdge };
struct TableKind {
  int order;
  Along first, second;
};

// The tables of a call, the same for both axes, and the products of a y table and an x table that sum up to the
// operator:
//   A = Wy Wx        D_u A = Wy[u] Wx + Wy Wx[u]
//   D_u D_v A = Wy[u] Wx[v] + Wy[v] Wx[u] + Wy[u,v] Wx + Wy Wx[u,v]; the last two vanish except for integrals
// The gradient w.r.t. the boxes has no products. Its tables come in threes: the factor that stays, and the derivatives
// of the other factor w.r.t. the low edge and the high edge.
constexpr int kMaxTables = 6;
constexpr int kMaxTerms = 4;
struct Products {
  int tables;
  TableKind kinds[kMaxTables];
  int terms;
  struct {
    int y, x;
  } term[kMaxTerms];
};
Products average_products(const CallArgs& args);
Products grad_boxes_products(const CallArgs& args);

// Bins find their slots without a prefix sum. Even bins use the first half of the slots, odd bins the second half.
// Within a half, pixel i of bin p has slot i + kPerBin * (p / 2). So bin p must end at most kPerBin pixels after bin p
// + 2 begins.
//
// Let u be the last place of a position. A rounded position is off by u / 2, at most half a pixel on kMaxPixels
// pixels, and by at most an eighth of a bin, as there are at most kMaxBins. So the positions of bin p end before bin p
// + 2 begins, with one exception: bins smaller than 0.54 u can round to one place, and then bin p ends u later, which
// is one pixel. A position has two taps, which adds one pixel, and `end` is exclusive: 3 in all.
//
// A maximum's bin of n > 1 samples is at least n / 2 pixels long. So its samples fit in the pixels of bins p and p + 1,
// and the 3 further slots hold samples that are clamped to a border.
struct Slots {
  static constexpr int kPerBin = 3;

  static int64_t count(int64_t length, int64_t bins) { return 2 * (length + (bins + 1) / 2 * kPerBin); }
  // Slot of pixel 0 of the bin. `place` counts bins by ascending position.
  static ROI_HOST_DEVICE int begin(int64_t slots, int64_t place) {
    return static_cast<int>((place % 2 == 0 ? 0 : slots / 2) + place / 2 * kPerBin);
  }
};

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

// One sample of a maximum.
template <class W>
struct SampleTap {
  int low;     // the sample is between pixels low and low + 1; low + 1 exists if fraction or a slope is not 0
  W fraction;  // weight of pixel low + 1
  W by_low_edge, by_high_edge;  // derivatives of the position w.r.t. the box's edges, 0 if clamped
};

// Position of rejected samples, whose value is 0, among the samples of a bin.
struct Rejected {
  bool first, later;  // the first sample is rejected; some sample after those on the map is rejected
};

template <class W>
struct AxisSamples : AxisBands {
  SampleTap<W>* samples;  // [boxes][slots]
  Rejected* rejected;     // [boxes][bins]
  int64_t slots;
};

template <class W>
struct Samples {
  int* plane_of_box;
  AxisSamples<W> y, x;
};

// The boxes of each plane, in ascending order.
struct Groups {
  Span* segments = nullptr;  // [planes] intervals of `boxes`; null if not requested
  int* boxes = nullptr;
};

ROI_HOST_DEVICE int64_t planes_of(const CallArgs& args) { return args.levels * args.images; }

template <class W>
Tables<W> take_tables(const CallArgs& args, const Products& products, bool by_pixel, Scratch& scratch);
template <class W>
Taps<W> take_taps(const CallArgs& args, const Products& products, Scratch& scratch);
template <class W>
Samples<W> take_samples(const CallArgs& args, bool by_pixel, Scratch& scratch);
Groups take_groups(const CallArgs& args, Scratch& scratch);

// If `groups` is requested, the same launch lists the boxes of each plane.
template <class W>
void build_tables(const CallArgs& args, const Products& products, const Tables<W>& tables, const Groups& groups,
                  Launcher& launcher);
template <class W>
void build_taps(const CallArgs& args, const Products& products, const Taps<W>& taps, Launcher& launcher);
template <class W>
void build_samples(const CallArgs& args, const Samples<W>& samples, const Groups& groups, Launcher& launcher);

// The plane of one box, or -1 if its row is invalid; `row` begins with the batch index.
template <class T>
__device__ __forceinline__ int find_plane(const CallArgs& args, const T* box) {
  const T image = box[0];
  if (!(image >= T(0) && image < static_cast<T>(args.images) && image == std::floor(image))) return -1;
  if (is_rotated(args.rule) && (box[3] < T(0) || box[4] < T(0))) return -1;
  const int64_t level = args.levels == 1 ? 0 : level_of_box(args.level_rule, box[1], box[2], box[3], box[4]);
  return static_cast<int>(level * args.images + static_cast<int64_t>(image));
}

}  // namespace roialign_ext::cuda
