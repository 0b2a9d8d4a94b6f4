// The kernels for AVX2, FMA and F16C: 32-byte vectors.
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define ROI_VECTOR_BYTES 32
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#pragma GCC optimize("O3", "fp-contract=fast")

namespace roialign_ext::isa_avx2 {
#include "kernels_body.h"
}  // namespace roialign_ext::isa_avx2

#pragma GCC pop_options

namespace roialign_ext {

template <class W>
Kernels<W> kernels_avx2() {
  return isa_avx2::kernels<W>();
}
template Kernels<float> kernels_avx2();
template Kernels<double> kernels_avx2();

}  // namespace roialign_ext

#endif  // __x86_64__
