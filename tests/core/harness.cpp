// csrc/core as plain functions for tests/core/test_axis_weights.py. It includes nothing but csrc/core, which shows that
// the headers stand alone.
#include <type_traits>

#include "axis_weights.h"

namespace {

struct Tap {
  int64_t bin, pixel;
  double weight[2];
};

template <class T>
roialign_ext::BoxAxis<T> axis_of(int rule, double low, double high, double scale, int64_t bins, int64_t length,
                                 int64_t sampling_ratio) {
  return roialign_ext::make_box_axis<T>(static_cast<roialign_ext::Rule>(rule), static_cast<T>(low),
                                        static_cast<T>(high), static_cast<T>(scale), bins, length, sampling_ratio);
}

template <class T>
int64_t build(int rule, double low, double high, double scale, int64_t bins, int64_t length, int64_t sampling_ratio,
              int kind, double low_rate, double high_rate, Tap* taps, int64_t capacity) {
  using namespace roialign_ext;
  const auto axis = axis_of<T>(rule, low, high, scale, bins, length, sampling_ratio);
  int64_t count = 0;
  auto record = [&](const auto& derivative) {
    constexpr int M = std::decay_t<decltype(derivative)>::M;
    for (int64_t p = 0; p < bins; ++p) {
      for_each_tap<T>(axis, p, derivative, [&](int64_t pixel, const T* weight) {
        if (count < capacity) taps[count] = {p, pixel, {weight[0], M == 2 ? weight[M - 1] : T(0)}};
        ++count;
      });
    }
  };
  const EdgeRates<T> rates = {T(low_rate), T(high_rate)};
  if (kind == 0) record(TableValue<T>{});
  if (kind == 1) record(by_edges<T>());
  if (kind == 2) record(TableDerivative<T, 1, 1>{{rates}, {}});
  if (kind == 3) record(by_edges_along(rates));
  return count;
}

}  // namespace

extern "C" int64_t build_taps(int single_precision, int rule, double low, double high, double scale, int64_t bins,
                              int64_t length, int64_t sampling_ratio, int kind, double low_rate, double high_rate,
                              Tap* taps, int64_t capacity) {
  return single_precision ? build<float>(rule, low, high, scale, bins, length, sampling_ratio, kind, low_rate,
                                         high_rate, taps, capacity)
                          : build<double>(rule, low, high, scale, bins, length, sampling_ratio, kind, low_rate,
                                          high_rate, taps, capacity);
}

extern "C" double crop_position_of(int single_precision, double low, double high, int64_t samples, int64_t length,
                                   int64_t sample) {
  const auto position = [&](auto real) {
    using T = decltype(real);
    const int rule = static_cast<int>(roialign_ext::Rule::kCropBilinear);
    return static_cast<double>(roialign_ext::crop_position(axis_of<T>(rule, low, high, 1, 1, length, samples), sample));
  };
  return single_precision ? position(0.0f) : position(0.0);
}
