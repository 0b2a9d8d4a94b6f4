// The instruction set of the kernels: the widest one of the processor. The environment variable ATEN_CPU_CAPABILITY
// (default, avx2, avx512) names a narrower one. The first call chooses it.
#pragma once

#include "kernels.h"

namespace roialign_ext {

enum class InstructionSet { kDefault, kAvx2, kAvx512 };  // narrowest first

InstructionSet instruction_set();

// "DEFAULT", "AVX2" or "AVX512".
const char* instruction_set_name();

template <class W>
Kernels<W> select_kernels() {
#if defined(__x86_64__)
  switch (instruction_set()) {
    case InstructionSet::kAvx512:
      return kernels_avx512<W>();
    case InstructionSet::kAvx2:
      return kernels_avx2<W>();
    case InstructionSet::kDefault:
      break;
  }
#endif
  return kernels_default<W>();
}

}  // namespace roialign_ext
