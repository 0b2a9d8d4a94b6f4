// Tables of all boxes of a call, independent of the features. Kernels read the x tables by bin and the y tables by
// pixel (on CUDA: csrc/cuda/axis_tables.cuh).
#pragma once

#include <vector>

#include "../core/axis_weights.h"
#include "../core/limits.h"
#include "../core/products.h"
#include "planes.h"
#include "tuning.h"

namespace roialign_ext {

template <class W, int M>
struct Tap {
  int32_t index;  // of the pixel in taps by bin, of the bin in taps by pixel
  W weight[M];
};

// Tables of the x axis: the taps of each bin of each term, by ascending pixel.
template <class W, int M>
struct AxisTapsByBin {
  int64_t bins;
  std::vector<int64_t> begin;  // [terms * bins + 1] into taps
  std::vector<Tap<W, M>> taps;
  std::vector<int32_t> first, last;  // [terms] pixels [first, last) are touched

  const int64_t* term(int64_t i) const { return begin.data() + i * bins; }
};

// The taps of one pixel of the axis.
struct PixelTaps {
  int32_t pixel;
  int64_t begin, end;  // into taps
};

// Tables of the y axis: the taps of each touched pixel, a row of the map, of each term.
template <class W, int M>
struct AxisTapsByPixel {
  std::vector<int64_t> begin{0};  // [terms + 1] into pixels
  std::vector<PixelTaps> pixels;  // ascending within a term
  std::vector<Tap<W, M>> taps;
};

// Appends the table of one term.
template <class W, int M>
class TableBuilder {
 public:
  template <class T, int ORDER>
  static void append(AxisTapsByBin<W, M>& tables, const BoxAxis<T>& axis,
                     const TableDerivative<T, M, ORDER>& derivative) {
    if (tables.begin.empty()) tables.begin.push_back(0);
    tables.bins = axis.bins;
    int32_t first = static_cast<int32_t>(axis.length), last = 0;
    for (int64_t p = 0; p < axis.bins; ++p) {
      for_each_tap<W>(axis, p, derivative, [&](int64_t pixel, const W* weight) {
        tables.taps.push_back(make_tap(pixel, weight));
        if (pixel < first) first = static_cast<int32_t>(pixel);
        if (pixel >= last) last = static_cast<int32_t>(pixel + 1);
      });
      tables.begin.push_back(static_cast<int64_t>(tables.taps.size()));
    }
    tables.first.push_back(first);
    tables.last.push_back(last);
  }

  template <class T, int ORDER>
  void append(AxisTapsByPixel<W, M>& tables, const BoxAxis<T>& axis, const TableDerivative<T, M, ORDER>& derivative) {
    entries_.clear();
    // Starts at the end with the lowest positions: pixels then nearly ascend, and insertion costs almost nothing.
    for (int64_t step = 0; step < axis.bins; ++step) {
      const int64_t p = axis.bin < T(0) ? axis.bins - 1 - step : step;
      for_each_tap<W>(axis, p, derivative, [&](int64_t pixel, const W* weight) {
        entries_.push_back({static_cast<int32_t>(pixel), make_tap(p, weight)});
        for (size_t i = entries_.size() - 1; i > 0 && entries_[i].pixel < entries_[i - 1].pixel; --i) {
          std::swap(entries_[i], entries_[i - 1]);
        }
      });
    }
    for (const Entry& entry : entries_) {
      const bool new_pixel = static_cast<int64_t>(tables.pixels.size()) == tables.begin.back() ||
                             tables.pixels.back().pixel != entry.pixel;
      const int64_t at = static_cast<int64_t>(tables.taps.size());
      if (new_pixel) tables.pixels.push_back({entry.pixel, at, at});
      tables.taps.push_back(entry.tap);
      ++tables.pixels.back().end;
    }
    tables.begin.push_back(static_cast<int64_t>(tables.pixels.size()));
  }

 private:
  struct Entry {
    int32_t pixel;
    Tap<W, M> tap;
  };

  static Tap<W, M> make_tap(int64_t index, const W* weight) {
    Tap<W, M> tap;
    tap.index = static_cast<int32_t>(index);
    for (int m = 0; m < M; ++m) tap.weight[m] = weight[m];
    return tap;
  }

  std::vector<Entry> entries_;
};

// One row of the map in one term: the taps of the x table by bin, and those of the y table at the row.
template <class W>
struct RowProduct {
  const int64_t* x_begin;  // [bins_x + 1] into x_taps
  int64_t bins_x;
  const Tap<W, 1>* x_taps;
  const Tap<W, 1>*y_begin, *y_end;
};

// Tables of an averaging call. A term is one product of a y table and an x table (core/products.h).
template <class W>
struct AveragePlan {
  int64_t terms;  // per box, those of a box side by side
  AxisTapsByBin<W, 1> x;
  AxisTapsByPixel<W, 1> y;
  BoxesByPlane by_plane;
  std::vector<W> outside;  // [K][bins] contribution of the samples outside the map, for all channels; or empty

  RowProduct<W> on_row(int64_t term, const PixelTaps& row) const {
    return {x.term(term), x.bins, x.taps.data(), y.taps.data() + row.begin, y.taps.data() + row.end};
  }

  // The interface for a row sweep, of one term per box. A y entry is a row of the map that a box touches.
  int64_t first_y_entry(int64_t k) const { return y.begin[k]; }
  RowRange rows(int64_t y_entry) const { return {y.pixels[y_entry].pixel, y.pixels[y_entry].pixel + 1}; }
  int32_t first_column(int64_t k) const { return x.first[k]; }
  int32_t last_column(int64_t k) const { return x.last[k]; }
};

template <class W, class T>
void add_extrapolation(AveragePlan<W>& plan, const CallArgs<T>& args, double value) {
  const auto samples_on_map = [](const BoxAxis<T>& axis, std::vector<double>& counts) {
    counts.assign(static_cast<size_t>(axis.bins), 0.0);
    for (int64_t p = 0; p < axis.bins; ++p) {
      for_each_sample(axis, p, [&](const AxisSample<T>& sample) { counts[p] += static_cast<double>(sample.count); });
    }
  };
  std::vector<double> on_map_y, on_map_x;
  for (int64_t k = 0; k < args.boxes; ++k) {
    samples_on_map(args.y_axis(k), on_map_y);
    samples_on_map(args.x_axis(k), on_map_x);
    for (double count_y : on_map_y) {
      for (double count_x : on_map_x) {
        plan.outside.push_back(extrapolated<W>(value, args.sampling_ratio, count_y, count_x));
      }
    }
  }
}

// Appends the table of one axis, or its derivative of that kind. `rates` are those of the directions.
template <class W, class Tables, class T>
void append_table(TableBuilder<W, 1>& builder, Tables& tables, const BoxAxis<T>& axis, const TableKind& kind,
                  const EdgeRates<T>* rates) {
  if (kind.order == 0) return builder.append(tables, axis, TableValue<T>{});
  const EdgeRates<T>& first = rates[kind.first];
  if (kind.order == 1) return builder.append(tables, axis, TableDerivative<T, 1, 1>{{first}, {}});
  builder.append(tables, axis, TableDerivative<T, 1, 2>{{first}, {rates[kind.second]}});
}

// `directions` holds 0, 1 or 2 pointers, laid out like the boxes.
template <class W, class T>
AveragePlan<W> make_average_plan(const CallArgs<T>& args, const std::vector<const T*>& directions) {
  AveragePlan<W> plan;
  const int order = static_cast<int>(directions.size());
  const Products products = average_products(args.rule, order);
  plan.terms = products.terms;
  TableBuilder<W, 1> builder;
  const size_t guess = static_cast<size_t>(args.boxes * plan.terms) * kReservedTaps;
  plan.x.begin.reserve(static_cast<size_t>(args.boxes * plan.terms * args.bins_x + 1));
  plan.x.taps.reserve(guess * static_cast<size_t>(args.bins_x));
  plan.y.taps.reserve(guess * static_cast<size_t>(args.bins_y));
  for (int64_t k = 0; k < args.boxes; ++k) {
    const BoxAxis<T> y = args.y_axis(k), x = args.x_axis(k);
    EdgeRates<T> y_rates[kMaxDirections], x_rates[kMaxDirections];
    for (int d = 0; d < order; ++d) {
      y_rates[d] = args.y_rates(directions[d], k);
      x_rates[d] = args.x_rates(directions[d], k);
    }
    for (int i = 0; i < products.terms; ++i) {
      append_table(builder, plan.y, y, products.kinds[products.term[i].y], y_rates);
      append_table(builder, plan.x, x, products.kinds[products.term[i].x], x_rates);
    }
  }
  plan.by_plane = group_by_plane(args.plane_of_box, args.planes());
  return plan;
}

}  // namespace roialign_ext
