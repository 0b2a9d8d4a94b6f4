// Compiled, never run: csrc/core as device code.
#include "axis_weights.h"
#include "pyramid.h"
#include "rotated_box.h"

using namespace roialign_ext;

template <class T>
__global__ void row_of_weights(BoxAxis<T> axis, T* row) {
  const int64_t p = threadIdx.x;
  const EdgeRates<T> rates = {T(1), T(-1)};
  for_each_tap<T>(axis, p, TableValue<T>{}, [&](int64_t pixel, const T* weight) { row[pixel] += weight[0]; });
  for_each_tap<T>(axis, p, by_edges<T>(), [&](int64_t pixel, const T* weight) { row[pixel] += weight[0] * weight[1]; });
  for_each_tap<T>(axis, p, by_edges_along(rates), [&](int64_t pixel, const T* weight) { row[pixel] += weight[0]; });
}

template <class T>
__global__ void rotated_bin(const T* box, const T* direction, LevelRule level, T* plane) {
  const auto rotated = make_rotated_box<T>(Rule::kRotatedHalfPixel, box, T(0.25), 7, 7, 20, 30, 0);
  const PointDerivative<T, 1, 2> twice = {{direction}, {direction}};
  for_each_rotated_tap<T>(rotated, turn_back(window_of_map(rotated), rotated), threadIdx.y, threadIdx.x, twice,
                          [&](int64_t y, int64_t x, const T* weight) { plane[y * 30 + x] += weight[0]; });
  plane[0] = static_cast<T>(level_of_box(level, true, box));
}

template __global__ void row_of_weights<float>(BoxAxis<float>, float*);
template __global__ void row_of_weights<double>(BoxAxis<double>, double*);
template __global__ void rotated_bin<float>(const float*, const float*, LevelRule, float*);
template __global__ void rotated_bin<double>(const double*, const double*, LevelRule, double*);
