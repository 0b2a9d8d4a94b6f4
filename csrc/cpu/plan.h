// Everything about the boxes of one call that does not depend on the features: tables per axis, in the two orders
// that the kernels read them, and which boxes belong to which image.
#pragma once

#include <vector>

#include "../core/axis_weights.h"

namespace roialign_ext {

// What every pooling call knows about its boxes. Rows are (image, x1, y1, x2, y2) in image pixels; `directions` are
// rows of the same form, the image column unused (docs/math.md, section 7).
template <class T>
struct BoxParams {
  Rule rule;
  double spatial_scale;
  int64_t sampling_ratio;
  int64_t boxes;
  int64_t bins_y, bins_x;
  int64_t images, height, width;
  const T* rows;

  BoxAxis<T> x_axis(int64_t k) const { return axis(rows + 5 * k + 1, bins_x, width); }
  BoxAxis<T> y_axis(int64_t k) const { return axis(rows + 5 * k + 2, bins_y, height); }

 private:
  BoxAxis<T> axis(const T* edge, int64_t bins, int64_t length) const {
    return make_box_axis<T>(rule, edge[0], edge[2], static_cast<T>(spatial_scale), bins, length, sampling_ratio);
  }
};

template <class W, int M>
struct Tap {
  int32_t index;  // a pixel in tables by bin, a bin in tables by pixel
  W weight[M];
};

// Tables of the x axis: for each bin of each item its taps, by ascending pixel.
template <class W, int M>
struct TablesByBin {
  int64_t bins;
  std::vector<int64_t> begin;  // [items * bins + 1] into taps
  std::vector<Tap<W, M>> taps;
  std::vector<int32_t> first, last;  // [items] pixels [first, last) are touched

  const int64_t* item(int64_t i) const { return begin.data() + i * bins; }
};

// Tables of the y axis: for each touched row of each item the bins that it feeds.
struct PixelRow {
  int32_t pixel;
  int64_t begin, end;  // into taps
};

template <class W, int M>
struct TablesByPixel {
  std::vector<int64_t> begin{0};  // [items + 1] into rows
  std::vector<PixelRow> rows;     // ascending pixels within an item
  std::vector<Tap<W, M>> taps;
};

// Builders append the table of one item.
template <class W, int M>
class TableBuilder {
 public:
  template <class T, class Weights>
  static void append(TablesByBin<W, M>& tables, const BoxAxis<T>& axis, const Weights& weights) {
    if (tables.begin.empty()) tables.begin.push_back(0);
    tables.bins = axis.bins;
    int32_t first = static_cast<int32_t>(axis.length), last = 0;
    for (int64_t p = 0; p < axis.bins; ++p) {
      for_each_tap<W>(axis, p, weights, [&](int64_t pixel, const W* weight) {
        tables.taps.push_back(make_tap(pixel, weight));
        if (pixel < first) first = static_cast<int32_t>(pixel);
        if (pixel >= last) last = static_cast<int32_t>(pixel + 1);
      });
      tables.begin.push_back(static_cast<int64_t>(tables.taps.size()));
    }
    tables.first.push_back(first);
    tables.last.push_back(last);
  }

  template <class T, class Weights>
  void append(TablesByPixel<W, M>& tables, const BoxAxis<T>& axis, const Weights& weights) {
    entries_.clear();
    // From the end that is nearer to the origin, so that pixels nearly ascend and insertion is nearly free.
    for (int64_t step = 0; step < axis.bins; ++step) {
      const int64_t p = axis.bin < T(0) ? axis.bins - 1 - step : step;
      for_each_tap<W>(axis, p, weights, [&](int64_t pixel, const W* weight) {
        entries_.push_back({static_cast<int32_t>(pixel), make_tap(p, weight)});
        for (size_t i = entries_.size() - 1; i > 0 && entries_[i].pixel < entries_[i - 1].pixel; --i) {
          std::swap(entries_[i], entries_[i - 1]);
        }
      });
    }
    for (const Entry& entry : entries_) {
      const bool new_row =
          static_cast<int64_t>(tables.rows.size()) == tables.begin.back() || tables.rows.back().pixel != entry.pixel;
      const int64_t at = static_cast<int64_t>(tables.taps.size());
      if (new_row) tables.rows.push_back({entry.pixel, at, at});
      tables.taps.push_back(entry.tap);
      ++tables.rows.back().end;
    }
    tables.begin.push_back(static_cast<int64_t>(tables.rows.size()));
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

// Boxes grouped by image, in box order.
struct BoxesByImage {
  std::vector<int64_t> begin;  // [images + 1] into boxes
  std::vector<int64_t> boxes;
};

template <class T>
BoxesByImage group_by_image(const BoxParams<T>& params) {
  BoxesByImage groups;
  groups.begin.assign(static_cast<size_t>(params.images) + 1, 0);
  for (int64_t k = 0; k < params.boxes; ++k) ++groups.begin[static_cast<size_t>(params.rows[5 * k]) + 1];
  for (int64_t n = 0; n < params.images; ++n) groups.begin[n + 1] += groups.begin[n];
  groups.boxes.resize(static_cast<size_t>(params.boxes));
  std::vector<int64_t> next(groups.begin.begin(), groups.begin.end() - 1);
  for (int64_t k = 0; k < params.boxes; ++k) {
    groups.boxes[static_cast<size_t>(next[static_cast<size_t>(params.rows[5 * k])]++)] = k;
  }
  return groups;
}

// Tables of an averaging call. An item is one product of a y table and an x table; a box has one of them, or two
// when its derivative along one or two directions is asked for:
//   A = Wy Wx        D_u A = Wy[u] Wx + Wy Wx[u]        D_u D_v A = Wy[u] Wx[v] + Wy[v] Wx[u]
template <class W>
struct AveragePlan {
  int64_t terms;  // items per box; item = box * terms + term
  TablesByBin<W, 1> x;
  TablesByPixel<W, 1> y;
  BoxesByImage by_image;
};

template <class T>
DirectionWeights<T> direction_of_edges(const T* row, int64_t k, int edge) {
  return {row[5 * k + edge], row[5 * k + edge + 2]};
}

// `directions` holds 0, 1 or 2 pointers to rows.
template <class W, class T>
AveragePlan<W> make_average_plan(const BoxParams<T>& params, const std::vector<const T*>& directions) {
  AveragePlan<W> plan;
  plan.terms = directions.empty() ? 1 : 2;
  TableBuilder<W, 1> builder;
  const size_t guess = static_cast<size_t>(params.boxes * plan.terms) * 4;
  plan.x.begin.reserve(static_cast<size_t>(params.boxes * plan.terms * params.bins_x + 1));
  plan.x.taps.reserve(guess * static_cast<size_t>(params.bins_x));
  plan.y.taps.reserve(guess * static_cast<size_t>(params.bins_y));
  // The table of one axis: by its value (no direction) or by the derivative along directions[d].
  auto append = [&](auto& tables, const BoxAxis<T>& axis, int64_t k, int edge, const T* direction) {
    if (direction == nullptr) {
      builder.append(tables, axis, ValueWeights());
    } else {
      builder.append(tables, axis, direction_of_edges(direction, k, edge));
    }
  };
  const T* u = directions.empty() ? nullptr : directions[0];
  const T* v = directions.size() < 2 ? nullptr : directions[1];
  for (int64_t k = 0; k < params.boxes; ++k) {
    const BoxAxis<T> y = params.y_axis(k), x = params.x_axis(k);
    append(plan.y, y, k, 2, u);
    append(plan.x, x, k, 1, v);
    if (plan.terms == 2) {
      append(plan.y, y, k, 2, v);
      append(plan.x, x, k, 1, u);
    }
  }
  plan.by_image = group_by_image(params);
  return plan;
}

}  // namespace roialign_ext
