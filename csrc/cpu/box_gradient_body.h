// Gradient of <G, Wy F Wx^T> by the edges of each box: one table is replaced by its derivative (docs/math.md,
// section 6). Included as vector_body.h is.

// Dot product of the gradient's bins of one bin row with sums of one row of the map, lane by lane.
template <int NV, class W>
inline Vec<W> dot_bins(const W* grad, const W* sums, int64_t bins_x) {
  constexpr int L = VectorType<W>::lanes;
  Vec<W> total[NV] = {};
  for (int64_t i = 0; i < bins_x * NV * L; i += NV * L) {
    for (int v = 0; v < NV; ++v) total[v] += load(grad + i + v * L) * load(sums + i + v * L);
  }
  for (int v = 1; v < NV; ++v) total[0] += total[v];
  return total[0];
}

// sums[q][B] = taps of bin q, by weight m, applied to one row of the map.
template <int NV, int M, class W>
inline void row_sums(Row<W> row, const int64_t* x_begin, int64_t bins_x, const Tap<W, M>* taps, int m, W* sums) {
  constexpr int L = VectorType<W>::lanes, B = NV * L;
  for (int64_t q = 0; q < bins_x; ++q) {
    Vec<W> sum[NV] = {};
    for (int64_t t = x_begin[q]; t < x_begin[q + 1]; ++t) {
      const W* pixel = row.data + taps[t].index * row.pitch;
      for (int v = 0; v < NV; ++v) sum[v] += taps[t].weight[m] * load(pixel + v * L);
    }
    for (int v = 0; v < NV; ++v) store(sums + q * B + v * L, sum[v]);
  }
}

template <class W>
inline W sum_of_lanes(Vec<W> v) {
  W sum = 0;
  for (int l = 0; l < VectorType<W>::lanes; ++l) sum += v[l];
  return sum;
}

template <int NV, class S>
inline void gradient_of_box(const BoxGradientJob<S>& job, int64_t k, int64_t c, int64_t channels,
                            arithmetic_t<S>* by_edge) {
  using W = arithmetic_t<S>;
  constexpr int B = NV * VectorType<W>::lanes;
  const EdgePlan<W>& plan = *job.plan;
  const RowReader<B, S, W> reader(job.features, job.image_of_box[k], c, channels);
  const int64_t bins_x = job.grad.width;
  std::vector<W> grad(job.grad.pixels() * B), sums(bins_x * B);
  std::vector<W> buffer(reader.in_place ? 0 : job.features.width * B);
  pack_plane<B>(job.grad, k, c, channels, grad.data());
  Vec<W> by_x[2] = {}, by_y[2] = {};

  // Rows where the y table moves, with the x table as it is.
  if (plan.x.first[k] < plan.x.last[k]) {
    for (int64_t r = plan.y_edges.begin[k]; r < plan.y_edges.begin[k + 1]; ++r) {
      const PixelRow& y = plan.y_edges.rows[r];
      const Row<W> row = reader.read(y.pixel, plan.x.first[k], plan.x.last[k], buffer.data());
      row_sums<NV>(row, plan.x.item(k), bins_x, plan.x.taps.data(), 0, sums.data());
      for (int64_t t = y.begin; t < y.end; ++t) {
        const Tap<W, 2>& tap = plan.y_edges.taps[t];
        const Vec<W> dot = dot_bins<NV>(grad.data() + tap.index * bins_x * B, sums.data(), bins_x);
        for (int edge = 0; edge < 2; ++edge) by_y[edge] += tap.weight[edge] * dot;
      }
    }
  }
  // Rows of the y table as it is, where the x table moves.
  if (plan.x_edges.first[k] < plan.x_edges.last[k]) {
    for (int64_t r = plan.y.begin[k]; r < plan.y.begin[k + 1]; ++r) {
      const PixelRow& y = plan.y.rows[r];
      const Row<W> row = reader.read(y.pixel, plan.x_edges.first[k], plan.x_edges.last[k], buffer.data());
      for (int edge = 0; edge < 2; ++edge) {
        row_sums<NV>(row, plan.x_edges.item(k), bins_x, plan.x_edges.taps.data(), edge, sums.data());
        for (int64_t t = y.begin; t < y.end; ++t) {
          const Tap<W, 1>& tap = plan.y.taps[t];
          by_x[edge] += tap.weight[0] * dot_bins<NV>(grad.data() + tap.index * bins_x * B, sums.data(), bins_x);
        }
      }
    }
  }
  by_edge[0] = sum_of_lanes<W>(by_x[0]);
  by_edge[1] = sum_of_lanes<W>(by_y[0]);
  by_edge[2] = sum_of_lanes<W>(by_x[1]);
  by_edge[3] = sum_of_lanes<W>(by_y[1]);
}

template <class S>
void grad_boxes(const BoxGradientJob<S>& job, int64_t begin, int64_t end) {
  for_each_unit<arithmetic_t<S>>(job.blocks, job.features.channels, begin, end,
                                 [&](auto vectors, int64_t k, int64_t c, int64_t channels) {
    const int64_t unit = k * job.blocks.count + c / job.blocks.width;
    gradient_of_box<vectors.value>(job, k, c, channels, job.partial + 4 * unit);
  });
}
