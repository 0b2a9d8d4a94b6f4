// Which instruction set the kernels run: the widest that the processor has, or where the environment variable
// ATEN_CPU_CAPABILITY (default, avx2, avx512) names a narrower one, that. Chosen once, by the first call.
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
