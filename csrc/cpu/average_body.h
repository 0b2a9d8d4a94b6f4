// Average pooling, out = Wy F Wx^T (docs/math.md, section 4), and its adjoint, grad_input. Included like vector_body.h.
//
// Both walk rows of the map. On a row the x tables reduce pixels to PW sums. Each sum is added, weighted, to the bins
// that the row contributes to. The adjoint runs the same steps backwards.

// bins[bin][B] += contribution of one row of the map to one box.
template <int NV, class W>
inline void pool_row(Row<W> row, const RowProduct<W>& product, W* bins) {
  constexpr int L = VectorType<W>::lanes, B = NV * L;
  const auto [x_begin, bins_x, x_taps, y_begin, y_end] = product;
  for (int64_t q = 0; q < bins_x; ++q) {
    const Tap<W, 1>* tap = x_taps + x_begin[q];
    const Tap<W, 1>* const end = x_taps + x_begin[q + 1];
    if (tap == end) continue;
    Vec<W> sum[NV] = {};
    for (; tap != end; ++tap) {
      const W* pixel = row.data + tap->index * row.pitch;
      for (int v = 0; v < NV; ++v) sum[v] += tap->weight[0] * load(pixel + v * L);
    }
    for (const Tap<W, 1>* y = y_begin; y != y_end; ++y) {
      W* bin = bins + (y->index * bins_x + q) * B;
      for (int v = 0; v < NV; ++v) store(bin + v * L, load(bin + v * L) + y->weight[0] * sum[v]);
    }
  }
}

// row[x][B] += contribution of the bins of one box to one row of the map.
template <int NV, class W>
inline void grad_input_row(const W* grad, const RowProduct<W>& product, W* row) {
  constexpr int L = VectorType<W>::lanes, B = NV * L;
  const auto [x_begin, bins_x, x_taps, y_begin, y_end] = product;
  for (int64_t q = 0; q < bins_x; ++q) {
    const Tap<W, 1>* tap = x_taps + x_begin[q];
    const Tap<W, 1>* const end = x_taps + x_begin[q + 1];
    if (tap == end) continue;
    Vec<W> sum[NV] = {};
    for (const Tap<W, 1>* y = y_begin; y != y_end; ++y) {
      const W* bin = grad + (y->index * bins_x + q) * B;
      for (int v = 0; v < NV; ++v) sum[v] += y->weight[0] * load(bin + v * L);
    }
    for (; tap != end; ++tap) {
      W* pixel = row + tap->index * B;
      for (int v = 0; v < NV; ++v) store(pixel + v * L, load(pixel + v * L) + tap->weight[0] * sum[v]);
    }
  }
}

// Initial values of the bins of box k: the contribution of samples outside the map, or 0.
template <int B, class W>
inline void begin_bins(const AveragePlan<W>& plan, int64_t k, int64_t count, W* bins) {
  if (plan.outside.empty()) return std::fill(bins, bins + count * B, W(0));
  for (int64_t i = 0; i < count; ++i) std::fill(bins + i * B, bins + (i + 1) * B, plan.outside[k * count + i]);
}

// Calls visit(row of the map, its product) for all rows of all terms of box k.
template <class W, class Visit>
inline void for_each_row_of_box(const AveragePlan<W>& plan, int64_t k, Visit&& visit) {
  for (int64_t term = k * plan.terms; term < (k + 1) * plan.terms; ++term) {
    if (plan.x.first[term] >= plan.x.last[term]) continue;
    for (int64_t i = plan.y.begin[term]; i < plan.y.begin[term + 1]; ++i) {
      visit(plan.y.pixels[i].pixel, plan.on_row(term, plan.y.pixels[i]));
    }
  }
}

// For blocks of the map that stay in the cache. Rows are packed on first use, or read in place.
template <int NV, class W>
inline void pool_by_box(const AveragePoolJob<W>& job, const PlanePart& part, int64_t c, int64_t channels) {
  constexpr int B = NV * VectorType<W>::lanes;
  const AveragePlan<W>& plan = *job.plan;
  const ConstView& view = job.maps.map(part.plane);
  const RowReader<B, W> reader(view, job.maps.image(part.plane), c, channels);
  std::vector<W> map(reader.in_place ? 0 : view.area() * B);
  std::vector<bool> packed(view.height, reader.in_place);
  std::vector<W> bins(job.bins.area() * B);
  for (int64_t k : part.boxes) {
    begin_bins<B>(plan, k, job.bins.area(), bins.data());
    for_each_row_of_box(plan, k, [&](int32_t y, const RowProduct<W>& product) {
      W* row_of_map = map.data() + (reader.in_place ? 0 : y * view.width * B);
      Row<W> row = {row_of_map, B};
      if (reader.in_place || !packed[y]) row = reader.read(y, 0, view.width, row_of_map);
      packed[y] = true;
      pool_row<NV>(row, product, bins.data());
    });
    unpack_plane<B>(bins.data(), job.bins, k, c, channels);
  }
}

template <int NV, class W>
inline void pool_by_row(const AveragePoolJob<W>& job, const PlanePart& part, int64_t c, int64_t channels) {
  constexpr int B = NV * VectorType<W>::lanes;
  const AveragePlan<W>& plan = *job.plan;
  const PlaneSweep& sweep = part.sweep;
  const ConstView& view = job.maps.map(part.plane);
  const RowReader<B, W> reader(view, job.maps.image(part.plane), c, channels);
  const int64_t size = job.bins.area() * B;
  std::vector<W> buffer(reader.in_place ? 0 : view.width * B);
  std::vector<W> slots(std::max<int64_t>(sweep.slots, 1) * size);
  for (int64_t k : sweep.untouched) {
    begin_bins<B>(plan, k, job.bins.area(), slots.data());
    unpack_plane<B>(slots.data(), job.bins, k, c, channels);
  }
  for (int64_t y = 0; y < view.height; ++y) {
    if (sweep.begin[y] == sweep.begin[y + 1]) continue;
    Row<W> row = {nullptr, B};
    if (sweep.first[y] < sweep.last[y]) row = reader.read(y, sweep.first[y], sweep.last[y], buffer.data());
    for (int64_t e = sweep.begin[y]; e < sweep.begin[y + 1]; ++e) {
      const SweepVisit& visit = sweep.visits[e];
      const RowProduct<W> product = plan.on_row(visit.box, plan.y.pixels[visit.y_entry]);
      W* bins = slots.data() + visit.slot * size;
      if (visit.opens) begin_bins<B>(plan, visit.box, job.bins.area(), bins);
      pool_row<NV>(row, product, bins);
      if (visit.closes) unpack_plane<B>(bins, job.bins, visit.box, c, channels);
    }
  }
}

template <int NV, class W>
inline void grad_input_by_box(const AverageGradInputJob<W>& job, const PlanePart& part, int64_t c, int64_t channels) {
  constexpr int B = NV * VectorType<W>::lanes;
  const AveragePlan<W>& plan = *job.plan;
  const MutableView& view = job.maps.map(part.plane);
  std::vector<W> map(view.area() * B);
  std::vector<W> grad(job.bins.area() * B);
  for (int64_t k : part.boxes) {
    pack_plane<B>(job.bins, k, c, channels, grad.data());
    for_each_row_of_box(plan, k, [&](int32_t y, const RowProduct<W>& product) {
      grad_input_row<NV>(grad.data(), product, map.data() + y * view.width * B);
    });
  }
  unpack_plane<B>(map.data(), view, job.maps.image(part.plane), c, channels);
}

template <int NV, class W>
inline void grad_input_by_row(const AverageGradInputJob<W>& job, const PlanePart& part, int64_t c, int64_t channels) {
  constexpr int B = NV * VectorType<W>::lanes;
  const AveragePlan<W>& plan = *job.plan;
  const PlaneSweep& sweep = part.sweep;
  const MutableView& view = job.maps.map(part.plane);
  const int64_t size = job.bins.area() * B;
  std::vector<W> row(view.width * B);
  std::vector<W> slots(sweep.slots * size);
  for (int64_t y = 0; y < view.height; ++y) {
    std::fill(row.begin(), row.end(), W(0));
    for (int64_t e = sweep.begin[y]; e < sweep.begin[y + 1]; ++e) {
      const SweepVisit& visit = sweep.visits[e];
      const RowProduct<W> product = plan.on_row(visit.box, plan.y.pixels[visit.y_entry]);
      W* grad = slots.data() + visit.slot * size;
      if (visit.opens) pack_plane<B>(job.bins, visit.box, c, channels, grad);
      grad_input_row<NV>(grad, product, row.data());
    }
    unpack_pixels<B>(row.data(), view, job.maps.image(part.plane), c, channels, y * view.width, view.width);
  }
}

template <class W>
void average_pool_units(const AveragePoolJob<W>& job, int64_t begin, int64_t end) {
  for_each_unit<W>(job.blocks, job.bins.channels, begin, end,
                   [&](auto vectors, int64_t i, int64_t c, int64_t channels) {
                     const PlanePart& part = job.parts[i];
                     if (part.sweep.begin.empty()) {
                       pool_by_box<vectors.value>(job, part, c, channels);
                     } else {
                       pool_by_row<vectors.value>(job, part, c, channels);
                     }
                   });
}

template <class W>
void average_grad_input_units(const AverageGradInputJob<W>& job, int64_t begin, int64_t end) {
  for_each_unit<W>(job.blocks, job.bins.channels, begin, end,
                   [&](auto vectors, int64_t i, int64_t c, int64_t channels) {
                     const PlanePart& part = job.parts[i];
                     if (part.sweep.begin.empty()) {
                       grad_input_by_box<vectors.value>(job, part, c, channels);
                     } else {
                       grad_input_by_row<vectors.value>(job, part, c, channels);
                     }
                   });
}
