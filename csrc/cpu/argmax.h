// Pooling with a fixed argmax, grad_input and grad_boxes, and their derivatives along box directions (docs/math.md,
// section 5). Each output is one bilinear sample, so the operator is linear in the features.
#pragma once

#include "kernels.h"

namespace roialign_ext {

template <class W, class T>
void argmax_pool(const CallArgs<T>& args, const std::vector<const T*>& directions,
                 const ArgmaxView<const int32_t>& argmax, const Pyramid<ConstView>& maps, const MutableView& output);

template <class W, class T>
void argmax_grad_input(const CallArgs<T>& args, const std::vector<const T*>& directions,
                       const ArgmaxView<const int32_t>& argmax, const ConstView& grad,
                       const Pyramid<MutableView>& grad_input);

// Adds the gradient w.r.t. the edges of box k to grad_boxes[k][1..4]. It is that of <G, A F> or, along a direction v,
// of <G, D_v A F>.
template <class W, class T>
void argmax_grad_boxes(const CallArgs<T>& args, const std::vector<const T*>& directions,
                       const ArgmaxView<const int32_t>& argmax, const ConstView& grad, const Pyramid<ConstView>& maps,
                       T* grad_boxes);

}  // namespace roialign_ext
