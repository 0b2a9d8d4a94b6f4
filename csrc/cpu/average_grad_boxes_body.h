// Gradient of <G, Wy F Wx^T> with respect to the edges of each box (docs/math.md, section 6). One table is replaced by
// its derivative. Included like vector_body.h.

// Taps of one row of the map: those of the y table, and those of its derivatives with respect to the edges.
template <class W>
struct RowTaps {
  const Tap<W, 1>*begin, *end;
  const Tap<W, 2>*edges_begin, *edges_end;
};

// sums[m] += weight m of each tap times its vectors; tap.index counts steps of `stride` elements from `base`.
template <int NV, int M, class W>
inline void weighted_sums(const Tap<W, M>* tap, const Tap<W, M>* end, const W* base, int64_t stride,
                          Vec<W> (&sums)[M][NV]) {
  constexpr int L = VectorType<W>::lanes;
  for (; tap != end; ++tap) {
    const W* from = base + tap->index * stride;
    for (int v = 0; v < NV; ++v) {
      const Vec<W> value = load(from + v * L);
      for (int m = 0; m < M; ++m) sums[m][v] += tap->weight[m] * value;
    }
  }
}

// Adds the contribution of one row of the map, lane by lane, to the gradient with respect to the edges. For every
// column of bins, the x tables reduce the row, and the y tables reduce the gradient of the bins. Each product pairs a
// table with a derivative of the other table.
template <int NV, class W>
inline void add_row_to_grad_edges(const EdgePlan<W>& plan, int64_t k, Row<W> row, const RowTaps<W>& y, const W* grad,
                                  Vec<W> (&grad_x)[2], Vec<W> (&grad_y)[2]) {
  constexpr int B = NV * VectorType<W>::lanes;
  const int64_t bins_x = plan.x.bins;
  const int64_t *x = plan.x.term(k), *x_edges = plan.x_edges.term(k);
  for (int64_t q = 0; q < bins_x; ++q) {
    Vec<W> map[1][NV] = {}, map_edges[2][NV] = {}, bins[1][NV] = {}, bins_edges[2][NV] = {};
    const Tap<W, 1>* taps = plan.x.taps.data();
    const Tap<W, 2>* edge_taps = plan.x_edges.taps.data();
    // Pixels are read only if both factors have taps, as in the definition.
    if (y.edges_begin != y.edges_end && x[q] != x[q + 1]) {
      weighted_sums<NV>(taps + x[q], taps + x[q + 1], row.data, row.pitch, map);
      weighted_sums<NV>(y.edges_begin, y.edges_end, grad + q * B, bins_x * B, bins_edges);
      for (int v = 0; v < NV; ++v) {
        for (int edge = 0; edge < 2; ++edge) grad_y[edge] += bins_edges[edge][v] * map[0][v];
      }
    }
    if (y.begin != y.end && x_edges[q] != x_edges[q + 1]) {
      weighted_sums<NV>(edge_taps + x_edges[q], edge_taps + x_edges[q + 1], row.data, row.pitch, map_edges);
      weighted_sums<NV>(y.begin, y.end, grad + q * B, bins_x * B, bins);
      for (int v = 0; v < NV; ++v) {
        for (int edge = 0; edge < 2; ++edge) grad_x[edge] += bins[0][v] * map_edges[edge][v];
      }
    }
  }
}

template <int NV, class W>
inline void grad_edges_of_box(const AverageGradBoxesJob<W>& job, int64_t k, int64_t c, int64_t channels,
                              W* grad_edges) {
  constexpr int B = NV * VectorType<W>::lanes;
  const EdgePlan<W>& plan = *job.plan;
  const int64_t plane = job.plane_of_box[k];
  const RowReader<B, W> reader(job.maps.map(plane), job.maps.image(plane), c, channels);
  std::vector<W> grad(job.grad.area() * B);
  std::vector<W> buffer(reader.in_place ? 0 : reader.view.width * B);
  pack_plane<B>(job.grad, k, c, channels, grad.data());
  const int64_t first = std::min(plan.x.first[k], plan.x_edges.first[k]);
  const int64_t last = std::max(plan.x.last[k], plan.x_edges.last[k]);
  Vec<W> grad_x[2] = {}, grad_y[2] = {};

  // Merges the rows of both y tables, which are mostly the same.
  int64_t i = plan.y.begin[k], i_edges = plan.y_edges.begin[k];
  const int64_t end = plan.y.begin[k + 1], edges_end = plan.y_edges.begin[k + 1];
  while (first < last && (i < end || i_edges < edges_end)) {
    const int32_t y = i < end ? plan.y.pixels[i].pixel : INT32_MAX;
    const int32_t y_edges = i_edges < edges_end ? plan.y_edges.pixels[i_edges].pixel : INT32_MAX;
    RowTaps<W> taps = {};
    if (y <= y_edges) {
      taps.begin = plan.y.taps.data() + plan.y.pixels[i].begin;
      taps.end = plan.y.taps.data() + plan.y.pixels[i++].end;
    }
    if (y_edges <= y) {
      taps.edges_begin = plan.y_edges.taps.data() + plan.y_edges.pixels[i_edges].begin;
      taps.edges_end = plan.y_edges.taps.data() + plan.y_edges.pixels[i_edges++].end;
    }
    const Row<W> row = reader.read(std::min(y, y_edges), first, last, buffer.data());
    add_row_to_grad_edges<NV>(plan, k, row, taps, grad.data(), grad_x, grad_y);
  }
  grad_edges[0] = sum_of_lanes<W>(grad_x[0]);
  grad_edges[1] = sum_of_lanes<W>(grad_y[0]);
  grad_edges[2] = sum_of_lanes<W>(grad_x[1]);
  grad_edges[3] = sum_of_lanes<W>(grad_y[1]);
}

template <class W>
void average_grad_boxes_units(const AverageGradBoxesJob<W>& job, int64_t begin, int64_t end) {
  for_each_unit<W>(job.blocks, job.grad.channels, begin, end,
                   [&](auto vectors, int64_t k, int64_t c, int64_t channels) {
                     const int64_t unit = k * job.blocks.count + c / job.blocks.width;
                     grad_edges_of_box<vectors.value>(job, k, c, channels, job.partial + 4 * unit);
                   });
}
