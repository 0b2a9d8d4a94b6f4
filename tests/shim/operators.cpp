// csrc/cuda/operators.cpp as it is, for tensors on the CPU and under names of its own:
// torch.ops.roialign_ext_shim._pool and so on, whose schemas tests/test_cuda_kernels.py defines.
#include <torch/library.h>

#undef TORCH_LIBRARY_IMPL
#define TORCH_LIBRARY_IMPL(ns, k, m) _TORCH_LIBRARY_IMPL(roialign_ext_shim, CPU, m, C10_UID)

#include "checks.cpp"
#include "counter.h"
#include "cuda/args.h"
#include "cuda_runtime.h"

namespace roialign_ext::cuda {

// For the shim's stream a better match than the kernels' function of that name, which it calls.
static std::string enqueue(Operation operation, const CallArgs& args, void* scratch, cudaStream_t stream) {
  if (shim::counter::begin_plan && shim::counter::begin_plan()) {
    shim::counter::argument(args);
    cuda::enqueue(operation, args, scratch, static_cast<void*>(stream));
    shim::counter::end_plan();
  }
  return cuda::enqueue(operation, args, scratch, static_cast<void*>(stream));
}

}  // namespace roialign_ext::cuda

#include "cuda/operators.cpp"
