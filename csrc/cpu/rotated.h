// Average pooling over rotated boxes, grad_input and grad_boxes: units of work. The loops are in rotated_body.h.
#pragma once

#include "kernels.h"

namespace roialign_ext {

template <class W, class T>
void rotated_pool(const CallArgs<T>& args, const std::vector<const T*>& directions, const Pyramid<ConstView>& maps,
                  const MutableView& output);

template <class W, class T>
void rotated_grad_input(const CallArgs<T>& args, const std::vector<const T*>& directions, const ConstView& grad,
                        const Pyramid<MutableView>& grad_input);

// Adds the gradient w.r.t. the parameters of box k to grad_boxes[k][1..5]. It is that of <G, A F> or, along a direction
// v, of <G, D_v A F>.
template <class W, class T>
void rotated_grad_boxes(const CallArgs<T>& args, const std::vector<const T*>& directions, const ConstView& grad,
                        const Pyramid<ConstView>& maps, T* grad_boxes);

}  // namespace roialign_ext
