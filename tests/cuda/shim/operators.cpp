// csrc/cuda/operators.cpp as it is, for tensors on the CPU and under names of its own:
// torch.ops.roialign_ext_shim._pool and so on, whose schemas tests/cuda/test_kernels.py defines.
#define USE_CUDA
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(ns, k, m) _STABLE_TORCH_LIBRARY_IMPL(roialign_ext_shim, CPU, m, C10_UID)

#include "../../../csrc/checks.cpp"
#include "../../../csrc/cuda/operators.cpp"
#include "../../../csrc/operators.cpp"
#include "../../../csrc/tensor.cpp"

// Torch's functions of these names, as the library of the shim sees them.
extern "C" {

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return TORCH_SUCCESS;
}

// Through the dispatcher, which fills uninitialized memory where tests ask for it.
AOTITorchError aoti_torch_empty_strided(int64_t dims, const int64_t* sizes, const int64_t* strides, int32_t dtype,
                                        int32_t, int32_t, AtenTensorHandle* result) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  const auto list = [&](const int64_t* numbers) {
    return from(torch::headeronly::IntHeaderOnlyArrayRef(numbers, static_cast<size_t>(dims)));
  };
  StableIValue stack[] = {
      list(sizes),        list(strides),      from(std::optional(to<torch::headeronly::ScalarType>(from(dtype)))),
      from(std::nullopt), from(std::nullopt), from(std::nullopt)};
  const AOTITorchError error = torch_call_dispatcher("aten::empty_strided", "", stack, TORCH_ABI_VERSION);
  if (error == TORCH_SUCCESS) *result = to<AtenTensorHandle>(stack[0]);
  return error;
}

}  // extern "C"
