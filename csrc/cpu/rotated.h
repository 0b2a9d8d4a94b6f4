// Pooling over rotated boxes and its gradients: threading. The loops are in rotated_body.h.
#pragma once

#include "call.h"

namespace roialign_ext {

template <class W, class T>
void pool_rotated(const BoxParams<T>& params, const std::vector<const T*>& directions, const Pyramid<Input>& maps,
                  const Output& output);

template <class W, class T>
void spread_rotated(const BoxParams<T>& params, const std::vector<const T*>& directions, const Input& grad,
                    const Pyramid<Output>& grad_input);

// Adds to rows[k][1..5] the gradient of <G, A F>, or with a direction that of <G, D_v A F>, by the parameters of box k.
template <class W, class T>
void box_gradient_rotated(const BoxParams<T>& params, const std::vector<const T*>& directions, const Input& grad,
                          const Pyramid<Input>& maps, T* rows);

}  // namespace roialign_ext
