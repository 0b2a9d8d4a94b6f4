// csrc/cuda/operators.cpp as it is, for tensors on the CPU and under names of its own:
// torch.ops.roialign_ext_shim._pool and so on, whose schemas tests/test_cuda_kernels.py defines.
#include <torch/library.h>

#undef TORCH_LIBRARY_IMPL
#define TORCH_LIBRARY_IMPL(ns, k, m) _TORCH_LIBRARY_IMPL(roialign_ext_shim, CPU, m, C10_UID)

#include "checks.cpp"
#include "cuda/operators.cpp"
