#include "isa.h"

#include <string>

#include <ATen/Version.h>

namespace roialign_ext {

InstructionSet instruction_set() {
  static const InstructionSet chosen = [] {
#if defined(__x86_64__)
    const std::string capability = at::get_cpu_capability();
    if (capability == "AVX512") return InstructionSet::kAvx512;
    if (capability == "AVX2") return InstructionSet::kAvx2;
#endif
    return InstructionSet::kDefault;
  }();
  return chosen;
}

const char* instruction_set_name() {
  switch (instruction_set()) {
    case InstructionSet::kAvx512:
      return "AVX512";
    case InstructionSet::kAvx2:
      return "AVX2";
    case InstructionSet::kDefault:
      break;
  }
  return "DEFAULT";
}

}  // namespace roialign_ext
