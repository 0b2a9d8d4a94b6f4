// Maximum of the interpolated samples of each bin (docs/math.md, section 5). Included as vector_body.h is.

// Lane indexes as wide as the values, so that a comparison of values selects among them.
template <class W>
using lane_index_t = std::conditional_t<sizeof(W) == 4, int32_t, int64_t>;

inline Vec<int32_t> load(const int32_t* p) { return *reinterpret_cast<const VectorType<int32_t>::unaligned*>(p); }
inline Vec<int64_t> load(const int64_t* p) { return *reinterpret_cast<const VectorType<int64_t>::unaligned*>(p); }
inline void store(int32_t* p, Vec<int32_t> v) { *reinterpret_cast<VectorType<int32_t>::unaligned*>(p) = v; }
inline void store(int64_t* p, Vec<int64_t> v) { *reinterpret_cast<VectorType<int64_t>::unaligned*>(p) = v; }

// The running maximum of one bin, one vector of channels. Candidates come in the order of their sample index, so the
// first of equal ones stays; a NaN beats every number, and the first NaN stays.
template <class W>
struct Best {
  W* values;
  lane_index_t<W>* winners;
  bool started;

  void consider(Vec<W> candidate, int64_t sample) {
    const Vec<lane_index_t<W>> index = Vec<lane_index_t<W>>{} + static_cast<lane_index_t<W>>(sample);
    if (!started) {
      store(values, candidate);
      store(winners, index);
      started = true;
      return;
    }
    const Vec<W> value = load(values);
    const auto wins = (candidate > value) | ((candidate != candidate) & (value == value));
    store(values, wins ? candidate : value);
    store(winners, wins ? index : load(winners));
  }
};

// Two rows of the map, kept while neighbouring sample rows ask for them.
template <int B, class S, class W>
class RowPair {
 public:
  RowPair(const RowReader<B, S, W>& reader, int64_t first, int64_t last, int64_t width)
      : reader_(reader), first_(first), last_(last), buffer_(reader.in_place ? 0 : 2 * width * B), width_(width) {}

  Row<W> read(int64_t y) {
    const int at = static_cast<int>(y & 1);
    if (y_[at] != y) {
      rows_[at] = reader_.read(y, first_, last_, reader_.in_place ? nullptr : buffer_.data() + at * width_ * B);
      y_[at] = y;
    }
    return rows_[at];
  }

 private:
  const RowReader<B, S, W>& reader_;
  int64_t first_, last_;
  std::vector<W> buffer_;
  int64_t width_;
  int64_t y_[2] = {-1, -1};
  Row<W> rows_[2];
};

template <int NV, class S>
inline void max_of_box(const MaxJob<S>& job, int64_t k, int64_t c, int64_t channels) {
  using W = arithmetic_t<S>;
  constexpr int L = VectorType<W>::lanes, B = NV * L;
  const SampleTables<W>&xs = job.plan->x, &ys = job.plan->y;
  const int64_t bins_x = xs.bins, bins_y = ys.bins;
  const int64_t x_begin = xs.begin[k * bins_x], x_end = xs.begin[(k + 1) * bins_x];
  int64_t first = job.features.width, last = 0;
  for (int64_t i = x_begin; i < x_end; ++i) {
    first = std::min<int64_t>(first, xs.samples[i].low);
    last = std::max<int64_t>(last, xs.samples[i].low + 2);
  }
  last = std::min(last, job.features.width);
  const RowReader<B, S, W> reader(job.features, job.image_of_box[k], c, channels);
  RowPair<B, S, W> rows(reader, first, last, job.features.width);
  std::vector<W> values(bins_y * bins_x * B);
  std::vector<lane_index_t<W>> winners(bins_y * bins_x * B);
  std::vector<bool> started(bins_x);
  auto best_of = [&](int64_t p, int64_t q, int v) {
    const int64_t at = (p * bins_x + q) * B + v * L;
    return Best<W>{values.data() + at, winners.data() + at, started[q]};
  };
  auto consider_zero = [&](int64_t p, int64_t q) {
    for (int v = 0; v < NV; ++v) best_of(p, q, v).consider(Vec<W>{}, -1);
    started[q] = true;
  };
  for (int64_t p = 0; p < bins_y; ++p) {
    const int64_t y_bin = k * bins_y + p, y_begin = ys.begin[y_bin], y_end = ys.begin[y_bin + 1];
    std::fill(started.begin(), started.end(), false);
    for (int64_t q = 0; q < bins_x; ++q) {
      // A rejected sample is a candidate of value 0, at the place that its index gives it among the others.
      const int64_t x_bin = k * bins_x + q;
      const bool no_sample = y_begin == y_end || xs.begin[x_bin] == xs.begin[x_bin + 1];
      if (no_sample || ys.rejected_first[y_bin] || xs.rejected_first[x_bin]) consider_zero(p, q);
    }
    for (int64_t sy = y_begin; sy < y_end; ++sy) {
      const SampleTap<W>& y = ys.samples[sy];
      const bool two_rows = y.fraction != W(0);
      if (x_begin == x_end) break;
      const Row<W> upper = rows.read(y.low);
      const Row<W> lower = two_rows ? rows.read(y.low + 1) : upper;
      for (int64_t q = 0; q < bins_x; ++q) {
        const int64_t x_bin = k * bins_x + q;
        const int64_t begin = xs.begin[x_bin], end = xs.begin[x_bin + 1];
        for (int v = 0; v < NV; ++v) {
          Best<W> best = best_of(p, q, v);
          for (int64_t sx = begin; sx < end; ++sx) {
            const SampleTap<W>& x = xs.samples[sx];
            auto column = [&](int64_t pixel) {
              Vec<W> value = load(upper.data + pixel * upper.pitch + v * L);
              if (two_rows) {
                value = (W(1) - y.fraction) * value + y.fraction * load(lower.data + pixel * lower.pitch + v * L);
              }
              return value;
            };
            Vec<W> candidate = column(x.low);
            if (x.fraction != W(0)) candidate = (W(1) - x.fraction) * candidate + x.fraction * column(x.low + 1);
            best.consider(candidate, (sy - y_begin) * (end - begin) + (sx - begin));
          }
        }
        if (begin < end) started[q] = true;
        if (sy == y_begin && xs.rejected_later[x_bin]) consider_zero(p, q);
      }
    }
    for (int64_t q = 0; q < bins_x; ++q) {
      if (ys.rejected_later[y_bin] && xs.begin[k * bins_x + q] < xs.begin[k * bins_x + q + 1]) consider_zero(p, q);
    }
  }
  unpack_plane<B>(values.data(), job.values, k, c, channels);
  for (int64_t bin = 0; bin < bins_y * bins_x; ++bin) {
    int32_t* target = job.winners.at(k, c) + bin * job.winners.stride_x;
    for (int64_t l = 0; l < channels; ++l)
      target[l * job.winners.stride_c] = static_cast<int32_t>(winners[bin * B + l]);
  }
}

template <class S>
void max(const MaxJob<S>& job, int64_t begin, int64_t end) {
  for_each_unit<arithmetic_t<S>>(
      job.blocks, job.features.channels, begin, end,
      [&](auto vectors, int64_t k, int64_t c, int64_t channels) { max_of_box<vectors.value>(job, k, c, channels); });
}
