#include "tables.cuh"

#include <climits>

#include "groups.cuh"

namespace roialign_ext::cuda {
namespace {

constexpr int kBlocks = 1;  // of a multiprocessor at least: for more some registers would be spilled

constexpr TableKind kValue = {0, kAlongU, kAlongU};
constexpr TableKind along(Along first) { return {1, first, first}; }
constexpr TableKind along(Along first, Along second) { return {2, first, second}; }

int64_t longest(const CallArgs& args, int64_t MapArgs::* length) {
  int64_t longest = 0;
  for (int i = 0; i < args.levels; ++i) longest = args.maps[i].*length > longest ? args.maps[i].*length : longest;
  return longest;
}

// Samples of a bin that are kept, if their number is given.
int64_t given_samples(const CallArgs& args) {
  return args.sampling_ratio < kMaxSamplesOfBin ? args.sampling_ratio : kMaxSamplesOfBin;
}

bool is_adaptive(const CallArgs& args) {
  return args.sampling_ratio <= 0 || args.rule == Rule::kRoiPool || args.rule == Rule::kPsRoiPool;
}

void take_spans(AxisSpans& axis, const CallArgs& args, int64_t bins, int64_t length, Scratch& scratch) {
  axis.bins = bins;
  axis.length = length;
  axis.pixels = scratch.take<Span>(args.boxes);
}

void take_bands(AxisBands& axis, const CallArgs& args, int64_t bins, int64_t length, bool by_pixel, Scratch& scratch) {
  take_spans(axis, args, bins, length, scratch);
  axis.bands = scratch.take<Band>(args.boxes * bins);
  axis.bins_of_pixel = by_pixel ? scratch.take<Span>(args.boxes * length) : nullptr;
}

template <class W>
void take_axis(AxisTables<W>& axis, const CallArgs& args, const Products& products, Scratch& scratch) {
  axis.tables = products.tables;
  axis.slots = Slots::count(axis.length, axis.bins);
  axis.weights = scratch.take<W>(args.boxes * axis.tables * axis.slots);
}

template <class W>
void take_axis(AxisTaps<W>& axis, const CallArgs& args, const Products& products, Scratch& scratch) {
  axis.tables = products.tables;
  const int64_t by_pixel = Slots::count(axis.length, axis.bins);
  const int64_t of_bin = is_adaptive(args) || is_integral(args.rule) ? 0 : 2 * args.sampling_ratio;  // two of a sample
  axis.slots_of_bin = of_bin * axis.bins < by_pixel ? of_bin : 0;
  axis.slots = axis.slots_of_bin > 0 ? of_bin * axis.bins : by_pixel;
  axis.taps = scratch.take<Tap<W>>(args.boxes * axis.tables * axis.slots);
  axis.lists = scratch.take<Span>(args.boxes * axis.tables * axis.bins);
  axis.on_map = args.extrapolation_value != 0 ? scratch.take<double>(args.boxes * axis.bins) : nullptr;
}

template <class W>
void take_axis(AxisSamples<W>& axis, const CallArgs& args, Scratch& scratch) {
  axis.slots = is_adaptive(args) ? Slots::count(axis.length, axis.bins) : given_samples(args) * axis.bins;
  axis.samples = scratch.take<SampleTap<W>>(args.boxes * axis.slots);
  axis.rejected = scratch.take<Rejected>(args.boxes * axis.bins);
}

// One axis of one box.
template <class T>
__device__ __forceinline__ BoxAxis<T> axis_of(const CallArgs& args, int64_t k, const T* box, int level, bool is_y) {
  const MapArgs& map = args.maps[level];
  const T* edge = box + (is_y ? 2 : 1);
  return make_box_axis<T>(args.rule, edge[0], edge[2], static_cast<T>(map.scale), is_y ? args.bins_y : args.bins_x,
                          is_y ? map.height : map.width, args.sampling_ratio,
                          is_y ? args.parts.along_y(k) : args.parts.along_x(k));
}

template <class T>
__device__ __forceinline__ EdgeRates<T> rates_along(const CallArgs& args, Along along, int64_t box, bool is_y) {
  if (along == kAlongLowEdge) return {T(1), T(0)};
  if (along == kAlongHighEdge) return {T(0), T(1)};
  const T* rates = static_cast<const T*>(args.directions[along]) + 5 * box + (is_y ? 2 : 1);
  return {rates[0], rates[2]};
}

// What every span includes.
__device__ __forceinline__ Span nothing() { return {INT_MAX, 0}; }

__device__ __forceinline__ Span unite(Span a, Span b) {
  return {a.begin < b.begin ? a.begin : b.begin, a.end > b.end ? a.end : b.end};
}

// The same of all lanes. The whole warp calls it.
__device__ __forceinline__ Span unite_lanes(Span span) {
#pragma unroll
  for (int other = 1; other < kWarp; other *= 2) {
    const int begin = __shfl_xor_sync(kAllLanes, span.begin, other), end = __shfl_xor_sync(kAllLanes, span.end, other);
    span = unite(span, {begin, end});
  }
  return span;
}

// As others read it.
__device__ __forceinline__ Span proper(Span span) { return span.begin < span.end ? span : Span{0, 0}; }

// The pixels that a sample may touch.
template <class T>
__device__ __forceinline__ Span touched(const AxisSample<T>& sample, int64_t length) {
  return {static_cast<int>(sample.low > 0 ? sample.low : 0),
          static_cast<int>(sample.low + 2 < length ? sample.low + 2 : length)};
}

// Which bins may touch each pixel, where somebody asks. The whole warp calls it, after all bands of the box are
// written.
__device__ __forceinline__ void store_bins_of_pixels(const AxisSpans&, int64_t, Span) {}
__device__ __forceinline__ void store_bins_of_pixels(const AxisBands& axis, int64_t box, Span pixels) {
  if (axis.bins_of_pixel == nullptr) return;
  const Band* const bands = axis.bands + box * axis.bins;
  for (int i = pixels.begin + static_cast<int>(threadIdx.x % kWarp); i < pixels.end; i += kWarp) {
    Span bins = nothing();
    for (int p = 0; p < axis.bins; ++p) {
      if (contains(bands[p].pixels, i)) bins = unite(bins, {p, p + 1});
    }
    axis.bins_of_pixel[box * axis.length + i] = proper(bins);
  }
}

// What the bins of a box touch together. The whole warp calls it.
template <class Axis>
__device__ __forceinline__ void summarise(const Axis& axis, int64_t box, Span of_lane) {
  const Span pixels = proper(unite_lanes(of_lane));
  if (threadIdx.x % kWarp == 0) axis.pixels[box] = pixels;
  store_bins_of_pixels(axis, box, pixels);
}

// Calls fill(y or x, box, geometry, is_y, bin) for all bins of both axes of a box, a lane each; it returns the pixels
// that the bin may touch. A warp has one box, in blocks behind those of the lists.
template <class T, class Axis, class Fill>
__device__ __forceinline__ void build_box(const CallArgs& args, const Groups& groups, int* plane_of_box, const Axis& y,
                                          const Axis& x, Fill&& fill) {
  const int64_t block = blockIdx.x - list_blocks(args, groups);
  if (block < 0) return list_boxes<T>(args, groups, static_cast<int>(blockIdx.x));
  const int64_t box = (block * kThreads + threadIdx.x) / kWarp;
  if (box >= args.boxes) return;
  const int lane = threadIdx.x % kWarp;
  const T* data = static_cast<const T*>(args.box_data) + 5 * box;
  const int plane = find_plane(args, box, data);
  if (lane == 0) plane_of_box[box] = plane;
  if (plane < 0) return;
  const int level = static_cast<int>(plane / args.images);
  Span y_pixels = nothing(), x_pixels = nothing();
  for (int64_t i = lane; i < y.bins + x.bins; i += kWarp) {
    const bool is_y = i < y.bins;
    const Span own = fill(is_y ? y : x, box, axis_of(args, box, data, level, is_y), is_y, is_y ? i : i - y.bins);
    if (own.begin == own.end) continue;
    if (is_y) {
      y_pixels = unite(y_pixels, own);
    } else {
      x_pixels = unite(x_pixels, own);
    }
  }
  __syncwarp();
  summarise(y, box, y_pixels);
  summarise(x, box, x_pixels);
}

// A derivative of an axis' table whose order is known at run time alone: for all of them there is one loop over
// samples.
template <class T>
struct AnyDerivative {
  static constexpr int M = 1;
  int order;
  EdgeRates<T> first, second;
};

template <class T>
__device__ __forceinline__ AnyDerivative<T> derivative_of(const CallArgs& args, const TableKind& kind, int64_t box,
                                                          bool is_y) {
  AnyDerivative<T> derivative = {kind.order, {}, {}};
  if (kind.order > 0) derivative.first = rates_along<T>(args, kind.first, box, is_y);
  if (kind.order > 1) derivative.second = rates_along<T>(args, kind.second, box, is_y);
  return derivative;
}

// For for_each_tap.
template <class T, class W>
__device__ __forceinline__ void sample_weights(const BoxAxis<T>& axis, int64_t p, const AxisSample<T>& sample,
                                               const AnyDerivative<T>& derivative, W* low, W* high) {
  if (derivative.order == 0) {
    sample_weights(axis, p, sample, TableValue<T>{}, low, high);
  } else if (derivative.order == 1) {
    sample_weights(axis, p, sample, TableDerivative<T, 1, 1>{{derivative.first}, {}}, low, high);
  } else {
    sample_weights(axis, p, sample, TableDerivative<T, 1, 2>{{derivative.first}, {derivative.second}}, low, high);
  }
}

// Writes the taps of one bin by one table as they come; `pixels` are those that the bin may touch, as far as known.
template <class Axis>
class Writer;

// To the place of their pixel, among zeros.
template <class W>
class Writer<AxisTables<W>> {
 public:
  __device__ Writer(const AxisTables<W>& axis, int64_t box, int t, int64_t, int offset)
      : weights_(axis.weights + (box * axis.tables + t) * axis.slots + offset) {}
  __device__ void put(Span pixels, int64_t pixel, W weight) {
    fill_up(pixels.begin, static_cast<int>(pixel));
    weights_[pixels.begin + written_++] = weight;
  }
  __device__ void end(Span pixels) { fill_up(pixels.begin, pixels.end); }

 private:
  __device__ void fill_up(int begin, int end) {
    while (begin + written_ < end) weights_[begin + written_++] = W(0);
  }

  W* weights_;
  int written_ = 0;
};

// One after another.
template <class W>
class Writer<AxisTaps<W>> {
 public:
  __device__ Writer(const AxisTaps<W>& axis, int64_t box, int t, int64_t p, int offset)
      : taps_(axis.taps + (box * axis.tables + t) * axis.slots),
        list_(axis.lists + (box * axis.tables + t) * axis.bins + p),
        own_(static_cast<int>(axis.slots_of_bin * p)),
        offset_(offset),
        by_pixel_(axis.slots_of_bin == 0) {}
  __device__ void put(Span pixels, int64_t pixel, W weight) {
    taps_[begin(pixels) + written_++] = {static_cast<int>(pixel), weight};
  }
  __device__ void end(Span pixels) { *list_ = {begin(pixels), begin(pixels) + written_}; }

 private:
  __device__ int begin(Span pixels) const { return by_pixel_ ? offset_ + pixels.begin : own_; }

  Tap<W>* taps_;
  Span* list_;
  int own_, offset_, written_ = 0;
  bool by_pixel_;
};

// What else is known of a bin: where its weights are; how many samples are on the map, where somebody asks.
template <class W>
__device__ __forceinline__ void store_bin(const AxisTables<W>& axis, int64_t bin, Span pixels, int offset, int64_t) {
  axis.bands[bin] = {pixels, offset, 0};
}
template <class W>
__device__ __forceinline__ void store_bin(const AxisTaps<W>& axis, int64_t bin, Span, int, int64_t on_map) {
  if (axis.on_map != nullptr) axis.on_map[bin] = static_cast<double>(on_map);
}

// The tables of one bin; Axis is AxisTables or AxisTaps.
template <class T, template <class> class Axis, class W>
__device__ __forceinline__ Span fill_bin(const CallArgs& args, const Products& products, const Axis<W>& target,
                                         int64_t box, const BoxAxis<T>& axis, bool is_y, int64_t p) {
  const int offset = Slots::begin(target.slots, axis.bin < T(0) ? axis.bins - 1 - p : p);
  Span pixels;
  int64_t on_map;
  for (int t = 0; t < products.tables; ++t) {
    pixels = nothing();
    on_map = 0;
    Writer<Axis<W>> writer(target, box, t, p, offset);
    for_each_tap<W>(
        axis, p, derivative_of<T>(args, products.kinds[t], box, is_y),
        [&](int64_t pixel, const W* weight) { writer.put(pixels, pixel, *weight); },
        [&](const AxisSample<T>& sample) {
          pixels = unite(pixels, touched(sample, axis.length));
          on_map += sample.count;
        });
    pixels = proper(pixels);
    writer.end(pixels);
  }
  store_bin(target, box * axis.bins + p, pixels, offset, on_map);
  return pixels;
}

// Target is Tables or Taps.
template <class T, class Target>
__global__ void __launch_bounds__(kThreads, kBlocks)
    fill_tables(const __grid_constant__ CallArgs args, const __grid_constant__ Products products,
                const __grid_constant__ Target tables, const Groups groups) {
  build_box<T>(args, groups, tables.plane_of_box, tables.y, tables.x,
               [&](const auto& target, int64_t box, const BoxAxis<T>& axis, bool is_y, int64_t p) {
                 return fill_bin(args, products, target, box, axis, is_y, p);
               });
}

// The samples of one bin.
template <class T, class W>
__device__ __forceinline__ Span fill_bin(int64_t most, bool adaptive, const AxisSamples<W>& target, int64_t box,
                                         const BoxAxis<T>& axis, int64_t p) {
  Band band = {nothing(), static_cast<int>(most * p), 0};
  SampleTap<W>* const taps = target.samples + box * target.slots;
  int64_t next_index = 0;
  bool first = true;
  for_each_candidate(axis, p, [&](const AxisSample<T>& sample) {
    if (adaptive && band.samples == 0) {
      band.offset = Slots::begin(target.slots, p) + static_cast<int>(sample.low);
    }
    if (sample.index == 0) first = false;
    next_index = sample.index + sample.count;
    if (band.samples == kMaxSamplesOfBin || band.offset + band.samples >= target.slots) return;
    W low[2], high[2];
    sample_weights(axis, p, first_of(sample), by_edges<T>(), low, high);
    taps[band.offset + band.samples++] = {static_cast<int>(sample.low), static_cast<W>(sample.fraction), high[0],
                                          high[1]};
    band.pixels = unite(band.pixels, touched(sample, axis.length));
  });
  band.pixels = proper(band.pixels);
  target.bands[box * axis.bins + p] = band;
  target.rejected[box * axis.bins + p] = {first, next_index > 0 && next_index < axis.grid};
  return band.pixels;
}

template <class W, class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    fill_samples(const __grid_constant__ CallArgs args, int64_t most, bool adaptive,
                 const __grid_constant__ Samples<W> samples, const Groups groups) {
  build_box<T>(args, groups, samples.plane_of_box, samples.y, samples.x,
               [&](const auto& target, int64_t box, const BoxAxis<T>& axis, bool, int64_t p) {
                 return fill_bin(most, adaptive, target, box, axis, p);
               });
}

}  // namespace

Products average_products(const CallArgs& args) {
  if (args.direction_count == 0) return {1, {kValue}, 1, {{0, 0}}};
  if (args.direction_count == 1) return {2, {kValue, along(kAlongU)}, 2, {{1, 0}, {0, 1}}};
  if (!is_integral(args.rule)) return {2, {along(kAlongU), along(kAlongV)}, 2, {{0, 1}, {1, 0}}};
  return {4, {along(kAlongU), along(kAlongV), along(kAlongU, kAlongV), kValue}, 4, {{0, 1}, {1, 0}, {2, 3}, {3, 2}}};
}

Products grad_boxes_products(const CallArgs& args) {
  const TableKind low = along(kAlongLowEdge), high = along(kAlongHighEdge);
  if (args.direction_count == 0) return {3, {kValue, low, high}, 0, {}};
  if (!is_integral(args.rule)) return {3, {along(kAlongU), low, high}, 0, {}};
  return {6, {along(kAlongU), low, high, kValue, along(kAlongLowEdge, kAlongU), along(kAlongHighEdge, kAlongU)}, 0, {}};
}

int64_t max_samples_of_bin(const CallArgs& args) {
  if (!is_adaptive(args)) return args.sampling_ratio;
  const int64_t height = longest(args, &MapArgs::height), width = longest(args, &MapArgs::width);
  if (args.rule == Rule::kRoiPool) return height > width ? height : width;  // cells
  return 2 * (height > width ? height : width) + 3;  // more than half a pixel apart, from -1 to the length
}

template <class W>
Tables<W> take_tables(const CallArgs& args, const Products& products, bool by_pixel, Scratch& scratch) {
  Tables<W> tables;
  tables.plane_of_box = scratch.take<int>(args.boxes);
  take_bands(tables.y, args, args.bins_y, longest(args, &MapArgs::height), by_pixel, scratch);
  take_bands(tables.x, args, args.bins_x, longest(args, &MapArgs::width), by_pixel, scratch);
  take_axis(tables.y, args, products, scratch);
  take_axis(tables.x, args, products, scratch);
  return tables;
}

template <class W>
Taps<W> take_taps(const CallArgs& args, const Products& products, Scratch& scratch) {
  Taps<W> taps;
  taps.plane_of_box = scratch.take<int>(args.boxes);
  take_spans(taps.y, args, args.bins_y, longest(args, &MapArgs::height), scratch);
  take_spans(taps.x, args, args.bins_x, longest(args, &MapArgs::width), scratch);
  take_axis(taps.y, args, products, scratch);
  take_axis(taps.x, args, products, scratch);
  return taps;
}

template <class W>
Samples<W> take_samples(const CallArgs& args, bool by_pixel, Scratch& scratch) {
  Samples<W> samples;
  samples.plane_of_box = scratch.take<int>(args.boxes);
  take_bands(samples.y, args, args.bins_y, longest(args, &MapArgs::height), by_pixel, scratch);
  take_bands(samples.x, args, args.bins_x, longest(args, &MapArgs::width), by_pixel, scratch);
  take_axis(samples.y, args, scratch);
  take_axis(samples.x, args, scratch);
  return samples;
}

Groups take_groups(const CallArgs& args, Scratch& scratch) {
  Span* const segments = scratch.take<Span>(planes_of(args));
  return {segments, scratch.take<int>(args.boxes)};
}

// Blocks that list a plane, and then warps that measure a box.
int64_t blocks_for_boxes(const CallArgs& args, const Groups& groups) {
  return list_blocks(args, groups) + blocks_for(args.boxes * kWarp);
}

template <class Target>
void launch_fill(const CallArgs& args, const Products& products, const Target& target, const Groups& groups,
                 Launcher& launcher) {
  const auto launch = [&](auto kernel) {
    launcher.launch("fill_tables", kernel, blocks_for_boxes(args, groups), kThreads, kGroupsBytes, args, products,
                    target, groups);
  };
  if (args.wide_boxes) {
    launch(fill_tables<double, Target>);
  } else if constexpr (sizeof(typename Target::Weight) == sizeof(float)) {
    launch(fill_tables<float, Target>);
  }
}

template <class W>
void build_tables(const CallArgs& args, const Products& products, const Tables<W>& tables, const Groups& groups,
                  Launcher& launcher) {
  launch_fill(args, products, tables, groups, launcher);
}

template <class W>
void build_taps(const CallArgs& args, const Products& products, const Taps<W>& taps, Launcher& launcher) {
  launch_fill(args, products, taps, Groups{}, launcher);
}

template <class W>
void build_samples(const CallArgs& args, const Samples<W>& samples, const Groups& groups, Launcher& launcher) {
  const auto launch = [&](auto kernel) {
    launcher.launch("fill_samples", kernel, blocks_for_boxes(args, groups), kThreads, kGroupsBytes, args,
                    given_samples(args), is_adaptive(args), samples, groups);
  };
  if (args.wide_boxes) {
    launch(fill_samples<W, double>);
  } else if constexpr (sizeof(W) == sizeof(float)) {
    launch(fill_samples<W, float>);
  }
}

#define INSTANTIATE(W)                                                                                      \
  template Tables<W> take_tables<W>(const CallArgs&, const Products&, bool, Scratch&);                      \
  template Taps<W> take_taps<W>(const CallArgs&, const Products&, Scratch&);                                \
  template Samples<W> take_samples<W>(const CallArgs&, bool, Scratch&);                                     \
  template void build_tables(const CallArgs&, const Products&, const Tables<W>&, const Groups&, Launcher&); \
  template void build_taps(const CallArgs&, const Products&, const Taps<W>&, Launcher&);                    \
  template void build_samples(const CallArgs&, const Samples<W>&, const Groups&, Launcher&);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace roialign_ext::cuda
