// Average pooling over upright boxes, its transpose and its box gradient, and their derivatives along box directions:
// tables and units of work. The loops are in pool_body.h and box_gradient_body.h.
#pragma once

#include "kernels.h"

namespace roialign_ext {

// Samples outside the map count as `extrapolation_value`, which is 0 along directions.
template <class W, class T>
void average_pool(const BoxParams<T>& params, const std::vector<const T*>& directions, double extrapolation_value,
                  const Pyramid<Input>& maps, const Output& output);

template <class W, class T>
void average_grad_input(const BoxParams<T>& params, const std::vector<const T*>& directions, const Input& grad,
                        const Pyramid<Output>& grad_input);

// Adds to rows[k][1..4] the gradient of <G, A F>, or of <G, D_v A F> along a direction, w.r.t. the edges of box k.
template <class W, class T>
void average_grad_boxes(const BoxParams<T>& params, const std::vector<const T*>& directions, const Input& grad,
                        const Pyramid<Input>& maps, T* rows);

}  // namespace roialign_ext
