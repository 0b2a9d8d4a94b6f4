// The kernels for the compiler's baseline: 16-byte vectors on every architecture.
#include "kernels.h"

#include <algorithm>
#include <limits>
#include <type_traits>
#include <utility>

#define ROI_VECTOR_BYTES 16
#pragma GCC push_options
#pragma GCC optimize("O3", "fp-contract=fast")

namespace roialign_ext {
namespace isa_default {
#include "vector_body.h"
// The loops, on top of it.
#include "grad_boxes_body.h"
#include "max_body.h"
#include "pool_body.h"
#include "rotated_body.h"
}  // namespace isa_default

template <class W>
Kernels<W> kernels_default() {
  using namespace isa_default;
  return {VectorType<W>::lanes, average_pool<W>, average_grad_input<W>, average_grad_boxes<W>,
          max_pool<W>,          rotated_pool<W>, rotated_grad_input<W>, rotated_grad_boxes<W>};
}
template Kernels<float> kernels_default();
template Kernels<double> kernels_default();

}  // namespace roialign_ext

#pragma GCC pop_options
