// Samples of all boxes of a call, for the maximum and its argmax. One launch writes them to scratch memory, and the
// kernels over features only read them (on the CPU: csrc/cpu/axis_samples.h).
#pragma once

#include "../core/argmax.h"
#include "axis_bands.cuh"
#include "planes.cuh"
#include "scratch.h"

namespace roialign_ext::cuda {

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

template <class W>
Samples<W> take_samples(const CallArgs& args, bool bins_of_pixel, Scratch& scratch);

// If `by_plane` is requested, the same launch lists the boxes of each plane.
template <class W>
void build_samples(const CallArgs& args, const Samples<W>& samples, const BoxesByPlane& by_plane, Launcher& launcher);

}  // namespace roialign_ext::cuda
