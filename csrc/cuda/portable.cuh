// CUDA facilities that all kernels share: launches, dynamic shared memory, and access to elements. The preprocessor
// condition below is the only difference when tests run kernels on the CPU (tests/cuda/shim).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <string>
#include <type_traits>

#include "args.h"

// Dynamic shared memory of the block, in bytes. No kernel has static shared memory: all sizes depend on the launch.
#if defined(ROIALIGN_EXT_SHIM)
#define ROI_SHARED_BYTES(name) unsigned char* name = shim::dynamic_shared()
#else
#define ROI_SHARED_BYTES(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace roialign_ext::cuda {

constexpr int kWarp = 32;
constexpr int kThreads = 256;  // of a block
constexpr int kWarps = kThreads / kWarp;
constexpr unsigned kAllLanes = 0xffffffffu;

// Enqueues the kernels of one operation on a stream. After a failed launch nothing more is launched: a later kernel
// would read tables that were never written.
class Launcher {
 public:
  explicit Launcher(cudaStream_t stream) : stream_(stream) {}

  // `name` is the kernel's name, for the error message. Zero blocks launch nothing.
  template <class... Parameters, class... Arguments>
  void launch(const char* name, void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared_bytes,
              const Arguments&... arguments) {
    if (blocks == 0 || !error_.empty()) return;
    if (blocks > kMaxBlocks) return fail(name, std::to_string(blocks) + " blocks are more than a launch can have");
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream_;
    const cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments...);
    if (error == cudaSuccess) return;
    cudaGetLastError();  // resets the error, so that a later query does not report it again
    fail(name, cudaGetErrorString(error));
  }

  // The kernel that failed and the reason; empty without an error.
  const std::string& error() const { return error_; }

 private:
  static constexpr int64_t kMaxBlocks = INT32_MAX;

  void fail(const char* name, const std::string& reason) { error_ = std::string(name) + ": " + reason; }

  cudaStream_t stream_;
  std::string error_;
};

constexpr int64_t blocks_for(int64_t threads) { return (threads + kThreads - 1) / kThreads; }

// Load and store of elements of type S. Arithmetic is in W.
template <class S>
struct Access {
  using W = std::conditional_t<std::is_same_v<S, double>, double, float>;
  ROI_HOST_DEVICE explicit Access(Storage) {}
  static __device__ __forceinline__ W load(const void* data, int64_t i) {
    return static_cast<W>(__ldg(static_cast<const S*>(data) + i));
  }
  static __device__ __forceinline__ void store(void* data, int64_t i, W value) {
    static_cast<S*>(data)[i] = static_cast<S>(value);
  }
  // Streaming store: pooling does not read its results again, so the caches keep the maps.
  static __device__ __forceinline__ void stream(void* data, int64_t i, W value) {
    __stcs(static_cast<S*>(data) + i, static_cast<S>(value));
  }
};

// The machine word of BYTES bytes.
template <int BYTES>
struct WordOf;
template <>
struct WordOf<2> {
  using Type = unsigned short;
};
template <>
struct WordOf<4> {
  using Type = unsigned;
};
template <>
struct WordOf<8> {
  using Type = uint2;
};
template <>
struct WordOf<16> {
  using Type = uint4;
};

// VEC contiguous elements, at an address aligned to their total size.
template <class S, int VEC>
struct Pack {
  using W = typename Access<S>::W;
  using Word = typename WordOf<VEC * sizeof(S)>::Type;

  // Loading and decoding are separate, so that several loads can be in flight before the first is decoded.
  static __device__ __forceinline__ Word read(const void* data, int64_t i) {
    return __ldg(reinterpret_cast<const Word*>(static_cast<const S*>(data) + i));
  }
  // Half types are decoded in pairs, as they lie in a register.
  static __device__ __forceinline__ void decode(const Word& word, W (&values)[VEC]) {
    if constexpr (std::is_same_v<S, __nv_bfloat16> && VEC % 2 == 0) {
      unsigned pairs[VEC / 2];
      memcpy(pairs, &word, sizeof(word));
#pragma unroll
      for (int c = 0; c < VEC; c += 2) {
        values[c] = __uint_as_float(pairs[c / 2] << 16);
        values[c + 1] = __uint_as_float(pairs[c / 2] & 0xffff0000u);
      }
    } else if constexpr (std::is_same_v<S, __half> && VEC % 2 == 0) {
      __half2 pairs[VEC / 2];
      memcpy(pairs, &word, sizeof(word));
#pragma unroll
      for (int c = 0; c < VEC; c += 2) {
        const float2 pair = __half22float2(pairs[c / 2]);
        values[c] = pair.x;
        values[c + 1] = pair.y;
      }
    } else {
      S elements[VEC];
      memcpy(elements, &word, sizeof(word));
#pragma unroll
      for (int c = 0; c < VEC; ++c) values[c] = static_cast<W>(elements[c]);
    }
  }
  static __device__ __forceinline__ void load(const void* data, int64_t i, W (&values)[VEC]) {
    decode(read(data, i), values);
  }
  static __device__ __forceinline__ void store(void* data, int64_t i, const W (&values)[VEC]) {
    *place(data, i) = rounded(values);
  }
  static __device__ __forceinline__ void stream(void* data, int64_t i, const W (&values)[VEC]) {
    __stcs(place(data, i), rounded(values));
  }

 private:
  static __device__ __forceinline__ Word* place(void* data, int64_t i) {
    return reinterpret_cast<Word*>(static_cast<S*>(data) + i);
  }
  static __device__ __forceinline__ Word rounded(const W (&values)[VEC]) {
    S elements[VEC];
#pragma unroll
    for (int c = 0; c < VEC; ++c) elements[c] = static_cast<S>(values[c]);
    Word word;
    memcpy(&word, elements, sizeof(word));
    return word;
  }
};

// float32, float16 or bfloat16, chosen at run time: one instantiation for kernels that are not limited by loads.
struct AnyFloat {};
template <>
struct Access<AnyFloat> {
  using W = float;
  Storage storage;
  ROI_HOST_DEVICE explicit Access(Storage type) : storage(type) {}
  __device__ __forceinline__ W load(const void* data, int64_t i) const {
    if (storage == Storage::kHalf) return Access<__half>::load(data, i);
    if (storage == Storage::kBFloat16) return Access<__nv_bfloat16>::load(data, i);
    return Access<float>::load(data, i);
  }
  __device__ __forceinline__ void store(void* data, int64_t i, W value) const {
    if (storage == Storage::kHalf) return Access<__half>::store(data, i, value);
    if (storage == Storage::kBFloat16) return Access<__nv_bfloat16>::store(data, i, value);
    Access<float>::store(data, i, value);
  }
};

// Calls run(S()), where S is the element type.
template <class Run>
void with_storage(Storage storage, Run&& run) {
  switch (storage) {
    case Storage::kFloat:
      return run(float());
    case Storage::kDouble:
      return run(double());
    case Storage::kHalf:
      return run(__half());
    case Storage::kBFloat16:
      return run(__nv_bfloat16());
  }
}

}  // namespace roialign_ext::cuda
