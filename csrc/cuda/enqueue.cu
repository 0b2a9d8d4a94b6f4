// From an operation to the family of kernels that has it.
#include "kernels.h"

namespace roialign_ext::cuda {
namespace {

void run(Operation operation, const CallArgs& args, Scratch& scratch, cudaStream_t stream) {
  const bool rotated = is_rotated(args.rule);
  switch (operation) {
    case Operation::kPool:
      return rotated ? pool_rotated(args, scratch, stream) : pool_average(args, scratch, stream);
    case Operation::kGradInput:
      return rotated ? spread_rotated(args, scratch, stream) : spread_average(args, scratch, stream);
    case Operation::kGradBoxes:
      return rotated ? rotated_box_gradient(args, scratch, stream) : average_box_gradient(args, scratch, stream);
    case Operation::kMax:
      return pool_maximum(args, scratch, stream);
    case Operation::kPoolWinners:
      return pool_winners(args, scratch, stream);
    case Operation::kSpreadWinners:
      return spread_winners(args, scratch, stream);
    case Operation::kGradBoxesWinners:
      return winners_box_gradient(args, scratch, stream);
  }
}

}  // namespace

int64_t scratch_bytes(Operation operation, const CallArgs& args) {
  Scratch scratch;
  run(operation, args, scratch, nullptr);
  return scratch.bytes();
}

const char* enqueue(Operation operation, const CallArgs& args, void* memory, void* stream) {
  Scratch scratch(memory);
  run(operation, args, scratch, static_cast<cudaStream_t>(stream));
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace roialign_ext::cuda
