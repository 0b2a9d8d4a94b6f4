// Tables of single samples for the maximum, which cannot merge samples into taps as averages do (on CUDA:
// csrc/cuda/axis_samples.cuh).
#pragma once

#include <algorithm>
#include <vector>

#include "../core/argmax.h"
#include "../errors.h"
#include "planes.h"

namespace roialign_ext {

template <class W>
struct AxisSamples {
  int64_t bins;
  std::vector<int64_t> begin{0};      // [boxes * bins + 1] into samples
  std::vector<SampleTap<W>> samples;  // those on the map, in the order of their index
  std::vector<Rejected> rejected;     // [boxes * bins]

  template <class T>
  void append(const BoxAxis<T>& axis) {
    bins = axis.bins;
    for (int64_t p = 0; p < axis.bins; ++p) {
      rejected.push_back(for_each_max_sample(
          axis, p, [&](const AxisSample<T>& sample) { samples.push_back(sample_tap<W>(axis, p, sample)); }));
      ROI_CHECK_VALUE(static_cast<int64_t>(samples.size()) - begin.back() <= kMaxSamplesOfBin,
                      axis.rule == Rule::kRoiPool ? "roi_pool" : "mode 'max'", ": at most ", kMaxSamplesOfBin,
                      " samples of a bin may fall on the map along one axis");
      begin.push_back(static_cast<int64_t>(samples.size()));
    }
  }
};

template <class W>
struct SamplePlan {
  AxisSamples<W> x, y;
};

template <class W, class T>
SamplePlan<W> make_sample_plan(const CallArgs<T>& args) {
  SamplePlan<W> plan;
  for (int64_t k = 0; k < args.boxes; ++k) {
    plan.y.append(args.y_axis(k));
    plan.x.append(args.x_axis(k));
  }
  return plan;
}

// The same with the interface for a row sweep (row_sweep.h). A y entry is one sample of a box along y.
template <class W>
struct MaxPlan {
  SamplePlan<W> samples;
  std::vector<int32_t> first, last;  // [boxes] columns [first, last) are touched

  int64_t first_y_entry(int64_t k) const { return samples.y.begin[k * samples.y.bins]; }
  RowRange rows(int64_t y_entry) const {
    const SampleTap<W>& sample = samples.y.samples[y_entry];
    return {sample.low, sample.low + (sample.fraction != W(0) ? 2 : 1)};
  }
  int32_t first_column(int64_t k) const { return first[k]; }
  int32_t last_column(int64_t k) const { return last[k]; }

  bool touches_map(int64_t k) const {
    return first_y_entry(k) < first_y_entry(k + 1) && first_column(k) < last_column(k);
  }

  // True if a sweep from top to bottom visits the samples of each bin in the order of their index. False for a reversed
  // box.
  bool descends(int64_t k) const {
    const AxisSamples<W>& y = samples.y;
    for (int64_t bin = k * y.bins; bin < (k + 1) * y.bins; ++bin) {
      const bool has_samples = y.begin[bin] < y.begin[bin + 1];
      if (has_samples && y.samples[y.begin[bin]].low > y.samples[y.begin[bin + 1] - 1].low) return false;
    }
    return true;
  }
};

template <class W, class T>
MaxPlan<W> make_max_plan(const CallArgs<T>& args) {
  MaxPlan<W> plan = {make_sample_plan<W>(args), {}, {}};
  const AxisSamples<W>& x = plan.samples.x;
  for (int64_t k = 0; k < args.boxes; ++k) {
    int32_t first = INT32_MAX, last = 0;
    for (int64_t i = x.begin[k * x.bins]; i < x.begin[(k + 1) * x.bins]; ++i) {
      first = std::min(first, x.samples[i].low);
      last = std::max(last, x.samples[i].low + (x.samples[i].fraction != W(0) ? 2 : 1));
    }
    plan.first.push_back(first);
    plan.last.push_back(last);
  }
  return plan;
}

}  // namespace roialign_ext
