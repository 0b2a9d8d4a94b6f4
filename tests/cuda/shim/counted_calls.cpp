// Enqueues every call of a counted build twice: once to learn what it launches, and then to run it. The linker passes
// calls of roialign_ext::cuda::enqueue to `counted` (--wrap in tests/support/cuda_shim.py).
#include "counter.h"
#include "cuda/args.h"

#define ENQUEUE "_ZN12roialign_ext4cuda7enqueueB5cxx11ENS0_9OperationERKNS0_8CallArgsEPvS5_"

namespace roialign_ext::cuda {

std::string enqueue_itself(Operation, const CallArgs&, void*, void*) asm("__real_" ENQUEUE);
std::string counted(Operation, const CallArgs&, void*, void*) asm("__wrap_" ENQUEUE);

std::string counted(Operation operation, const CallArgs& args, void* scratch, void* stream) {
  if (shim::counter::begin_plan()) {
    shim::counter::argument(args);
    enqueue_itself(operation, args, scratch, stream);
    shim::counter::end_plan();
  }
  return enqueue_itself(operation, args, scratch, stream);
}

}  // namespace roialign_ext::cuda
