// The kernels for AVX2, FMA and F16C: 32-byte vectors.
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <limits>
#include <type_traits>
#include <utility>

#define ROI_VECTOR_BYTES 32
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#pragma GCC optimize("O3", "fp-contract=fast")

namespace roialign_ext {
namespace isa_avx2 {
#include "vector_body.h"
// The loops, on top of it.
#include "grad_boxes_body.h"
#include "max_body.h"
#include "pool_body.h"
#include "rotated_body.h"
}  // namespace isa_avx2

template <class W>
Kernels<W> kernels_avx2() {
  using namespace isa_avx2;
  return {VectorType<W>::lanes, average_pool<W>, average_grad_input<W>, average_grad_boxes<W>,
          max_pool<W>,          rotated_pool<W>, rotated_grad_input<W>, rotated_grad_boxes<W>};
}
template Kernels<float> kernels_avx2();
template Kernels<double> kernels_avx2();

}  // namespace roialign_ext

#pragma GCC pop_options

#endif  // __x86_64__
