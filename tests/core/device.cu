// Compiled, never run: csrc/core as device code.
#include "axis_weights.h"

using namespace roialign_ext;

template <class T>
__global__ void row_of_weights(BoxAxis<T> axis, T* row) {
  const int64_t p = threadIdx.x;
  for_each_tap<T>(axis, p, ValueWeights(), [&](int64_t pixel, const T* weight) { row[pixel] += weight[0]; });
  for_each_tap<T>(axis, p, EdgeWeights(), [&](int64_t pixel, const T* weight) { row[pixel] += weight[0] * weight[1]; });
  for_each_tap<T>(axis, p, DirectionWeights<T>{T(1), T(-1)},
                  [&](int64_t pixel, const T* weight) { row[pixel] += weight[0]; });
}

template __global__ void row_of_weights<float>(BoxAxis<float>, float*);
template __global__ void row_of_weights<double>(BoxAxis<double>, double*);
