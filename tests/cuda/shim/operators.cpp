// csrc/cuda/operators.cpp unchanged, for tensors on the CPU, registered as torch.ops.roialign_ext_shim._pool and so on.
// tests/support/cuda_shim.py defines the schemas.
#define USE_CUDA
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(ns, k, m) _STABLE_TORCH_LIBRARY_IMPL(roialign_ext_shim, CPU, m, C10_UID)

#include "../../../csrc/checks.cpp"
#include "../../../csrc/cuda/operators.cpp"
#include "../../../csrc/private_ops.cpp"
#include "../../../csrc/public_ops.cpp"
#include "../../../csrc/tensor.cpp"

// Replacements of torch's functions in the library of the shim.
extern "C" {

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return TORCH_SUCCESS;
}

// Goes through the dispatcher, which fills uninitialized memory if tests request it.
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
