// Maximum pooling of the interpolated samples: tables and units of work. The loops are in max_pool_body.h.
#pragma once

#include "kernels.h"

namespace roialign_ext {

template <class W, class T>
void max_pool(const CallArgs<T>& args, const Pyramid<ConstView>& maps, const MutableView& values,
              const ArgmaxView<int32_t>& argmax);

}  // namespace roialign_ext
