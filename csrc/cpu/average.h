// Average pooling over upright boxes, grad_input and grad_boxes, and their derivatives along box directions: tables
// and units of work. The loops are in average_body.h and average_grad_boxes_body.h.
#pragma once

#include "kernels.h"

namespace roialign_ext {

// Samples outside the map count as `extrapolation_value`, which is 0 along directions.
template <class W, class T>
void average_pool(const CallArgs<T>& args, const std::vector<const T*>& directions, double extrapolation_value,
                  const Pyramid<ConstView>& maps, const MutableView& output);

template <class W, class T>
void average_grad_input(const CallArgs<T>& args, const std::vector<const T*>& directions, const ConstView& grad,
                        const Pyramid<MutableView>& grad_input);

// Adds the gradient w.r.t. the edges of box k to grad_boxes[k][1..4]. It is that of <G, A F> or, along a direction v,
// of <G, D_v A F>.
template <class W, class T>
void average_grad_boxes(const CallArgs<T>& args, const std::vector<const T*>& directions, const ConstView& grad,
                        const Pyramid<ConstView>& maps, T* grad_boxes);

}  // namespace roialign_ext
