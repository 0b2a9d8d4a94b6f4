// Chooses the family of kernels for an operation.
#include "families.cuh"

namespace roialign_ext::cuda {
namespace {

void run(Operation operation, const CallArgs& args, Scratch& scratch, Launcher& launcher) {
  const bool rotated = is_rotated(args.rule);
  switch (operation) {
    case Operation::kPool:
      return rotated ? enqueue_rotated_pool(args, scratch, launcher) : enqueue_average_pool(args, scratch, launcher);
    case Operation::kGradInput:
      return rotated ? enqueue_rotated_grad_input(args, scratch, launcher)
                     : enqueue_average_grad_input(args, scratch, launcher);
    case Operation::kGradBoxes:
      return rotated ? enqueue_rotated_grad_boxes(args, scratch, launcher)
                     : enqueue_average_grad_boxes(args, scratch, launcher);
    case Operation::kMaxPool:
      return enqueue_max_pool(args, scratch, launcher);
    case Operation::kArgmaxPool:
      return enqueue_argmax_pool(args, scratch, launcher);
    case Operation::kArgmaxGradInput:
      return enqueue_argmax_grad_input(args, scratch, launcher);
    case Operation::kArgmaxGradBoxes:
      return enqueue_argmax_grad_boxes(args, scratch, launcher);
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
