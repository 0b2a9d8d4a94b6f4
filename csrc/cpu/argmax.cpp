#include "argmax.h"

#include <algorithm>
#include <type_traits>

#include "schedule.h"

namespace roialign_ext {
namespace {

// The sample of a bin that its argmax names.
template <class W>
struct ArgmaxSample {
  const SampleTap<W>* y;
  const SampleTap<W>* x;
};

// Calls visit(y, x, weight) for the pixels of a product of y taps and x taps.
template <class W, class Visit>
void for_each_pixel_of(const ArgmaxSample<W>& sample, const TwoTaps<W>& y, const TwoTaps<W>& x, Visit&& visit) {
  const int64_t top = sample.y->low, left = sample.x->low;
  for_each_pixel(y, x, [&](int i, int j, W weight) { visit(top + i, left + j, weight); });
}

// The same for weights that may be 0, such as those of derivatives: 0 times infinity is not 0.
template <class W, class Visit>
void for_each_weighted_pixel_of(const ArgmaxSample<W>& sample, const TwoTaps<W>& y, const TwoTaps<W>& x,
                                Visit&& visit) {
  for_each_pixel_of(sample, y, x, [&](int64_t row, int64_t column, W weight) {
    if (weight != W(0)) visit(row, column, weight);
  });
}

constexpr int64_t kPixelsPerSample = 8;  // a derivative has two products of 2 x 2 taps

// The rates of boxes along up to two directions, [box][4] each, in the arithmetic type.
template <class W>
class Directions {
 public:
  template <class T>
  Directions(const CallArgs<T>& args, const std::vector<const T*>& directions)
      : order_(static_cast<int>(directions.size())) {
    for (int d = 0; d < order_; ++d) {
      for (int64_t k = 0; k < args.boxes; ++k) {
        const T* rates = args.box(directions[d], k);
        rates_[d].insert(rates_[d].end(), rates, rates + 4);
      }
    }
  }

  // Calls run(pixels_of). Function pixels_of(sample, k, visit) calls visit(y, x, weight) for the pixels of the sample.
  // The weights are those of its value, or of its derivative along the directions. A derivative is a sum of two
  // products, as for averages, and may visit a pixel twice.
  template <class Run>
  void with_pixels(Run&& run) const {
    if (order_ == 0) {
      return run([](const ArgmaxSample<W>& sample, int64_t, auto&& visit) {
        for_each_pixel_of(sample, value_taps(*sample.y), value_taps(*sample.x), visit);
      });
    }
    run([this](const ArgmaxSample<W>& sample, int64_t k, auto&& visit) {
      for_each_derived_product(
          order_, *sample.y, *sample.x, rates_of(k),
          [&](const TwoTaps<W>& y, const TwoTaps<W>& x) { for_each_weighted_pixel_of(sample, y, x, visit); });
    });
  }

  // Rates of box k as a function of the direction and the edge.
  auto rates_of(int64_t k) const {
    return [this, k](int d, int edge) { return rates_[d][4 * k + edge]; };
  }
  int order() const { return order_; }

 private:
  int order_;
  std::vector<W> rates_[kMaxDirections];
};

// Calls visit(p, q, sample) for the bins of box k whose argmax in channel c is a sample on the map. Rejected samples,
// which have no gradient, are skipped, and so is an argmax that is out of range for its bin.
template <class W, class Visit>
void for_each_argmax_sample(const SamplePlan<W>& plan, const ArgmaxView<const int32_t>& argmax, int64_t k, int64_t c,
                            Visit&& visit) {
  const int32_t* const bins = argmax.at(k, c);
  const int64_t height = argmax.height, width = argmax.width;
  const int64_t stride_y = argmax.stride_y, stride_x = argmax.stride_x;
  const int64_t *const y_begin = plan.y.begin.data() + k * height, *const x_begin = plan.x.begin.data() + k * width;
  const SampleTap<W>*const y_samples = plan.y.samples.data(), *const x_samples = plan.x.samples.data();
  for (int64_t p = 0; p < height; ++p) {
    const SampleTap<W>* const ys = y_samples + y_begin[p];
    const int64_t count_y = y_begin[p + 1] - y_begin[p];
    for (int64_t q = 0; q < width; ++q) {
      const int32_t index = bins[p * stride_y + q * stride_x];
      const int64_t sample_y = argmax_y(index), sample_x = argmax_x(index);
      if (sample_y < count_y && sample_x < x_begin[q + 1] - x_begin[q]) {
        visit(p, q, ArgmaxSample<W>{ys + sample_y, x_samples + x_begin[q] + sample_x});
      }
    }
  }
}

// sums[channels][pixels] -> channels [first, first + channels) of one image of a map, NCHW or channels_last.
template <class S, class W>
void write_channels(const W* sums, const MutableView& map, int64_t n, int64_t first, int64_t channels) {
  S* target = map.template at<S>(n, first);
  const int64_t pixels = map.area();
  for (int64_t begin = 0; begin < pixels; begin += kArgmaxCopiedPixels) {
    const int64_t end = std::min(begin + kArgmaxCopiedPixels, pixels);
    for (int64_t c = 0; c < channels; ++c) {
      const W* from = sums + c * pixels;
      for (int64_t i = begin; i < end; ++i) target[c * map.stride_c + i * map.stride_x] = static_cast<S>(from[i]);
    }
  }
}

// One channel of a map: contiguous pixels in the arithmetic type.
template <class W>
struct ChannelSums {
  W* data;
  int64_t width;  // pixels per row
};

// A value and the pixel to add it to.
template <class W>
struct Addend {
  int64_t pixel;
  W value;
};

// Adds the contribution of the bins of one box to one channel. The sample of an argmax can be anywhere in its bin, so
// pixels are prefetched while `addends` is filled, and added afterwards. `addends` has room for all of them.
template <class S, class W, class PixelsOf>
void add_box(const SamplePlan<W>& plan, const ArgmaxView<const int32_t>& argmax, const ConstView& grad, int64_t k,
             int64_t c, ChannelSums<W> sums, Addend<W>* addends, PixelsOf&& pixels_of) {
  const S* const bins = grad.template at<S>(k, c);
  const int64_t stride_y = grad.stride_y, stride_x = grad.stride_x;
  Addend<W>* last = addends;
  for_each_argmax_sample(plan, argmax, k, c, [&](int64_t p, int64_t q, const ArgmaxSample<W>& sample) {
    const W grad_bin = static_cast<W>(bins[p * stride_y + q * stride_x]);
    W* const upper = sums.data + sample.y->low * sums.width + sample.x->low;
    __builtin_prefetch(upper, 1);
    __builtin_prefetch(sample.y->fraction != W(0) ? upper + sums.width : upper, 1);
    pixels_of(sample, k, [&](int64_t y, int64_t x, W weight) { *last++ = {y * sums.width + x, weight * grad_bin}; });
  });
  for (const Addend<W>* addend = addends; addend != last; ++addend) sums.data[addend->pixel] += addend->value;
}

// One channel of a contiguous map if sums can be formed in place; otherwise null.
template <class W>
W* channel_in_place(const MutableView& map, int64_t n, int64_t c) {
  const bool is_own_type = map.storage == (std::is_same_v<W, double> ? Storage::kDouble : Storage::kFloat);
  return is_own_type && map.stride_x == 1 ? map.template at<W>(n, c) : nullptr;
}

}  // namespace

template <class W, class T>
void argmax_pool(const CallArgs<T>& args, const std::vector<const T*>& directions,
                 const ArgmaxView<const int32_t>& argmax, const Pyramid<ConstView>& maps, const MutableView& output) {
  const auto plan = make_sample_plan<W>(args);
  const Directions<W> converted(args, directions);
  with_storage<W>(output.storage, [&](auto storage) {
    using S = decltype(storage);
    const auto pool = [&](auto&& pixels_of, int64_t begin, int64_t end) {
      std::vector<W> sums(static_cast<size_t>(output.area()));
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t k = unit / output.channels, c = unit % output.channels, plane = args.plane_of_box[k];
        const ConstView& map = maps.map(plane);
        const S* pixels = map.template at<S>(maps.image(plane), c);
        std::fill(sums.begin(), sums.end(), W(0));
        for_each_argmax_sample(plan, argmax, k, c, [&](int64_t p, int64_t q, const ArgmaxSample<W>& sample) {
          W& sum = sums[p * output.width + q];
          pixels_of(sample, k, [&](int64_t y, int64_t x, W weight) {
            sum += weight * static_cast<W>(pixels[y * map.stride_y + x * map.stride_x]);
          });
        });
        S* bins = output.template at<S>(k, c);
        for (int64_t i = 0; i < output.area(); ++i) bins[i * output.stride_x] = static_cast<S>(sums[i]);
      }
    };
    converted.with_pixels([&](auto&& pixels_of) {
      run_units(args.boxes * output.channels, static_cast<double>(output.elements()),
                [&](int64_t begin, int64_t end) { pool(pixels_of, begin, end); });
    });
  });
}

// One thread writes each (plane, block of channels) and adds its boxes in their order, so the result is deterministic.
template <class W, class T>
void argmax_grad_input(const CallArgs<T>& args, const std::vector<const T*>& directions,
                       const ArgmaxView<const int32_t>& argmax, const ConstView& grad,
                       const Pyramid<MutableView>& grad_input) {
  // A block is one channel, whose sums stay in the cache; for channels_last it is a cache line of channels.
  const int64_t width = grad.stride_c == 1 ? kArgmaxChannels : 1;
  const auto plan = make_sample_plan<W>(args);
  const Directions<W> converted(args, directions);
  const BoxesByPlane by_plane = group_by_plane(args.plane_of_box, args.planes());
  const int64_t blocks = (grad.channels + width - 1) / width;
  const double elements = static_cast<double>(grad.elements() + grad_input.elements());
  const auto add_boxes = [&](auto storage, auto&& pixels_of, int64_t begin, int64_t end) {
    using S = decltype(storage);
    std::vector<W> buffer;
    std::vector<Addend<W>> addends(static_cast<size_t>(kPixelsPerSample * grad.area()));
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t plane = unit / blocks, first = unit % blocks * width;
      const MutableView& map = grad_input.map(plane);
      const int64_t image = grad_input.image(plane), channels = std::min(width, grad.channels - first);
      W* const in_place = width == 1 ? channel_in_place<W>(map, image, first) : nullptr;
      if (in_place == nullptr) buffer.resize(static_cast<size_t>(channels * map.area()));
      W* const sums = in_place == nullptr ? buffer.data() : in_place;
      std::fill(sums, sums + channels * map.area(), W(0));
      for (int64_t b = by_plane.begin[plane]; b < by_plane.begin[plane + 1]; ++b) {
        for (int64_t c = 0; c < channels; ++c) {
          add_box<S>(plan, argmax, grad, by_plane.boxes[b], first + c, ChannelSums<W>{sums + c * map.area(), map.width},
                     addends.data(), pixels_of);
        }
      }
      if (in_place == nullptr) write_channels<S>(sums, map, image, first, channels);
    }
  };
  with_storage<W>(grad.storage, [&](auto storage) {
    converted.with_pixels([&](auto&& pixels_of) {
      run_units(args.planes() * blocks, elements,
                [&](int64_t begin, int64_t end) { add_boxes(storage, pixels_of, begin, end); });
    });
  });
}

template <class W, class T>
void argmax_grad_boxes(const CallArgs<T>& args, const std::vector<const T*>& directions,
                       const ArgmaxView<const int32_t>& argmax, const ConstView& grad, const Pyramid<ConstView>& maps,
                       T* grad_boxes) {
  const auto plan = make_sample_plan<W>(args);
  const Directions<W> converted(args, directions);
  with_storage<W>(grad.storage, [&](auto storage) {
    using S = decltype(storage);
    run_units(args.boxes, static_cast<double>(grad.elements()), [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const int64_t plane = args.plane_of_box[k];
        const ConstView& map = maps.map(plane);
        W grad_edges[4] = {};
        for (int64_t c = 0; c < grad.channels; ++c) {
          const S* pixels = map.template at<S>(maps.image(plane), c);
          const S* bins = grad.template at<S>(k, c);
          for_each_argmax_sample(plan, argmax, k, c, [&](int64_t p, int64_t q, const ArgmaxSample<W>& sample) {
            const W grad_bin = static_cast<W>(bins[p * grad.stride_y + q * grad.stride_x]);
            const auto apply = [&](const TwoTaps<W>& y_taps, const TwoTaps<W>& x_taps) {
              W sum = 0;
              for_each_weighted_pixel_of(sample, y_taps, x_taps, [&](int64_t y, int64_t x, W weight) {
                sum += weight * static_cast<W>(pixels[y * map.stride_y + x * map.stride_x]);
              });
              return grad_bin * sum;
            };
            TwoTaps<W> y_taps = value_taps(*sample.y), x_taps = value_taps(*sample.x);
            if (converted.order() == 1) {
              y_taps = taps_along(*sample.y, kLowY, 0, converted.rates_of(k));
              x_taps = taps_along(*sample.x, kLowX, 0, converted.rates_of(k));
            }
            add_grad_edges(*sample.y, *sample.x, y_taps, x_taps, apply, grad_edges);
          });
        }
        for (int edge = 0; edge < 4; ++edge) grad_boxes[5 * k + 1 + edge] += static_cast<T>(grad_edges[edge]);
      }
    });
  });
}

#define INSTANTIATE(W, T)                                                                                              \
  template void argmax_pool<W, T>(const CallArgs<T>&, const std::vector<const T*>&, const ArgmaxView<const int32_t>&,  \
                                  const Pyramid<ConstView>&, const MutableView&);                                      \
  template void argmax_grad_input<W, T>(const CallArgs<T>&, const std::vector<const T*>&,                              \
                                        const ArgmaxView<const int32_t>&, const ConstView&,                            \
                                        const Pyramid<MutableView>&);                                                  \
  template void argmax_grad_boxes<W, T>(const CallArgs<T>&, const std::vector<const T*>&,                              \
                                        const ArgmaxView<const int32_t>&, const ConstView&, const Pyramid<ConstView>&, \
                                        T*);
INSTANTIATE(float, float)
INSTANTIATE(float, double)
INSTANTIATE(double, double)

}  // namespace roialign_ext
