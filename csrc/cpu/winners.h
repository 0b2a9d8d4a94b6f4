// Pooling with a fixed argmax: each output is one bilinear sample, so the operator is linear in the features
// (docs/math.md, section 5). Also grad_input and grad_boxes, and the derivatives of all three along box directions.
#pragma once

#include "kernels.h"

namespace roialign_ext {

template <class W, class T>
void winners_pool(const BoxParams<T>& params, const std::vector<const T*>& directions,
                  const WinnersView<const int32_t>& winners, const Pyramid<Input>& maps, const Output& output);

template <class W, class T>
void winners_grad_input(const BoxParams<T>& params, const std::vector<const T*>& directions,
                        const WinnersView<const int32_t>& winners, const Input& grad,
                        const Pyramid<Output>& grad_input);

// Adds to rows[k][1..4] the gradient of <G, A F>, or of <G, D_v A F> along a direction, w.r.t. the edges of box k.
template <class W, class T>
void winners_grad_boxes(const BoxParams<T>& params, const std::vector<const T*>& directions,
                        const WinnersView<const int32_t>& winners, const Input& grad, const Pyramid<Input>& maps,
                        T* rows);

}  // namespace roialign_ext
