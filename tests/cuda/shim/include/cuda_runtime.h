// Replaces CUDA's header of that name, so that g++ compiles the kernels unchanged and they run on the CPU. A CUDA
// thread is a fiber, and blocks run one after another (tests/cuda/shim/scheduler.cpp). Only the parts of CUDA that the
// kernels use are emulated.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>

#include "../counter.h"

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
// No static shared memory, whose overruns could not be detected: kernels use dynamic shared memory only.
#define __shared__ shared_memory_has_to_be_dynamic

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

#define SHIM_VECTOR2(name, type)          \
  struct alignas(2 * sizeof(type)) name { \
    type x, y;                            \
  };                                      \
  inline name make_##name(type x, type y) { return {x, y}; }
#define SHIM_VECTOR4(name, type) \
  struct alignas(16) name {      \
    type x, y, z, w;             \
  };                             \
  inline name make_##name(type x, type y, type z, type w) { return {x, y, z, w}; }
SHIM_VECTOR2(float2, float)
SHIM_VECTOR2(double2, double)
SHIM_VECTOR2(int2, int)
SHIM_VECTOR2(uint2, unsigned)
SHIM_VECTOR4(float4, float)
SHIM_VECTOR4(int4, int)
SHIM_VECTOR4(uint4, unsigned)
#undef SHIM_VECTOR2
#undef SHIM_VECTOR4

// Of the running fiber.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

// The parts of the runtime API that launches need.
struct CUstream_st;
using cudaStream_t = CUstream_st*;
enum cudaError_t { cudaSuccess = 0, cudaErrorLaunchOutOfResources = 701 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};
extern "C" cudaError_t cudaGetLastError();
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "too many resources requested for launch";
}

namespace shim {

void allow_shared_memory(const void* kernel, int bytes);
void run_grid(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes, void (*thread)(void*), void* argument);
// The shared memory of the running block, filled with 0xFF at its start: reading it unwritten gives NaN.
unsigned char* dynamic_shared();

// Runs kernel<<<grid, block, shared_bytes>>>(arguments...) to its end. Errors are thrown as std::runtime_error.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, const Arguments&... arguments) {
  const std::tuple<std::decay_t<Parameters>...> copies(arguments...);
  auto thread = [&] { std::apply(kernel, copies); };
  using Thread = decltype(thread);
  run_grid(
      reinterpret_cast<const void*>(kernel), grid, block, shared_bytes,
      [](void* argument) { (*static_cast<Thread*>(argument))(); }, &thread);
}

// Whether a test makes this launch fail (shim_fail_launch in scheduler.cpp); counts the launch.
bool next_launch_fails();

// Places in the source, for messages and to distinguish collective calls.
struct Place {
  const char* file;
  int line;
};

enum class Reduction { kNone, kCount, kAnd, kOr };
int barrier(Reduction reduction, int value, Place place);

enum class Exchange { kSync, kIndex, kUp, kDown, kXor, kBallot, kAny, kAll };
// The result of a collective for this lane; `operand` is the lane, distance or lane mask of a shuffle.
uint64_t exchange(Exchange kind, unsigned mask, uint64_t value, int operand, int width, Place place);

template <class T>
T shuffle(Exchange kind, unsigned mask, T value, int operand, int width, Place place) {
  static_assert(std::is_arithmetic_v<T> && sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(kind, mask, bits, operand, width, place);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace shim

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
  shim::allow_shared_memory(reinterpret_cast<const void*>(kernel), bytes);
  return cudaSuccess;
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  if (shim::next_launch_fails()) return cudaErrorLaunchOutOfResources;
  if (shim::counter::begin_launch) (shim::counter::argument(arguments), ...);
  shim::launch(kernel, config->gridDim, config->blockDim, config->dynamicSmemBytes, arguments...);
  return cudaSuccess;
}

#define SHIM_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()
inline void __syncthreads(SHIM_PLACE) { shim::barrier(shim::Reduction::kNone, 0, {file, line}); }
inline int __syncthreads_count(int value, SHIM_PLACE) {
  return shim::barrier(shim::Reduction::kCount, value, {file, line});
}
inline int __syncthreads_and(int value, SHIM_PLACE) {
  return shim::barrier(shim::Reduction::kAnd, value, {file, line});
}
inline int __syncthreads_or(int value, SHIM_PLACE) { return shim::barrier(shim::Reduction::kOr, value, {file, line}); }
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, SHIM_PLACE) {
  shim::exchange(shim::Exchange::kSync, mask, 0, 0, warpSize, {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int value, SHIM_PLACE) {
  return static_cast<unsigned>(shim::exchange(shim::Exchange::kBallot, mask, value != 0, 0, warpSize, {file, line}));
}
inline int __any_sync(unsigned mask, int value, SHIM_PLACE) {
  return static_cast<int>(shim::exchange(shim::Exchange::kAny, mask, value != 0, 0, warpSize, {file, line}));
}
inline int __all_sync(unsigned mask, int value, SHIM_PLACE) {
  return static_cast<int>(shim::exchange(shim::Exchange::kAll, mask, value != 0, 0, warpSize, {file, line}));
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = warpSize, SHIM_PLACE) {
  return shim::shuffle(shim::Exchange::kIndex, mask, value, lane, width, {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = warpSize, SHIM_PLACE) {
  return shim::shuffle(shim::Exchange::kUp, mask, value, static_cast<int>(distance), width, {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = warpSize, SHIM_PLACE) {
  return shim::shuffle(shim::Exchange::kDown, mask, value, static_cast<int>(distance), width, {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = warpSize, SHIM_PLACE) {
  return shim::shuffle(shim::Exchange::kXor, mask, value, lanes, width, {file, line});
}
#undef SHIM_PLACE

// Memory and bits.
template <class T>
T __ldg(const T* pointer) {
  return *pointer;
}
template <class T>
T __ldcg(const T* pointer) {
  return *pointer;
}
template <class T>
T __ldcs(const T* pointer) {
  return *pointer;
}
template <class T>
void __stcs(T* pointer, T value) {
  *pointer = value;
}
template <class T>
void __stcg(T* pointer, T value) {
  *pointer = value;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }
inline int __float_as_int(float value) {
  int bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline float __int_as_float(int bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

template <class T>
constexpr T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
constexpr T max(T a, T b) {
  return a < b ? b : a;
}
