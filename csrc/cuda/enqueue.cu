// From an operation to the family of kernels that has it.
#include "kernels.h"

namespace roialign_ext::cuda {
namespace {

void run(Operation operation, const CallArgs& args, Scratch& scratch, Launcher& launcher) {
  const bool rotated = is_rotated(args.rule);
  switch (operation) {
    case Operation::kPool:
      return rotated ? pool_rotated(args, scratch, launcher) : pool_average(args, scratch, launcher);
    case Operation::kGradInput:
      return rotated ? spread_rotated(args, scratch, launcher) : average_grad_input(args, scratch, launcher);
    case Operation::kGradBoxes:
      return rotated ? rotated_box_gradient(args, scratch, launcher) : average_box_gradient(args, scratch, launcher);
    case Operation::kMax:
      return pool_maximum(args, scratch, launcher);
    case Operation::kPoolWinners:
      return pool_winners(args, scratch, launcher);
    case Operation::kSpreadWinners:
      return spread_winners(args, scratch, launcher);
    case Operation::kGradBoxesWinners:
      return winners_box_gradient(args, scratch, launcher);
  }
}

}  // namespace

int64_t scratch_bytes(Operation operation, const CallArgs& args) {
  Scratch scratch;
  Launcher unused(nullptr);
  run(operation, args, scratch, unused);
  return scratch.bytes();
}

std::string enqueue(Operation operation, const CallArgs& args, void* memory, void* stream) {
  Scratch scratch(memory);
  Launcher launcher(static_cast<cudaStream_t>(stream));
  run(operation, args, scratch, launcher);
  return launcher.error();
}

}  // namespace roialign_ext::cuda
