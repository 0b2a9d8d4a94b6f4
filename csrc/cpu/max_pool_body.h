// Maximum of the interpolated samples of each bin (docs/math.md, section 5). Included like vector_body.h.
//
// As for averages, boxes are visited one by one if the block of the map stays in the cache. Otherwise a sweep visits
// the rows of the map from top to bottom. On each row, every box takes its samples between that row and the next.

// Running maxima of one bin, NV vectors of channels. Candidates come in the order of their sample index, so the first
// of equal values wins. NaN wins over every number, and the first NaN stays.
template <int NV, class W>
struct Best {
  using Index = lane_index_t<W>;
  static constexpr int L = VectorType<W>::lanes;
  Vec<W> value[NV];
  Vec<Index> argmax[NV];

  void set(W number, int32_t sample) {
    for (int v = 0; v < NV; ++v) {
      value[v] = Vec<W>{} + number;
      argmax[v] = Vec<Index>{} + static_cast<Index>(sample);
    }
  }
  void load_from(const W* values, const Index* samples) {
    for (int v = 0; v < NV; ++v) {
      value[v] = load(values + v * L);
      argmax[v] = load(samples + v * L);
    }
  }
  void store_to(W* values, Index* samples) const {
    for (int v = 0; v < NV; ++v) {
      store(values + v * L, value[v]);
      store(samples + v * L, argmax[v]);
    }
  }
  // candidate(v) is a vector of channels.
  template <class Candidate>
  void consider(int32_t sample, Candidate&& candidate) {
    const Vec<Index> index = Vec<Index>{} + static_cast<Index>(sample);
    for (int v = 0; v < NV; ++v) {
      const Vec<W> other = candidate(v);
      const auto wins = ~(other <= value[v]) & (value[v] == value[v]);
      value[v] = wins ? other : value[v];
      argmax[v] = wins ? index : argmax[v];
    }
  }
};

// Running maxima of all bins of one box, [bins][B].
//
// A rejected sample is a candidate of value 0. In the order of indices it comes before all samples on the map, after
// their first line, or after all of them.
template <int NV, class W>
class MaxOfBox {
  using Index = lane_index_t<W>;
  static constexpr int B = NV * VectorType<W>::lanes;

 public:
  MaxOfBox(const MaxPoolJob<W>& job, int64_t k, W* values, Index* argmax)
      : job_(job), x_(job.plan->samples.x), y_(job.plan->samples.y), k_(k), values_(values), argmax_(argmax) {}

  // Adds the samples of one y entry, which lie between two rows of the map.
  void add(int64_t y_entry, const Row<W>& upper, const Row<W>& lower) {
    const W fraction = y_.samples[y_entry].fraction;
    const auto* begin = y_.begin.data() + k_ * y_.bins;
    const int64_t p = std::upper_bound(begin, begin + y_.bins, y_entry) - begin - 1;
    if (fraction == W(0)) {
      add_samples(p, y_entry - begin[p], [&](int64_t x, int v) { return pixel(upper, x, v); });
    } else {
      add_samples(p, y_entry - begin[p], [&](int64_t x, int v) {
        return (W(1) - fraction) * pixel(upper, x, v) + fraction * pixel(lower, x, v);
      });
    }
  }

  // Writes the results after all y entries were added.
  void finish(int64_t c, int64_t channels) {
    for (int64_t p = 0; p < y_.bins; ++p) {
      const int64_t y_bin = k_ * y_.bins + p;
      const bool none_on_map = y_.begin[y_bin] == y_.begin[y_bin + 1] || !job_.plan->touches_map(k_);
      for (int64_t q = 0; q < x_.bins && (none_on_map || y_.rejected[y_bin].later); ++q) {
        update(p, q, [&](Best<NV, W>& best) {
          if (none_on_map) return best.set(W(0), kRejected);
          best.consider(kRejected, [](int) { return Vec<W>{}; });
        });
      }
    }
    unpack_plane<B>(values_, job_.values, k_, c, channels);
    const ArgmaxView<int32_t>& view = job_.argmax;
    unpack<B>(argmax_, view.area(), view.at(k_, c), view.stride_c, view.stride_x, channels, job_.values.past_caches());
  }

 private:
  static Vec<W> pixel(const Row<W>& row, int64_t x, int v) {
    return load(row.data + x * row.pitch + v * VectorType<W>::lanes);
  }

  // value(x, v) is the map at column x, interpolated along y for sample `sample_y` of bins p.
  template <class Value>
  void add_samples(int64_t p, int64_t sample_y, Value&& value) {
    const bool y_rejected_first = y_.rejected[k_ * y_.bins + p].first;
    for (int64_t q = 0; q < x_.bins; ++q) {
      const int64_t x_bin = k_ * x_.bins + q, begin = x_.begin[x_bin], end = x_.begin[x_bin + 1];
      update(p, q, [&](Best<NV, W>& best) {
        if (sample_y == 0 && (y_rejected_first || x_.rejected[x_bin].first)) {
          best.set(W(0), kRejected);
        } else if (sample_y == 0) {
          // No value is below -infinity: the first sample wins over it, or equals it and has the same argmax.
          best.set(-std::numeric_limits<W>::infinity(), make_argmax(0, 0));
        }
        for (int64_t i = begin; i < end; ++i) {
          const SampleTap<W>& x = x_.samples[i];
          const int32_t sample = make_argmax(sample_y, i - begin);
          if (x.fraction == W(0)) {
            best.consider(sample, [&](int v) { return value(x.low, v); });
          } else {
            best.consider(sample, [&](int v) {
              return (W(1) - x.fraction) * value(x.low, v) + x.fraction * value(x.low + 1, v);
            });
          }
        }
        if (sample_y == 0 && x_.rejected[x_bin].later) best.consider(kRejected, [](int) { return Vec<W>{}; });
      });
    }
  }

  // The state stays in memory between calls.
  template <class Change>
  void update(int64_t p, int64_t q, Change&& change) {
    const int64_t at = (p * x_.bins + q) * B;
    Best<NV, W> best;
    best.load_from(values_ + at, argmax_ + at);
    change(best);
    best.store_to(values_ + at, argmax_ + at);
  }

  const MaxPoolJob<W>& job_;
  const AxisSamples<W>&x_, &y_;
  int64_t k_;
  W* values_;
  Index* argmax_;
};

struct Columns {
  int64_t first, last;
};

// Cached rows of one block of one map: up to `kept` neighbouring rows at a time.
template <int B, class W>
class RowCache {
 public:
  RowCache(const RowReader<B, W>& reader, int64_t kept)
      : reader_(reader),
        row_size_(reader.in_place ? 0 : reader.view.width * B),
        buffer_(kept * row_size_),
        kept_(kept) {}

  // Row y; only these columns are valid.
  Row<W> at(int64_t y, const Columns& columns) {
    const int64_t place = y % static_cast<int64_t>(kept_.size());
    Kept& kept = kept_[place];
    if (kept.y != y || columns.first < kept.columns.first || columns.last > kept.columns.last) {
      kept = {y, columns, reader_.read(y, columns.first, columns.last, buffer_.data() + place * row_size_)};
    }
    return kept.row;
  }

 private:
  struct Kept {
    int64_t y = -1;
    Columns columns = {};
    Row<W> row = {};
  };
  const RowReader<B, W>& reader_;
  int64_t row_size_;
  std::vector<W> buffer_;
  std::vector<Kept> kept_;
};

template <int NV, class W>
inline void max_of_part(const MaxPoolJob<W>& job, const PlanePart& part, int64_t c, int64_t channels) {
  constexpr int B = NV * VectorType<W>::lanes;
  const MaxPlan<W>& plan = *job.plan;
  const PlaneSweep& sweep = part.sweep;
  const ConstView& map = job.maps.map(part.plane);
  const bool keeps_map = sweep.begin.empty();
  const RowReader<B, W> reader(map, job.maps.image(part.plane), c, channels);
  RowCache<B, W> rows(reader, keeps_map ? map.height : 2);
  const int64_t size = job.values.area() * B;
  std::vector<W> values(std::max<int64_t>(sweep.slots, 1) * size);
  std::vector<lane_index_t<W>> argmax(values.size());
  const auto box_in = [&](int64_t slot, int64_t k) {
    return MaxOfBox<NV, W>(job, k, values.data() + slot * size, argmax.data() + slot * size);
  };
  // columns(y): the columns to read of row y of the map.
  const auto add = [&](MaxOfBox<NV, W>& box, int64_t y_entry, auto&& columns) {
    const auto read = [&](int64_t y) { return rows.at(y, columns(y)); };
    const RowRange range = plan.rows(y_entry);
    box.add(y_entry, read(range.begin), read(range.end - 1));
  };
  for (const SweepVisit& visit : sweep.visits) {
    MaxOfBox<NV, W> box = box_in(visit.slot, visit.box);
    add(box, visit.y_entry, [&](int64_t y) { return Columns{sweep.first[y], sweep.last[y]}; });
    if (visit.closes) box.finish(c, channels);
  }
  for (int64_t k : part.boxes) {
    const Columns columns = keeps_map ? Columns{0, map.width} : Columns{plan.first_column(k), plan.last_column(k)};
    MaxOfBox<NV, W> box = box_in(0, k);
    for (int64_t y_entry = plan.first_y_entry(k); plan.touches_map(k) && y_entry < plan.first_y_entry(k + 1);
         ++y_entry) {
      add(box, y_entry, [&](int64_t) { return columns; });
    }
    box.finish(c, channels);
  }
}

template <class W>
void max_pool_units(const MaxPoolJob<W>& job, int64_t begin, int64_t end) {
  for_each_unit<W>(job.blocks, job.values.channels, begin, end,
                   [&](auto vectors, int64_t part, int64_t c, int64_t channels) {
                     max_of_part<vectors.value>(job, job.parts[part], c, channels);
                   });
}
