// Average pooling over rotated boxes, grad_input and grad_boxes (docs/math.md, section 14). Included like
// vector_body.h. A unit of work is a plane and a channel block. The block of the map is packed once, and its boxes are
// visited in order.

// A block of one plane; rows are packed on first use or read in place.
template <int B, class W>
class PackedPlane {
 public:
  PackedPlane(const ConstView& map, int64_t n, int64_t c, int64_t channels)
      : reader_(map, n, c, channels),
        rows_(map.height, Row<W>{nullptr, B}),
        packed_(reader_.in_place ? 0 : map.area() * B) {}

  const W* pixel(int64_t y, int64_t x) {
    Row<W>& row = rows_[y];
    if (row.data == nullptr) {
      const int64_t width = reader_.view.width;
      row = reader_.read(y, 0, width, packed_.data() + (reader_.in_place ? 0 : y * width * B));
    }
    return row.data + x * row.pitch;
  }

 private:
  RowReader<B, W> reader_;
  std::vector<Row<W>> rows_;
  std::vector<W> packed_;
};

template <int NV, class W>
inline void rotated_pool_plane(const RotatedPoolJob<W>& job, int64_t plane, int64_t c, int64_t channels) {
  constexpr int L = VectorType<W>::lanes, B = NV * L;
  PackedPlane<B, W> map(job.maps.map(plane), job.maps.image(plane), c, channels);
  std::vector<W> bins(job.bins.area() * B);
  PointTaps<W> taps;
  const BoxesByPlane& boxes = job.plan->by_plane;
  for (int64_t b = boxes.begin[plane]; b < boxes.begin[plane + 1]; ++b) {
    job.plan->taps_of_box(boxes.boxes[b], taps);
    for (int64_t bin = 0; bin < job.bins.area(); ++bin) {
      Vec<W> sum[NV] = {};
      for (int64_t t = taps.begin[bin]; t < taps.begin[bin + 1]; ++t) {
        const W* pixel = map.pixel(taps.y[t], taps.x[t]);
        for (int v = 0; v < NV; ++v) sum[v] += taps.weight[t] * load(pixel + v * L);
      }
      for (int v = 0; v < NV; ++v) store(bins.data() + bin * B + v * L, sum[v]);
    }
    unpack_plane<B>(bins.data(), job.bins, boxes.boxes[b], c, channels);
  }
}

template <int NV, class W>
inline void rotated_grad_input_plane(const RotatedGradInputJob<W>& job, int64_t plane, int64_t c, int64_t channels) {
  constexpr int L = VectorType<W>::lanes, B = NV * L;
  const MutableView& map = job.maps.map(plane);
  std::vector<W> sums(map.area() * B), bins(job.bins.area() * B);
  PointTaps<W> taps;
  const BoxesByPlane& boxes = job.plan->by_plane;
  for (int64_t b = boxes.begin[plane]; b < boxes.begin[plane + 1]; ++b) {
    job.plan->taps_of_box(boxes.boxes[b], taps);
    pack_plane<B>(job.bins, boxes.boxes[b], c, channels, bins.data());
    for (int64_t bin = 0; bin < job.bins.area(); ++bin) {
      Vec<W> grad[NV];
      for (int v = 0; v < NV; ++v) grad[v] = load(bins.data() + bin * B + v * L);
      for (int64_t t = taps.begin[bin]; t < taps.begin[bin + 1]; ++t) {
        W* pixel = sums.data() + (taps.y[t] * map.width + taps.x[t]) * B;
        for (int v = 0; v < NV; ++v) store(pixel + v * L, load(pixel + v * L) + taps.weight[t] * grad[v]);
      }
    }
  }
  unpack_plane<B>(sums.data(), map, job.maps.image(plane), c, channels);
}

template <int NV, class W>
inline void rotated_grad_boxes_plane(const RotatedGradBoxesJob<W>& job, int64_t plane, int64_t c, int64_t channels) {
  constexpr int L = VectorType<W>::lanes, B = NV * L, M = kRotatedParameters;
  PackedPlane<B, W> map(job.maps.map(plane), job.maps.image(plane), c, channels);
  std::vector<W> bins(job.bins.area() * B);
  PointTaps<W> taps;
  const BoxesByPlane& boxes = job.plan->by_plane;
  for (int64_t b = boxes.begin[plane]; b < boxes.begin[plane + 1]; ++b) {
    const int64_t k = boxes.boxes[b];
    job.plan->taps_of_box(k, taps);
    pack_plane<B>(job.bins, k, c, channels, bins.data());
    Vec<W> grad_parameters[M] = {};
    for (int64_t bin = 0; bin < job.bins.area(); ++bin) {
      for (int64_t t = taps.begin[bin]; t < taps.begin[bin + 1]; ++t) {
        const W* pixel = map.pixel(taps.y[t], taps.x[t]);
        Vec<W> product = {};
        for (int v = 0; v < NV; ++v) product += load(bins.data() + bin * B + v * L) * load(pixel + v * L);
        for (int m = 0; m < M; ++m) grad_parameters[m] += taps.weight[t * M + m] * product;
      }
    }
    W* partial = job.partial + (k * job.blocks.count + c / job.blocks.width) * M;
    for (int m = 0; m < M; ++m) partial[m] = sum_of_lanes<W>(grad_parameters[m]);
  }
}

template <class W>
void rotated_pool_units(const RotatedPoolJob<W>& job, int64_t begin, int64_t end) {
  for_each_unit<W>(job.blocks, job.bins.channels, begin, end,
                   [&](auto vectors, int64_t plane, int64_t c, int64_t channels) {
                     rotated_pool_plane<vectors.value>(job, plane, c, channels);
                   });
}

template <class W>
void rotated_grad_input_units(const RotatedGradInputJob<W>& job, int64_t begin, int64_t end) {
  for_each_unit<W>(job.blocks, job.bins.channels, begin, end,
                   [&](auto vectors, int64_t plane, int64_t c, int64_t channels) {
                     rotated_grad_input_plane<vectors.value>(job, plane, c, channels);
                   });
}

template <class W>
void rotated_grad_boxes_units(const RotatedGradBoxesJob<W>& job, int64_t begin, int64_t end) {
  for_each_unit<W>(job.blocks, job.bins.channels, begin, end,
                   [&](auto vectors, int64_t plane, int64_t c, int64_t channels) {
                     rotated_grad_boxes_plane<vectors.value>(job, plane, c, channels);
                   });
}
