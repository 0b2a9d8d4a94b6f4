// The kernels for AVX-512 F, BW, DQ and VL: 64-byte vectors.
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define ROI_VECTOR_BYTES 64
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#pragma GCC optimize("O3", "fp-contract=fast")

namespace roialign_ext::isa_avx512 {
#include "kernels_body.h"
}  // namespace roialign_ext::isa_avx512

#pragma GCC pop_options

namespace roialign_ext {

template <class W>
Kernels<W> kernels_avx512() {
  return isa_avx512::kernels<W>();
}
template Kernels<float> kernels_avx512();
template Kernels<double> kernels_avx512();

}  // namespace roialign_ext

#endif  // __x86_64__
