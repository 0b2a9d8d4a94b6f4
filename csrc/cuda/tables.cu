#include "tables.cuh"

#include "work.cuh"

namespace roialign_ext::cuda {
namespace {

// Blocks that measure a box are small, since most boxes have few bins and pixels along an axis.
constexpr int kBoxThreads = 64, kBoxBlocks = 4;

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
  return args.sampling_ratio < kMaxSamples ? args.sampling_ratio : kMaxSamples;
}

bool is_adaptive(const CallArgs& args) { return args.sampling_ratio <= 0 || args.rule == Rule::kRoiPool; }

void take_bands(AxisBands& axis, const CallArgs& args, int64_t bins, int64_t length, bool by_pixel, Scratch& scratch) {
  axis.bins = bins;
  axis.length = length;
  axis.bands = scratch.take<Band>(args.boxes * bins);
  axis.pixels = scratch.take<Span>(args.boxes);
  axis.bins_of_pixel = by_pixel ? scratch.take<Span>(args.boxes * length) : nullptr;
}

template <class W>
void take_axis(AxisTables<W>& axis, const CallArgs& args, const Products& products, Scratch& scratch) {
  axis.tables = products.tables;
  axis.slots = TableSlots::count(axis.length, axis.bins);
  axis.weights = scratch.take<W>(args.boxes * axis.tables * axis.slots);
}

template <class W>
void take_axis(AxisTaps<W>& axis, const CallArgs& args, const Products& products, Scratch& scratch) {
  axis.tables = products.tables;
  axis.slots = TableSlots::count(axis.length, axis.bins);
  axis.taps = scratch.take<Tap<W>>(args.boxes * axis.tables * axis.slots);
  axis.lists = scratch.take<Span>(args.boxes * axis.tables * axis.bins);
  axis.on_map = args.extrapolation_value != 0 ? scratch.take<double>(args.boxes * axis.bins) : nullptr;
}

template <class W>
void take_axis(AxisSamples<W>& axis, const CallArgs& args, Scratch& scratch) {
  axis.slots = is_adaptive(args) ? SampleSlots::count(axis.length, axis.bins) : given_samples(args) * axis.bins;
  axis.samples = scratch.take<SampleTap<W>>(args.boxes * axis.slots);
  axis.rejected = scratch.take<Rejected>(args.boxes * axis.bins);
}

// One axis of one box.
template <class T>
__device__ __forceinline__ BoxAxis<T> axis_of(const CallArgs& args, const T* row, int level, bool is_y) {
  const MapArgs& map = args.maps[level];
  const T* edge = row + (is_y ? 2 : 1);
  return make_box_axis<T>(args.rule, edge[0], edge[2], static_cast<T>(map.scale), is_y ? args.bins_y : args.bins_x,
                          is_y ? map.height : map.width, args.sampling_ratio);
}

template <class T>
__device__ __forceinline__ EdgeRates<T> rates_along(const CallArgs& args, Along along, int64_t box, bool is_y) {
  if (along == kAlongLowEdge) return {T(1), T(0)};
  if (along == kAlongHighEdge) return {T(0), T(1)};
  const T* rates = static_cast<const T*>(args.directions[along]) + 5 * box + (is_y ? 2 : 1);
  return {rates[0], rates[2]};
}

// The pixels that a sample may touch.
template <class T>
__device__ __forceinline__ void include(Span& pixels, const AxisSample<T>& sample, int64_t length) {
  const int low = static_cast<int>(sample.low > 0 ? sample.low : 0);
  const int end = static_cast<int>(sample.low + 2 < length ? sample.low + 2 : length);
  pixels.begin = low < pixels.begin ? low : pixels.begin;
  pixels.end = end > pixels.end ? end : pixels.end;
}

// What the bands of a box say together. The whole block calls it, after all bands of the box are written.
__device__ __forceinline__ void summarise(const AxisBands& axis, int64_t box) {
  const Band* bands = axis.bands + box * axis.bins;
  Span pixels = {static_cast<int>(axis.length), 0};
  for (int p = 0; p < axis.bins; ++p) {
    const Span own = bands[p].pixels;
    if (own.begin == own.end) continue;
    pixels.begin = own.begin < pixels.begin ? own.begin : pixels.begin;
    pixels.end = own.end > pixels.end ? own.end : pixels.end;
  }
  if (threadIdx.x == 0) axis.pixels[box] = pixels.begin < pixels.end ? pixels : Span{0, 0};
  if (axis.bins_of_pixel == nullptr) return;
  for (int i = pixels.begin + static_cast<int>(threadIdx.x); i < pixels.end; i += kBoxThreads) {
    Span bins = {0, 0};
    for (int p = 0; p < axis.bins; ++p) {
      if (!contains(bands[p].pixels, i)) continue;
      if (bins.end == 0) bins.begin = p;
      bins.end = p + 1;
    }
    axis.bins_of_pixel[box * axis.length + i] = bins;
  }
}

// Calls fill(row of the box, level, y or x, bin) for all bins of both axes of a box, one thread each, and summarises.
// A block has one box.
template <class T, class Axis, class Fill>
__device__ __forceinline__ void build_box(const CallArgs& args, int* plane_of_box, const Axis& y, const Axis& x,
                                          Fill&& fill) {
  const int64_t box = blockIdx.x;
  const T* row = static_cast<const T*>(args.rows) + 5 * box;
  const int plane = find_plane(args, row);
  if (threadIdx.x == 0) plane_of_box[box] = plane;
  if (plane < 0) return;
  const int level = static_cast<int>(plane / args.images);
  for (int64_t i = threadIdx.x; i < y.bins + x.bins; i += kBoxThreads) {
    const bool is_y = i < y.bins;
    fill(box, axis_of(args, row, level, is_y), is_y, is_y ? i : i - y.bins);
  }
  __syncthreads();
  summarise(y, box);
  summarise(x, box);
}

// Where the taps of one bin by one table go: to the place of their pixel, among zeros...
template <class W>
struct ByPixel {
  W* weights;

  __device__ ByPixel(const AxisTables<W>& axis, int64_t box, int t, int64_t, const Band& band)
      : weights(axis.weights + (box * axis.tables + t) * axis.slots + band.offset) {
    for (int i = band.pixels.begin; i < band.pixels.end; ++i) weights[i] = W(0);
  }
  __device__ void put(int64_t pixel, W weight) { weights[pixel] = weight; }
  __device__ void end() {}
};

// ... or one after another.
template <class W>
struct InLine {
  Tap<W>* taps;
  Span* list;
  Span slots;

  __device__ InLine(const AxisTaps<W>& axis, int64_t box, int t, int64_t p, const Band& band)
      : taps(axis.taps + (box * axis.tables + t) * axis.slots),
        list(axis.lists + (box * axis.tables + t) * axis.bins + p),
        slots{band.offset + band.pixels.begin, band.offset + band.pixels.begin} {}
  __device__ void put(int64_t pixel, W weight) { taps[slots.end++] = {static_cast<int>(pixel), weight}; }
  __device__ void end() { *list = slots; }
};

template <class W>
__device__ ByPixel<W> writer(const AxisTables<W>& axis, int64_t box, int t, int64_t p, const Band& band) {
  return {axis, box, t, p, band};
}
template <class W>
__device__ InLine<W> writer(const AxisTaps<W>& axis, int64_t box, int t, int64_t p, const Band& band) {
  return {axis, box, t, p, band};
}

template <class W>
__device__ void store_on_map(const AxisTables<W>&, int64_t, double) {}
template <class W>
__device__ void store_on_map(const AxisTaps<W>& axis, int64_t bin, double on_map) {
  if (axis.on_map != nullptr) axis.on_map[bin] = on_map;
}

// Target is Tables or Taps.
template <class T, class Target>
__global__ void __launch_bounds__(kBoxThreads, kBoxBlocks)
    fill_tables(const __grid_constant__ CallArgs args, const __grid_constant__ Products products,
                const __grid_constant__ Target tables) {
  using W = typename Target::Weight;
  build_box<T>(
      args, tables.plane_of_box, tables.y, tables.x, [&](int64_t box, const BoxAxis<T>& axis, bool is_y, int64_t p) {
        const auto& target = is_y ? tables.y : tables.x;
        Span pixels = {static_cast<int>(axis.length), 0};
        double on_map = 0;
        for_each_sample(axis, p, /*ascending_positions=*/true, [&](const AxisSample<T>& sample) {
          include(pixels, sample, axis.length);
          on_map += static_cast<double>(sample.count);
        });
        if (pixels.begin >= pixels.end) pixels = {0, 0};
        const int64_t place = axis.bin < T(0) ? axis.bins - 1 - p : p;
        const Band band = {pixels, TableSlots::begin(target.slots, place), 0};
        target.bands[box * axis.bins + p] = band;
        store_on_map(target, box * axis.bins + p, on_map);
        for (int t = 0; t < products.tables; ++t) {
          auto written = writer(target, box, t, p, band);
          const auto emit = [&](int64_t pixel, const W* weight) { written.put(pixel, *weight); };
          const TableKind kind = products.kinds[t];
          const auto rates = [&](Along along) { return rates_along<T>(args, along, box, is_y); };
          if (kind.order == 0) {
            for_each_tap<W>(axis, p, TableValue<T>{}, emit);
          } else if (kind.order == 1) {
            for_each_tap<W>(axis, p, TableDerivative<T, 1, 1>{{rates(kind.first)}, {}}, emit);
          } else {
            for_each_tap<W>(axis, p, TableDerivative<T, 1, 2>{{rates(kind.first)}, {rates(kind.second)}}, emit);
          }
          written.end();
        }
      });
}

template <class W, class T>
__global__ void __launch_bounds__(kBoxThreads, kBoxBlocks)
    fill_samples(const __grid_constant__ CallArgs args, int64_t most, bool adaptive,
                 const __grid_constant__ Samples<W> samples) {
  build_box<T>(
      args, samples.plane_of_box, samples.y, samples.x, [&](int64_t box, const BoxAxis<T>& axis, bool is_y, int64_t p) {
        const AxisSamples<W>& target = is_y ? samples.y : samples.x;
        Band band = {{static_cast<int>(axis.length), 0}, static_cast<int>(most * p), 0};
        SampleTap<W>* const taps = target.samples + box * target.slots;
        int64_t next_index = 0;
        bool first = true;
        for_each_sample(axis, p, /*ascending_positions=*/false, [&](const AxisSample<T>& sample) {
          if (adaptive && band.samples == 0) {
            band.offset = SampleSlots::begin(target.slots, p) + SampleSlots::kPerPixel * static_cast<int>(sample.low);
          }
          if (sample.index == 0) first = false;
          next_index = sample.index + sample.count;
          if (band.samples == kMaxSamples || band.offset + band.samples >= target.slots) return;
          W low[2], high[2];
          sample_weights(axis, p, first_of(sample), by_edges<T>(), low, high);
          taps[band.offset + band.samples++] = {static_cast<int>(sample.low), static_cast<W>(sample.fraction), high[0],
                                                high[1]};
          include(band.pixels, sample, axis.length);
        });
        if (band.samples == 0) band.pixels = {0, 0};
        target.bands[box * axis.bins + p] = band;
        target.rejected[box * axis.bins + p] = {first, next_index > 0 && next_index < axis.grid};
      });
}

// A block has one plane: it counts the boxes of those before it, and then lists its own.
__global__ void __launch_bounds__(kThreads) list_boxes(const int* plane_of_box, int64_t boxes, Groups groups) {
  ROI_SHARED_BYTES(shared);
  int* const counts = reinterpret_cast<int*>(shared);
  const int plane = static_cast<int>(blockIdx.x);
  int listed = 0, before = 0;
  for (int64_t first = 0; first < boxes; first += kThreads) {
    const int64_t k = first + threadIdx.x;
    const int own = k < boxes ? plane_of_box[k] : -1;
    int total;
    rank_in_block(own >= 0 && own < plane, counts, total);
    before += total;
  }
  for (int64_t first = 0; first < boxes; first += kThreads) {
    const int64_t k = first + threadIdx.x;
    const bool mine = k < boxes && plane_of_box[k] == plane;
    int total;
    const int rank = rank_in_block(mine, counts, total);
    if (mine) groups.boxes[before + listed + rank] = static_cast<int>(k);
    listed += total;
  }
  if (threadIdx.x == 0) groups.segments[plane] = {before, before + listed};
}

}  // namespace

Products average_products(const CallArgs& args) {
  if (args.direction_count == 0) return {1, {kValue}, 1, {{0, 0}}};
  if (args.direction_count == 1) return {2, {kValue, along(kAlongU)}, 2, {{1, 0}, {0, 1}}};
  if (!is_integral(args.rule)) return {2, {along(kAlongU), along(kAlongV)}, 2, {{0, 1}, {1, 0}}};
  return {4, {along(kAlongU), along(kAlongV), along(kAlongU, kAlongV), kValue}, 4, {{0, 1}, {1, 0}, {2, 3}, {3, 2}}};
}

Products box_gradient_products(const CallArgs& args) {
  const TableKind low = along(kAlongLowEdge), high = along(kAlongHighEdge);
  if (args.direction_count == 0) return {3, {kValue, low, high}, 0, {}};
  if (!is_integral(args.rule)) return {3, {along(kAlongU), low, high}, 0, {}};
  return {6, {along(kAlongU), low, high, kValue, along(kAlongLowEdge, kAlongU), along(kAlongHighEdge, kAlongU)}, 0, {}};
}

int64_t most_samples(const CallArgs& args) {
  if (!is_adaptive(args)) return args.sampling_ratio;
  const int64_t height = longest(args, &MapArgs::height), width = longest(args, &MapArgs::width);
  if (args.rule == Rule::kRoiPool) return height > width ? height : width;  // cells
  return SampleSlots::kPerPixel * (height > width ? height : width) + SampleSlots::kPerBin;
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
  take_bands(taps.y, args, args.bins_y, longest(args, &MapArgs::height), /*by_pixel=*/false, scratch);
  take_bands(taps.x, args, args.bins_x, longest(args, &MapArgs::width), /*by_pixel=*/false, scratch);
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

// A block has the box of its number.
template <class Target>
void launch_fill(const CallArgs& args, const Products& products, const Target& target, Launcher& launcher) {
  if (args.wide_boxes) {
    launcher.launch("fill_tables", fill_tables<double, Target>, args.boxes, kBoxThreads, 0, args, products, target);
  } else if constexpr (sizeof(typename Target::Weight) == sizeof(float)) {
    launcher.launch("fill_tables", fill_tables<float, Target>, args.boxes, kBoxThreads, 0, args, products, target);
  }
}

template <class W>
void build_tables(const CallArgs& args, const Products& products, const Tables<W>& tables, Launcher& launcher) {
  launch_fill(args, products, tables, launcher);
}

template <class W>
void build_taps(const CallArgs& args, const Products& products, const Taps<W>& taps, Launcher& launcher) {
  launch_fill(args, products, taps, launcher);
}

template <class W>
void build_samples(const CallArgs& args, const Samples<W>& samples, Launcher& launcher) {
  const int64_t most = given_samples(args);
  if (args.wide_boxes) {
    launcher.launch("fill_samples", fill_samples<W, double>, args.boxes, kBoxThreads, 0, args, most, is_adaptive(args),
                    samples);
  } else if constexpr (sizeof(W) == sizeof(float)) {
    launcher.launch("fill_samples", fill_samples<W, float>, args.boxes, kBoxThreads, 0, args, most, is_adaptive(args),
                    samples);
  }
}

void build_groups(const CallArgs& args, const int* plane_of_box, const Groups& groups, Launcher& launcher) {
  launcher.launch("list_boxes", list_boxes, planes_of(args), kThreads, kWarps * sizeof(int), plane_of_box, args.boxes,
                  groups);
}

#define INSTANTIATE(W)                                                                       \
  template Tables<W> take_tables<W>(const CallArgs&, const Products&, bool, Scratch&);       \
  template Taps<W> take_taps<W>(const CallArgs&, const Products&, Scratch&);                 \
  template Samples<W> take_samples<W>(const CallArgs&, bool, Scratch&);                      \
  template void build_tables(const CallArgs&, const Products&, const Tables<W>&, Launcher&); \
  template void build_taps(const CallArgs&, const Products&, const Taps<W>&, Launcher&);     \
  template void build_samples(const CallArgs&, const Samples<W>&, Launcher&);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace roialign_ext::cuda
