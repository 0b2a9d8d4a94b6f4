// The kernels for AVX-512 F, BW, DQ and VL: 64-byte vectors.
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <limits>
#include <type_traits>
#include <utility>

#define ROI_VECTOR_BYTES 64
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#pragma GCC optimize("O3", "fp-contract=fast")

namespace roialign_ext {
namespace isa_avx512 {
#include "vector_body.h"
// The loops, on top of it.
#include "grad_boxes_body.h"
#include "max_body.h"
#include "pool_body.h"
#include "rotated_body.h"
}  // namespace isa_avx512

template <class W>
Kernels<W> kernels_avx512() {
  using namespace isa_avx512;
  return {VectorType<W>::lanes, average_pool<W>, average_grad_input<W>, average_grad_boxes<W>,
          max_pool<W>,          rotated_pool<W>, rotated_grad_input<W>, rotated_grad_boxes<W>};
}
template Kernels<float> kernels_avx512();
template Kernels<double> kernels_avx512();

}  // namespace roialign_ext

#pragma GCC pop_options

#endif  // __x86_64__
