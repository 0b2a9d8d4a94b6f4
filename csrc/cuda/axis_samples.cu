#include "axis_samples.cuh"

#include "measure_boxes.cuh"

namespace roialign_ext::cuda {
namespace {

// Slots of a bin, for a positive sampling ratio. Samples after the first kMaxSamplesOfBin are ignored.
int64_t find_slots_of_bin(const CallArgs& args) {
  return args.sampling_ratio < kMaxSamplesOfBin ? args.sampling_ratio : kMaxSamplesOfBin;
}

template <class W>
void take_axis(AxisSamples<W>& axis, const CallArgs& args, Scratch& scratch) {
  axis.slots = is_adaptive(args) ? Slots::count(axis.length, axis.bins) : find_slots_of_bin(args) * axis.bins;
  axis.samples = scratch.take<SampleTap<W>>(args.boxes * axis.slots);
  axis.rejected = scratch.take<Rejected>(args.boxes * axis.bins);
}

// Writes the samples of one bin.
template <class T, class W>
__device__ __forceinline__ Span fill_bin(int64_t slots_of_bin, bool adaptive, const AxisSamples<W>& target, int64_t box,
                                         const BoxAxis<T>& axis, int64_t p) {
  Band band = {nothing(), static_cast<int>(slots_of_bin * p), 0};
  SampleTap<W>* const taps = target.samples + box * target.slots;
  const Rejected rejected = for_each_max_sample(axis, p, [&](const AxisSample<T>& sample) {
    if (adaptive && band.samples == 0) {
      band.offset = Slots::begin(target.slots, p) + static_cast<int>(sample.low);
    }
    if (band.samples == kMaxSamplesOfBin || band.offset + band.samples >= target.slots) return;
    taps[band.offset + band.samples++] = sample_tap<W>(axis, p, sample);
    band.pixels = unite(band.pixels, touched(sample, axis.length));
  });
  band.pixels = normalized(band.pixels);
  target.bands[box * axis.bins + p] = band;
  target.rejected[box * axis.bins + p] = rejected;
  return band.pixels;
}

template <class W, class T>
__global__ void __launch_bounds__(kThreads, kMeasureBlocks)
    fill_samples(const __grid_constant__ CallArgs args, int64_t slots_of_bin, bool adaptive,
                 const __grid_constant__ Samples<W> samples, const BoxesByPlane by_plane) {
  measure_box<T>(args, by_plane, samples.plane_of_box, samples.y, samples.x,
                 [&](const auto& target, int64_t box, const BoxAxis<T>& axis, bool, int64_t p) {
                   return fill_bin(slots_of_bin, adaptive, target, box, axis, p);
                 });
}

}  // namespace

int64_t max_samples_of_bin(const CallArgs& args) {
  if (!is_adaptive(args)) return args.sampling_ratio;
  const int64_t height = longest(args, &MapArgs::height), width = longest(args, &MapArgs::width);
  if (args.rule == Rule::kRoiPool) return height > width ? height : width;  // one per cell
  return 2 * (height > width ? height : width) + 3;  // at least half a pixel apart, from -1 to the length
}

template <class W>
Samples<W> take_samples(const CallArgs& args, bool bins_of_pixel, Scratch& scratch) {
  Samples<W> samples;
  samples.plane_of_box = scratch.take<int>(args.boxes);
  take_bands(samples.y, args, args.bins_y, longest(args, &MapArgs::height), bins_of_pixel, scratch);
  take_bands(samples.x, args, args.bins_x, longest(args, &MapArgs::width), bins_of_pixel, scratch);
  take_axis(samples.y, args, scratch);
  take_axis(samples.x, args, scratch);
  return samples;
}

template <class W>
void build_samples(const CallArgs& args, const Samples<W>& samples, const BoxesByPlane& by_plane, Launcher& launcher) {
  const auto launch = [&](auto kernel) {
    launcher.launch("fill_samples", kernel, blocks_for_boxes(args, by_plane), kThreads, kBoxesByPlaneBytes, args,
                    find_slots_of_bin(args), is_adaptive(args), samples, by_plane);
  };
  if (args.boxes_are_double) {
    launch(fill_samples<W, double>);
  } else if constexpr (sizeof(W) == sizeof(float)) {
    launch(fill_samples<W, float>);
  }
}

template Samples<float> take_samples<float>(const CallArgs&, bool, Scratch&);
template Samples<double> take_samples<double>(const CallArgs&, bool, Scratch&);
template void build_samples(const CallArgs&, const Samples<float>&, const BoxesByPlane&, Launcher&);
template void build_samples(const CallArgs&, const Samples<double>&, const BoxesByPlane&, Launcher&);

}  // namespace roialign_ext::cuda
