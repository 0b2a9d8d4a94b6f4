// The kernels for the compiler's baseline: 16-byte vectors on every architecture.
#include "kernels.h"

#define ROI_VECTOR_BYTES 16
#pragma GCC push_options
#pragma GCC optimize("O3", "fp-contract=fast")

namespace roialign_ext::isa_default {
#include "kernels_body.h"
}  // namespace roialign_ext::isa_default

#pragma GCC pop_options

namespace roialign_ext {

template <class W>
Kernels<W> kernels_default() {
  return isa_default::kernels<W>();
}
template Kernels<float> kernels_default();
template Kernels<double> kernels_default();

}  // namespace roialign_ext
