#include "isa.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

namespace roialign_ext {
namespace {

// The conditions of torch for its names of the instruction sets.
InstructionSet widest() {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return InstructionSet::kDefault;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  return avx512 ? InstructionSet::kAvx512 : InstructionSet::kAvx2;
#else
  return InstructionSet::kDefault;
#endif
}

InstructionSet requested() {
  const char* variable = std::getenv("ATEN_CPU_CAPABILITY");
  const std::string_view name = variable == nullptr ? "" : variable;
  if (name == "default") return InstructionSet::kDefault;
  return name == "avx2" ? InstructionSet::kAvx2 : InstructionSet::kAvx512;
}

}  // namespace

InstructionSet instruction_set() {
  // The processor may lack the requested instructions.
  static const InstructionSet chosen = std::min(requested(), widest());
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
