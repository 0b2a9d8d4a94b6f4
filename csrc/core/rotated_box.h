// A box turned about its centre: the grid of an upright box of its size, rotated (docs/math.md, section 14). Both axes
// depend on all parameters (cx, cy, w, h, angle), so there are no tables. Each sample has its own four taps.
#pragma once

#include "axis_samples.h"

namespace roialign_ext {

constexpr int kRotatedParameters = 5;  // cx, cy, w, h, angle

template <class T>
struct RotatedBox {
  BoxAxis<T> y, x;  // the upright grid, map pixels from the centre
  T centre_y, centre_x;
  T cosine, sine;
  T angle_unit;  // radians per unit of the angle
};

// Bound of the rounding error of a position, relative to its coordinates: about eight roundings.
template <class T>
constexpr T kRoundings = sizeof(T) == 8 ? T(2e-15) : T(1e-6);

template <class T>
ROI_HOST_DEVICE T map_sizes(int64_t height, int64_t width) {
  return static_cast<T>(height + 1) + static_cast<T>(width + 1);
}

// `parameters` are (cx, cy, w, h, angle): image pixels, and degrees or radians counter-clockwise.
template <class T>
ROI_HOST_DEVICE RotatedBox<T> make_rotated_box(Rule rule, const T* parameters, T scale, int64_t bins_y, int64_t bins_x,
                                               int64_t height, int64_t width, int64_t sampling_ratio) {
  constexpr double kPi = 3.14159265358979323846;
  const bool half_pixel = rule == Rule::kRotatedHalfPixel || rule == Rule::kRotatedHalfPixelRadian;
  const bool degrees = rule == Rule::kRotatedHalfPixel || rule == Rule::kRotatedLegacy;
  const T shift = half_pixel ? T(-0.5) : T(0);
  const T angle = degrees ? static_cast<T>(static_cast<double>(parameters[4]) * kPi / 180.0) : parameters[4];
  auto upright = [&](T extent, int64_t bins, int64_t length) {
    BoxAxis<T> axis = {rule, T(0), T(0), T(0), 0, bins, length, scale, false};
    T size = multiply(extent, scale);
    axis.size_held = !half_pixel && size < T(1);
    if (axis.size_held) size = T(1);
    axis.start = -size / T(2);
    axis.bin = size / static_cast<T>(bins);
    axis.grid = samples_per_bin(axis.bin, sampling_ratio);
    return axis;
  };
  RotatedBox<T> box = {upright(parameters[3], bins_y, height), upright(parameters[2], bins_x, width),
                       add(multiply(parameters[1], scale), shift), add(multiply(parameters[0], scale), shift),
                       // Rounded once from double, so that every backend has the same.
                       static_cast<T>(std::cos(static_cast<double>(angle))),
                       static_cast<T>(std::sin(static_cast<double>(angle))), degrees ? T(kPi / 180.0) : T(1)};
  // This far away rounding errors exceed the map, and fewer than one sample in 10^6 can hit it. An adaptive grid counts
  // as empty.
  const T distance = std::fabs(box.centre_y) + std::fabs(box.centre_x);
  if (sampling_ratio <= 0 && kRoundings<T> * distance > map_sizes<T>(height, width)) box.y.grid = box.x.grid = 0;
  return box;
}

// One sample of a rotated grid: its position in the upright grid, and on the two axes of the map.
template <class T>
struct RotatedSample {
  T up_y, up_x;        // map pixels from the centre, before the rotation
  T alpha_y, alpha_x;  // the same as shares of the box, in [-1/2, 1/2]
  AxisSample<T> y, x;
  T weight;  // how many samples of the bin share this position
};

// A rectangle of positions on the map.
template <class T>
struct Window {
  T top, left, height, width;
};

// Samples outside this window touch no pixel of the map.
template <class T>
ROI_HOST_DEVICE Window<T> window_of_map(const RotatedBox<T>& box) {
  return {T(-1), T(-1), static_cast<T>(box.y.length + 1), static_cast<T>(box.x.length + 1)};
}

// Interval of one upright coordinate: the corners of a window, turned back, with a margin for rounding.
template <class T>
struct Reach {
  T from, to;
};

template <class T>
ROI_HOST_DEVICE Reach<T> reach_of(const Window<T>& window, const RotatedBox<T>& box, T by_y, T by_x) {
  const T corner = by_y * (window.top - box.centre_y) + by_x * (window.left - box.centre_x);
  const T y = by_y * window.height, x = by_x * window.width;
  const T sizes = map_sizes<T>(box.y.length, box.x.length);
  const T margin = T(1) + kRoundings<T> * (std::fabs(box.centre_y) + std::fabs(box.centre_x) + sizes);
  return {corner + (y < T(0) ? y : T(0)) + (x < T(0) ? x : T(0)) - margin,
          corner + (y > T(0) ? y : T(0)) + (x > T(0) ? x : T(0)) + margin};
}

// A window in upright coordinates. Samples outside it are never visited.
template <class T>
struct UprightWindow {
  Reach<T> y, x;

  ROI_HOST_DEVICE bool finite() const {
    return std::isfinite(y.from) && std::isfinite(y.to) && std::isfinite(x.from) && std::isfinite(x.to);
  }
};

template <class T>
ROI_HOST_DEVICE UprightWindow<T> turn_back(const Window<T>& window, const RotatedBox<T>& box) {
  return {reach_of(window, box, box.cosine, box.sine), reach_of(window, box, -box.sine, box.cosine)};
}

// Calls visit(sample) for the samples of bin (p, q) on the map that may lie in the window.
template <class T, class Visit>
ROI_HOST_DEVICE void for_each_rotated_sample(const RotatedBox<T>& box, const UprightWindow<T>& window, int64_t p,
                                             int64_t q, Visit&& visit) {
  if (!window.finite()) return;
  RotatedSample<T> sample = {};
  // Sizes are not negative here: both axes ascend.
  constexpr bool kBisects = true, kDescends = false, kBackwards = false;
  const auto y_at = [&](int64_t i) { return grid_position(box.y, p, i); };
  const auto x_at = [&](int64_t j) { return grid_position(box.x, q, j); };
  const auto visit_y = [&](int64_t i, int64_t count_y, T up_y) {
    sample.up_y = up_y;
    sample.y.index = i;
    sample.y.count = count_y;
    sample.alpha_y = relative_position(box.y, p, sample.y) - T(0.5);
    const auto visit_x = [&](int64_t j, int64_t count_x, T up_x) {
      const T y = add(add(multiply(up_y, box.cosine), -multiply(up_x, box.sine)), box.centre_y);
      const T x = add(add(multiply(up_y, box.sine), multiply(up_x, box.cosine)), box.centre_x);
      if (!locate(box.y.rule, y, box.y.length, sample.y) || !locate(box.x.rule, x, box.x.length, sample.x)) return;
      sample.up_x = up_x;
      sample.x.index = j;
      sample.x.count = count_x;
      sample.alpha_x = relative_position(box.x, q, sample.x) - T(0.5);
      sample.weight = static_cast<T>(count_y) * static_cast<T>(count_x);
      visit(sample);
    };
    for_each_run(box.x.grid, kBisects, kDescends, x_at, window.x.from, window.x.to, kBackwards, visit_x);
  };
  for_each_run(box.y.grid, kBisects, kDescends, y_at, window.y.from, window.y.to, kBackwards, visit_y);
}

// First or second derivative of a sample's position on the map.
template <class T>
struct PointRate {
  T y, x;
};

// Derivative of a sample's position along the direction u of the box's parameters (equation (37)).
template <class T>
ROI_HOST_DEVICE PointRate<T> point_rate(const RotatedBox<T>& box, const RotatedSample<T>& sample, const T* u) {
  const T scale = box.y.scale, turn = box.angle_unit * u[4];
  const T up_y = box.y.size_held ? T(0) : scale * sample.alpha_y * u[3];
  const T up_x = box.x.size_held ? T(0) : scale * sample.alpha_x * u[2];
  const T y = up_y - sample.up_x * turn, x = up_x + sample.up_y * turn;
  return {scale * u[1] + y * box.cosine - x * box.sine, scale * u[0] + y * box.sine + x * box.cosine};
}

// Second derivative of a sample's position along u and v (equation (38)).
template <class T>
ROI_HOST_DEVICE PointRate<T> point_curvature(const RotatedBox<T>& box, const RotatedSample<T>& sample, const T* u,
                                             const T* v) {
  const T scale = box.y.scale, turn_u = box.angle_unit * u[4], turn_v = box.angle_unit * v[4];
  const T up_y = box.y.size_held ? T(0) : scale * sample.alpha_y * (u[3] * turn_v + v[3] * turn_u);
  const T up_x = box.x.size_held ? T(0) : scale * sample.alpha_x * (u[2] * turn_v + v[2] * turn_u);
  const T y = -up_x - sample.up_y * turn_u * turn_v, x = up_y - sample.up_x * turn_u * turn_v;
  return {y * box.cosine - x * box.sine, y * box.sine + x * box.cosine};
}

// The weights (ORDER 0), or their derivatives along `first` (1), or along `first` and `second` (2); M at once.
// Directions are laid out like the parameters of a box.
template <class T, int MANY, int ORDER>
struct PointDerivative {
  static constexpr int M = MANY;
  const T *first[M], *second[M];
};

// Calls emit(y, x, weights[M]) for the taps of bin (p, q), in the order of the samples. Samples outside the window have
// none.
template <class W, class T, int M, int ORDER, class Emit>
ROI_HOST_DEVICE void for_each_rotated_tap(const RotatedBox<T>& box, const UprightWindow<T>& window, int64_t p,
                                          int64_t q, const PointDerivative<T, M, ORDER>& derivative, Emit&& emit) {
  const T count = static_cast<T>(box.y.grid) * static_cast<T>(box.x.grid);
  for_each_rotated_sample(box, window, p, q, [&](const RotatedSample<T>& sample) {
    const T share = sample.weight / count;
    // Clamped samples stay where they are: one pixel and no slope along that axis, however fast the box moves.
    const bool y_moves = !sample.y.clamped, x_moves = !sample.x.clamped;
    T by_y[M], by_x[M], by_both[M];  // factors of the map's derivatives w.r.t. y, x and both
    for (int m = 0; m < M && ORDER > 0; ++m) {
      PointRate<T> rate = point_rate(box, sample, derivative.first[m]);
      by_both[m] = T(0);
      if (ORDER == 2) {
        const PointRate<T> other = point_rate(box, sample, derivative.second[m]);
        if (x_moves && y_moves) by_both[m] = share * (rate.y * other.x + rate.x * other.y);
        rate = point_curvature(box, sample, derivative.first[m], derivative.second[m]);
      }
      by_y[m] = y_moves ? share * rate.y : T(0);
      by_x[m] = x_moves ? share * rate.x : T(0);
    }
    for (int i = 0; i < 2; ++i) {
      if (i == 1 && !y_moves) continue;
      const T wy = i == 0 ? T(1) - sample.y.fraction : sample.y.fraction, sy = i == 0 ? T(-1) : T(1);
      for (int j = 0; j < 2; ++j) {
        if (j == 1 && !x_moves) continue;
        const T wx = j == 0 ? T(1) - sample.x.fraction : sample.x.fraction, sx = j == 0 ? T(-1) : T(1);
        W weight[M];
        bool used = false;
        for (int m = 0; m < M; ++m) {
          const T exact = ORDER == 0 ? share * wy * wx : by_y[m] * sy * wx + by_x[m] * wy * sx + by_both[m] * sy * sx;
          weight[m] = static_cast<W>(exact);
          used = used || weight[m] != W(0);
        }
        if (used) emit(sample.y.low + i, sample.x.low + j, weight);
      }
    }
  });
}

}  // namespace roialign_ext
