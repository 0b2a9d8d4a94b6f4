// Maximum of the interpolated samples of each bin (docs/math.md, section 5). Included as vector_body.h is.

// Lane indexes as wide as the values, so that a comparison of values selects among them.
template <class W>
using lane_index_t = std::conditional_t<sizeof(W) == 4, int32_t, int64_t>;

inline Vec<int32_t> load(const int32_t* p) { return *reinterpret_cast<const VectorType<int32_t>::unaligned*>(p); }
inline Vec<int64_t> load(const int64_t* p) { return *reinterpret_cast<const VectorType<int64_t>::unaligned*>(p); }
inline void store(int32_t* p, Vec<int32_t> v) { *reinterpret_cast<VectorType<int32_t>::unaligned*>(p) = v; }
inline void store(int64_t* p, Vec<int64_t> v) { *reinterpret_cast<VectorType<int64_t>::unaligned*>(p) = v; }

// No candidate yet: the first one wins, whatever it is.
constexpr int kNoWinner = -2;

// The running maximum of one bin, one vector of channels. Candidates come in the order of their sample index, so the
// first of equal ones stays; a NaN beats every number, and the first NaN stays.
template <class W>
struct Best {
  Vec<W> value;
  Vec<lane_index_t<W>> winner;

  void consider(Vec<W> candidate, int32_t sample) {
    const Vec<lane_index_t<W>> index = Vec<lane_index_t<W>>{} + static_cast<lane_index_t<W>>(sample);
    const auto wins = (candidate > value) | ((candidate != candidate) & (value == value)) | (winner == kNoWinner);
    value = wins ? candidate : value;
    winner = wins ? index : winner;
  }
};

// Rows of the map interpolated between two of its rows, in [width][B].
template <int NV, class W>
class SampleRows {
  static constexpr int L = VectorType<W>::lanes, B = NV * L;

 public:
  // Only columns [first, last) are read.
  SampleRows(const RowReader<B, W>& reader, int64_t first, int64_t last)
      : reader_(reader),
        first_(first),
        last_(last),
        line_(reader.view.width * B),
        packed_(reader.in_place ? 0 : 2 * line_.size()) {}

  // The row at a sample's position; valid until the next call.
  Row<W> at(const SampleTap<W>& y) {
    const Row<W> upper = row(y.low);
    if (y.fraction == W(0)) return upper;
    const Row<W> lower = row(y.low + 1);
    for (int64_t x = first_; x < last_; ++x) {
      for (int v = 0; v < B; v += L) {
        const Vec<W> above = load(upper.data + x * upper.pitch + v), below = load(lower.data + x * lower.pitch + v);
        store(line_.data() + x * B + v, (W(1) - y.fraction) * above + y.fraction * below);
      }
    }
    return {line_.data(), B};
  }

 private:
  // The last even and the last odd row are kept: neighbouring samples share rows.
  Row<W> row(int64_t y) {
    const int slot = static_cast<int>(y & 1);
    if (kept_[slot] != y) {
      kept_[slot] = y;
      rows_[slot] = reader_.read(y, first_, last_, reader_.in_place ? nullptr : packed_.data() + slot * line_.size());
    }
    return rows_[slot];
  }

  const RowReader<B, W>& reader_;
  int64_t first_, last_;
  std::vector<W> line_, packed_;
  int64_t kept_[2] = {-1, -1};
  Row<W> rows_[2];
};

template <int NV, class W>
inline void max_of_box(const MaxJob<W>& job, int64_t k, int64_t c, int64_t channels) {
  constexpr int L = VectorType<W>::lanes, B = NV * L;
  const SampleTables<W>&xs = job.plan->x, &ys = job.plan->y;
  const int64_t bins_x = xs.bins, bins_y = ys.bins;
  const int64_t plane = job.plane_of_box[k];
  int64_t first = job.maps.map(plane).width, last = 0;
  for (int64_t i = xs.begin[k * bins_x]; i < xs.begin[(k + 1) * bins_x]; ++i) {
    first = std::min<int64_t>(first, xs.samples[i].low);
    last = std::max<int64_t>(last, xs.samples[i].low + (xs.samples[i].fraction != W(0) ? 2 : 1));
  }
  const RowReader<B, W> reader(job.maps.map(plane), job.maps.image(plane), c, channels);
  SampleRows<NV, W> rows(reader, first, last);
  std::vector<W> values(bins_y * bins_x * B);
  std::vector<lane_index_t<W>> winners(bins_y * bins_x * B, kNoWinner);

  // Calls consider(best) for each vector of a bin; the state lives in memory between calls.
  auto update = [&](int64_t p, int64_t q, auto&& consider) {
    for (int v = 0; v < B; v += L) {
      const int64_t at = (p * bins_x + q) * B + v;
      Best<W> best = {load(values.data() + at), load(winners.data() + at)};
      consider(best, v);
      store(values.data() + at, best.value);
      store(winners.data() + at, best.winner);
    }
  };
  // A rejected sample is a candidate of value 0, in the place that its index has among the others: before all on the
  // map, after the first row of them, or after all.
  auto consider_zero = [&](int64_t p, int64_t q) {
    update(p, q, [](Best<W>& best, int) { best.consider(Vec<W>{}, kRejected); });
  };
  for (int64_t p = 0; p < bins_y; ++p) {
    const int64_t y_bin = k * bins_y + p, y_begin = ys.begin[y_bin], y_end = ys.begin[y_bin + 1];
    for (int64_t q = 0; q < bins_x; ++q) {
      const int64_t x_bin = k * bins_x + q;
      const bool none_on_map = y_begin == y_end || xs.begin[x_bin] == xs.begin[x_bin + 1];
      if (none_on_map || ys.rejected_first[y_bin] || xs.rejected_first[x_bin]) consider_zero(p, q);
    }
    for (int64_t sy = y_begin; sy < y_end && first < last; ++sy) {
      const Row<W> row = rows.at(ys.samples[sy]);
      for (int64_t q = 0; q < bins_x; ++q) {
        const int64_t x_bin = k * bins_x + q, x_begin = xs.begin[x_bin], x_end = xs.begin[x_bin + 1];
        update(p, q, [&](Best<W>& best, int v) {
          for (int64_t sx = x_begin; sx < x_end; ++sx) {
            const SampleTap<W>& x = xs.samples[sx];
            const W* pixel = row.data + x.low * row.pitch + v;
            Vec<W> candidate = load(pixel);
            if (x.fraction != W(0)) candidate = (W(1) - x.fraction) * candidate + x.fraction * load(pixel + row.pitch);
            best.consider(candidate, make_winner(sy - y_begin, sx - x_begin));
          }
        });
        if (sy == y_begin && xs.rejected_later[x_bin]) consider_zero(p, q);
      }
    }
    for (int64_t q = 0; q < bins_x; ++q) {
      if (ys.rejected_later[y_bin]) consider_zero(p, q);
    }
  }
  unpack_plane<B>(values.data(), job.values, k, c, channels);
  for (int64_t bin = 0; bin < bins_y * bins_x; ++bin) {
    int32_t* target = job.winners.at(k, c) + bin * job.winners.stride_x;
    for (int64_t l = 0; l < channels; ++l) {
      target[l * job.winners.stride_c] = static_cast<int32_t>(winners[bin * B + l]);
    }
  }
}

template <class W>
void max(const MaxJob<W>& job, int64_t begin, int64_t end) {
  for_each_unit<W>(
      job.blocks, job.values.channels, begin, end,
      [&](auto vectors, int64_t k, int64_t c, int64_t channels) { max_of_box<vectors.value>(job, k, c, channels); });
}
