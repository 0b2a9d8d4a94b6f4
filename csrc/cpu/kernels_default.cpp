// The kernels for the compiler's baseline: 16-byte vectors on every architecture.
#include "kernels.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#define ROI_VECTOR_BYTES 16
#pragma GCC push_options
#pragma GCC optimize("fp-contract=fast")

namespace roialign_ext {
namespace isa_default {
#include "vector_body.h"
// The loops, on top of it.
#include "box_gradient_body.h"
#include "max_body.h"
#include "pool_body.h"
}  // namespace isa_default

template <class S>
Kernels<S> kernels_default() {
  using namespace isa_default;
  return {VectorType<arithmetic_t<S>>::lanes, pool<S>, grad_input<S>, grad_boxes<S>, max<S>};
}
template Kernels<float> kernels_default();
template Kernels<double> kernels_default();
template Kernels<c10::Half> kernels_default();
template Kernels<c10::BFloat16> kernels_default();

}  // namespace roialign_ext

#pragma GCC pop_options
