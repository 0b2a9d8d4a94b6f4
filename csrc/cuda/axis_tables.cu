#include "axis_tables.cuh"

#include "measure_boxes.cuh"

namespace roialign_ext::cuda {
namespace {

template <class W>
void take_axis(AxisWeightsByPixel<W>& axis, const CallArgs& args, const Products& products, Scratch& scratch) {
  axis.tables = products.tables;
  axis.slots = Slots::count(axis.length, axis.bins);
  axis.weights = scratch.take<W>(args.boxes * axis.tables * axis.slots);
}

template <class W>
void take_axis(AxisTapsByBin<W>& axis, const CallArgs& args, const Products& products, Scratch& scratch) {
  axis.tables = products.tables;
  const int64_t slots_by_pixel = Slots::count(axis.length, axis.bins);
  // A sample has two taps.
  const int64_t slots_of_bin = is_adaptive(args) || is_integral(args.rule) ? 0 : 2 * args.sampling_ratio;
  axis.slots_of_bin = slots_of_bin * axis.bins < slots_by_pixel ? slots_of_bin : 0;
  axis.slots = axis.slots_of_bin > 0 ? slots_of_bin * axis.bins : slots_by_pixel;
  axis.taps = scratch.take<Tap<W>>(args.boxes * axis.tables * axis.slots);
  axis.lists = scratch.take<Span>(args.boxes * axis.tables * axis.bins);
  axis.on_map = args.extrapolation_value != 0 ? scratch.take<double>(args.boxes * axis.bins) : nullptr;
}

template <class T>
__device__ __forceinline__ EdgeRates<T> rates_along(const CallArgs& args, Along along, int64_t box, bool is_y) {
  if (along == kAlongLowEdge) return {T(1), T(0)};
  if (along == kAlongHighEdge) return {T(0), T(1)};
  const T* rates = static_cast<const T*>(args.directions[along]) + 5 * box + (is_y ? 2 : 1);
  return {rates[0], rates[2]};
}

// A derivative of a table whose order is known only at run time, so that all orders share one loop over samples.
template <class T>
struct AnyDerivative {
  static constexpr int M = 1;
  int order;
  EdgeRates<T> first[1], second[1];
};

template <class T>
__device__ __forceinline__ AnyDerivative<T> derivative_of(const CallArgs& args, const TableKind& kind, int64_t box,
                                                          bool is_y) {
  AnyDerivative<T> derivative = {kind.order, {}, {}};
  if (kind.order > 0) derivative.first[0] = rates_along<T>(args, kind.first, box, is_y);
  if (kind.order > 1) derivative.second[0] = rates_along<T>(args, kind.second, box, is_y);
  return derivative;
}

// Writes the taps of one bin by one table in the order of for_each_tap. `pixels` is the span touched so far.
template <class Axis>
class Writer;

// Writes a weight to the slot of its pixel, and zeros between.
template <class W>
class Writer<AxisWeightsByPixel<W>> {
 public:
  __device__ Writer(const AxisWeightsByPixel<W>& axis, int64_t box, int t, int64_t, int offset)
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

// Writes taps one after another.
template <class W>
class Writer<AxisTapsByBin<W>> {
 public:
  __device__ Writer(const AxisTapsByBin<W>& axis, int64_t box, int t, int64_t p, int offset)
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

// Stores the other result of a bin: the slot of its weights, or the number of its samples on the map.
template <class W>
__device__ __forceinline__ void store_bin(const AxisWeightsByPixel<W>& axis, int64_t bin, Span pixels, int offset,
                                          int64_t) {
  axis.bands[bin] = {pixels, offset, 0};
}
template <class W>
__device__ __forceinline__ void store_bin(const AxisTapsByBin<W>& axis, int64_t bin, Span, int, int64_t on_map) {
  if (axis.on_map != nullptr) axis.on_map[bin] = static_cast<double>(on_map);
}

// Writes the tables of one bin; Axis is AxisWeightsByPixel or AxisTapsByBin.
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
    pixels = normalized(pixels);
    writer.end(pixels);
  }
  store_bin(target, box * axis.bins + p, pixels, offset, on_map);
  return pixels;
}

// Target is WeightsByPixel or TapsByBin.
template <class T, class Target>
__global__ void __launch_bounds__(kThreads, kMeasureBlocks)
    fill_tables(const __grid_constant__ CallArgs args, const __grid_constant__ Products products,
                const __grid_constant__ Target tables, const BoxesByPlane by_plane) {
  measure_box<T>(args, by_plane, tables.plane_of_box, tables.y, tables.x,
                 [&](const auto& target, int64_t box, const BoxAxis<T>& axis, bool is_y, int64_t p) {
                   return fill_bin(args, products, target, box, axis, is_y, p);
                 });
}

}  // namespace

template <class W>
WeightsByPixel<W> take_weights_by_pixel(const CallArgs& args, const Products& products, bool bins_of_pixel,
                                        Scratch& scratch) {
  WeightsByPixel<W> tables;
  tables.plane_of_box = scratch.take<int>(args.boxes);
  take_bands(tables.y, args, args.bins_y, longest(args, &MapArgs::height), bins_of_pixel, scratch);
  take_bands(tables.x, args, args.bins_x, longest(args, &MapArgs::width), bins_of_pixel, scratch);
  take_axis(tables.y, args, products, scratch);
  take_axis(tables.x, args, products, scratch);
  return tables;
}

template <class W>
TapsByBin<W> take_taps_by_bin(const CallArgs& args, const Products& products, Scratch& scratch) {
  TapsByBin<W> taps;
  taps.plane_of_box = scratch.take<int>(args.boxes);
  take_spans(taps.y, args, args.bins_y, longest(args, &MapArgs::height), scratch);
  take_spans(taps.x, args, args.bins_x, longest(args, &MapArgs::width), scratch);
  take_axis(taps.y, args, products, scratch);
  take_axis(taps.x, args, products, scratch);
  return taps;
}

template <class Target>
void launch_fill(const CallArgs& args, const Products& products, const Target& target, const BoxesByPlane& by_plane,
                 Launcher& launcher) {
  const auto launch = [&](auto kernel) {
    launcher.launch("fill_tables", kernel, blocks_for_boxes(args, by_plane), kThreads, kBoxesByPlaneBytes, args,
                    products, target, by_plane);
  };
  if (args.boxes_are_double) {
    launch(fill_tables<double, Target>);
  } else if constexpr (sizeof(typename Target::Weight) == sizeof(float)) {
    launch(fill_tables<float, Target>);
  }
}

template <class W>
void build_weights_by_pixel(const CallArgs& args, const Products& products, const WeightsByPixel<W>& tables,
                            const BoxesByPlane& by_plane, Launcher& launcher) {
  launch_fill(args, products, tables, by_plane, launcher);
}

template <class W>
void build_taps_by_bin(const CallArgs& args, const Products& products, const TapsByBin<W>& taps, Launcher& launcher) {
  launch_fill(args, products, taps, BoxesByPlane{}, launcher);
}

#define INSTANTIATE(W)                                                                                   \
  template WeightsByPixel<W> take_weights_by_pixel<W>(const CallArgs&, const Products&, bool, Scratch&); \
  template TapsByBin<W> take_taps_by_bin<W>(const CallArgs&, const Products&, Scratch&);                 \
  template void build_weights_by_pixel(const CallArgs&, const Products&, const WeightsByPixel<W>&,       \
                                       const BoxesByPlane&, Launcher&);                                  \
  template void build_taps_by_bin(const CallArgs&, const Products&, const TapsByBin<W>&, Launcher&);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace roialign_ext::cuda
