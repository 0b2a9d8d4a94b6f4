// What depends on the boxes of a call but not on its features: one launch builds it for all boxes, into scratch memory,
// and the kernels over features only read it (as csrc/cpu/plan.h and sample_tables.h on the CPU). So the geometry of
// csrc/core is compiled once for each type of coordinates, not once for each kernel and type of features, and every
// box is measured once, not once for each block of its channels.
#pragma once

#include "../core/axis_weights.h"
#include "portable.cuh"

namespace roialign_ext::cuda {

// Hands out pieces of the scratch memory, or only counts their bytes.
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

// Numbers from begin up to end; empty where they are equal. One load reads it, as it does a Band.
struct alignas(8) Span {
  int begin, end;
};

ROI_HOST_DEVICE bool contains(Span span, int i) { return span.begin <= i && i < span.end; }
ROI_HOST_DEVICE bool overlap(Span a, Span b) { return a.begin < b.end && b.begin < a.end; }

// What one bin has on one axis of the map.
struct alignas(16) Band {
  Span pixels;  // those that the bin may touch
  int offset;   // averages: that of pixel i is slot offset + i; maxima: its samples begin at samples[offset]
  int samples;  // maxima: how many samples are on the map
};

struct AxisSpans {
  Span* pixels;          // [boxes] those that any of its bins may touch
  int64_t bins, length;  // of the longest map
};

struct AxisBands : AxisSpans {
  Band* bands;          // [boxes][bins]
  Span* bins_of_pixel;  // [boxes][length] bins that may touch a pixel among these; null where nobody asks

  __device__ Band band(int64_t box, int p) const { return bands[box * bins + p]; }
  // The bins of `box` that may touch the pixel.
  __device__ Span bins_at(int64_t box, int pixel) const {
    const Span own = pixels[box];
    return contains(own, pixel) ? bins_of_pixel[box * length + pixel] : Span{0, 0};
  }
};

// A derivative of an axis' table: order 0 is the table; `first` and `second` say along what.
enum Along { kAlongU, kAlongV, kAlongLowEdge, kAlongHighEdge };
struct TableKind {
  int order;
  Along first, second;
};

// Which tables a call needs, the same on both axes, and the products of a y table and an x table whose sum it is:
//   A = Wy Wx        D_u A = Wy[u] Wx + Wy Wx[u]
//   D_u D_v A = Wy[u] Wx[v] + Wy[v] Wx[u] + Wy[u,v] Wx + Wy Wx[u,v], of which the last two exist for integrals only
// The box gradient reads its tables in threes instead: the factor that stays, the other one by its low edge and by its
// high edge.
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

// Bins find their slots without a prefix sum: even bins have the first half of them, odd bins the second. Within a half
// pixel i of bin p lies at i + kPerBin * (p / 2), so bin p must end at most kPerBin pixels behind the begin of bin p
// + 2. A rounded position is off by at most half its last place u, which is at most a pixel on kMaxPixels of them, and
// by an eighth of a bin, since bins are at most kMaxBins. So the positions of bin p end before bin p + 2 begins, or,
// where bins are smaller than 0.54 u and both round to one place, u behind it: one pixel. Every position has a pixel
// more beside it, and `end` is one beyond: 3. A maximum has at most one sample a pixel, for bins of several samples are
// as long as half their number at least, and 3 more for the samples that are moved to a border.
struct Slots {
  static constexpr int kPerBin = 3;

  static int64_t count(int64_t length, int64_t bins) { return 2 * (length + (bins + 1) / 2 * kPerBin); }
  // Where pixel 0 of the bin would be; `place` counts bins by ascending position.
  static ROI_HOST_DEVICE int begin(int64_t slots, int64_t place) {
    return static_cast<int>((place % 2 == 0 ? 0 : slots / 2) + place / 2 * kPerBin);
  }
};

// Weights by pixel, for those who own pixels. Zeros fill the gaps between samples.
template <class W>
struct AxisTables : AxisBands {
  W* weights;  // [boxes][tables][slots]
  int64_t tables, slots;

  // Table t of a box: the weight of pixel i in a bin is table[band.offset + i].
  __device__ const W* table(int64_t box, int t) const { return weights + (box * tables + t) * slots; }
  // The same for any pixel, 0 where the bin may not touch it.
  __device__ __forceinline__ W weight(int64_t box, int t, int bin, int pixel) const {
    const Band own = band(box, bin);
    return contains(own.pixels, pixel) ? table(box, t)[own.offset + pixel] : W(0);
  }
};

template <class W>
struct Tables {
  using Weight = W;
  int* plane_of_box;  // level * images + image, or -1 where nothing may be read
  AxisTables<W> y, x;
};

// Weights one after another, without zeros, for those who own bins.
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
  Span* lists;     // [boxes][tables][bins] slots of each
  double* on_map;  // [boxes][bins] how many samples of a bin are on the map; null where nobody asks
  int64_t tables, slots;
  int64_t slots_of_bin;  // those of bin p begin at p times as many; 0: where Slots says

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
  int low;                      // pixels low and, where fraction or a slope is not 0, low + 1
  W fraction;                   // weight of pixel low + 1
  W by_low_edge, by_high_edge;  // derivatives of the position by the box's edges, 0 where clamped
};

// Where rejected samples, which count as 0, stand among those of a bin.
struct Rejected {
  bool first, later;  // the bin's first sample is rejected; some later one is, after those on the map
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

// The boxes of each plane, in their order.
struct Groups {
  Span* segments = nullptr;  // [planes] into boxes; null where nobody asks
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

// With `groups` the boxes of each plane are listed too, in the same launch.
template <class W>
void build_tables(const CallArgs& args, const Products& products, const Tables<W>& tables, const Groups& groups,
                  Launcher& launcher);
template <class W>
void build_taps(const CallArgs& args, const Products& products, const Taps<W>& taps, Launcher& launcher);
template <class W>
void build_samples(const CallArgs& args, const Samples<W>& samples, const Groups& groups, Launcher& launcher);

// The plane of box k, which begins with its batch index.
template <class T>
__device__ __forceinline__ int find_plane(const CallArgs& args, int64_t k, const T* box) {
  const T index = box[0], images = static_cast<T>(args.images / args.parts.count());
  if (!(index >= T(0) && index < images && index == std::floor(index))) return -1;
  if (is_rotated(args.rule) && (box[3] < T(0) || box[4] < T(0))) return -1;
  const int64_t level = args.levels == 1 ? 0 : level_of_box(args.level_rule, is_rotated(args.rule), box);
  return static_cast<int>(level * args.images + args.parts.image(static_cast<int64_t>(index), k));
}

}  // namespace roialign_ext::cuda
