// Small kernels for tests/cuda/test_shim.py: correct ones, and faults that the shim must report.
#include <cuda_runtime.h>

#include "cuda/portable.cuh"

#include <functional>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>

namespace {

constexpr unsigned kAll = 0xFFFFFFFFu;

// Sum of 0 ... blockDim.x - 1, plus the block's index times a thousand: shuffles, shared memory, barriers.
__global__ void block_sum(double* result) {
  float* partial = reinterpret_cast<float*>(shim::dynamic_shared());
  const unsigned lane = threadIdx.x % warpSize, warp = threadIdx.x / warpSize;
  float sum = static_cast<float>(threadIdx.x);
  for (unsigned distance = 16; distance > 0; distance /= 2) sum += __shfl_down_sync(kAll, sum, distance);
  if (lane == 0) partial[warp] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    double total = 1000.0 * blockIdx.x;
    for (unsigned w = 0; w < blockDim.x / warpSize; ++w) total += static_cast<double>(partial[w]);
    result[blockIdx.x] = total;
  }
}

__global__ void missing_barrier(double* result) {
  float* values = reinterpret_cast<float*>(shim::dynamic_shared());
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  // A barrier belongs here.
  if (threadIdx.x == 0) {
    for (unsigned t = 0; t < blockDim.x; ++t) result[0] += static_cast<double>(values[t]);
  }
}

__global__ void missing_warp_barrier(double* result) {
  float* values = reinterpret_cast<float*>(shim::dynamic_shared());
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  __ballot_sync(kAll, 1);  // synchronises lanes, but orders no memory
  if (threadIdx.x == 0) {
    for (int t = 0; t < warpSize; ++t) result[0] += static_cast<double>(values[t]);
  }
}

__global__ void warp_barrier(double* result) {
  float* values = reinterpret_cast<float*>(shim::dynamic_shared());
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncwarp();
  if (threadIdx.x == 0) {
    for (int t = 0; t < warpSize; ++t) result[0] += static_cast<double>(values[t]);
  }
}

__global__ void two_blocks_write_one_element(double* result) {
  if (threadIdx.x == 0) result[0] = static_cast<double>(blockIdx.x);
}

__global__ void unset_shared_memory(double* result) {
  if (threadIdx.x == 0) result[0] = static_cast<double>(reinterpret_cast<float*>(shim::dynamic_shared())[3]);
}

__global__ void shared_overrun(double* result) {
  result[0] = static_cast<double>(reinterpret_cast<float*>(shim::dynamic_shared())[64]);
}

__global__ void ballots(double* result) {
  const unsigned even = __ballot_sync(kAll, threadIdx.x % 2 == 0);
  const int any = __any_sync(kAll, threadIdx.x == 5), all = __all_sync(kAll, threadIdx.x != 5);
  const int count = __syncthreads_count(threadIdx.x < 7), some = __syncthreads_or(threadIdx.x == 40);
  const int every = __syncthreads_and(threadIdx.x < 64);
  if (threadIdx.x == 0) result[0] = even == 0x55555555u && any && !all && count == 7 && some && every;
}

__global__ void shuffles(double* result) {
  const int lane = static_cast<int>(threadIdx.x);
  const bool right = __shfl_sync(kAll, lane, 3, 8) == lane / 8 * 8 + 3 &&
                     __shfl_up_sync(kAll, 1.5 * lane, 2) == 1.5 * (lane < 2 ? lane : lane - 2) &&
                     __shfl_down_sync(kAll, lane, 5u, 16) == (lane % 16 + 5 < 16 ? lane + 5 : lane) &&
                     __shfl_xor_sync(kAll, lane, 9) == (lane ^ 9);
  const int rights = __popc(__ballot_sync(kAll, right));
  if (lane == 0) result[0] = rights;
}

__global__ void halves_apart(double* result) {
  const unsigned mask = threadIdx.x < 16 ? 0xFFFFu : 0xFFFF0000u;
  const int sum = threadIdx.x < 16 ? __shfl_sync(mask, 1, 15) : __shfl_sync(mask, 2, 16);
  if (threadIdx.x % 16 == 0) result[threadIdx.x / 16] = sum;
}

__global__ void divergent_barriers(double*) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void barrier_after_return(double*) {
  if (threadIdx.x == 3) return;
  __syncthreads();
}

__global__ void barrier_in_one_warp(double*) {
  if (threadIdx.x < 32) __syncthreads();
  __syncwarp();
  if (threadIdx.x >= 32) __shfl_sync(kAll, 1, 0);
}

__global__ void lanes_in_different_collectives(double*) {
  if (threadIdx.x < 16) {
    __shfl_sync(kAll, 1, 0);
  } else {
    __ballot_sync(kAll, 1);
  }
}

__global__ void lane_returned(double*) {
  if (threadIdx.x == 7) return;
  __syncwarp();
}

__global__ void lane_outside_mask(double*) {
  if (threadIdx.x < 16) __shfl_sync(0xFFFFu, 1, 20);
}

__global__ void not_in_own_mask(double*) { __syncwarp(0xFFFFu); }

__global__ void no_such_lane(double*) { __syncwarp(); }

// Tries a launch of `blocks` blocks, and then a valid one; returns the launcher's error.
void launch_blocks(int64_t blocks, double* result) {
  roialign_ext::cuda::Launcher launcher(nullptr);
  launcher.launch("ballots", ballots, blocks, 64, 0, result);
  launcher.launch("shuffles", shuffles, 1, 32, 0, result);
  if (!launcher.error().empty()) throw std::runtime_error(launcher.error());
}

}  // namespace

// Runs the probe of that name. Returns the error, or an empty string. `result` holds two numbers, initially 0.
extern "C" const char* run_probe(const char* name, double* result) {
  static std::string message;
  const std::map<std::string, std::function<void()>> probes = {
      {"block_sum", [=] { shim::launch(block_sum, 2, 256, 8 * sizeof(float), result); }},
      {"missing_barrier", [=] { shim::launch(missing_barrier, 1, 64, 64 * sizeof(float), result); }},
      {"missing_warp_barrier", [=] { shim::launch(missing_warp_barrier, 1, 32, 32 * sizeof(float), result); }},
      {"warp_barrier", [=] { shim::launch(warp_barrier, 1, 32, 32 * sizeof(float), result); }},
      {"two_blocks_write_one_element", [=] { shim::launch(two_blocks_write_one_element, 2, 32, 0, result); }},
      {"unset_shared_memory", [=] { shim::launch(unset_shared_memory, 1, 32, 64, result); }},
      {"shared_overrun", [=] { shim::launch(shared_overrun, 1, 1, 64 * sizeof(float), result); }},
      {"ballots", [=] { shim::launch(ballots, 1, 64, 0, result); }},
      {"shuffles", [=] { shim::launch(shuffles, 1, 32, 0, result); }},
      {"halves_apart", [=] { shim::launch(halves_apart, 1, 32, 0, result); }},
      {"divergent_barriers", [=] { shim::launch(divergent_barriers, 1, 64, 0, result); }},
      {"barrier_after_return", [=] { shim::launch(barrier_after_return, 1, 64, 0, result); }},
      {"barrier_in_one_warp", [=] { shim::launch(barrier_in_one_warp, 1, 64, 0, result); }},
      {"lanes_in_different_collectives", [=] { shim::launch(lanes_in_different_collectives, 1, 32, 0, result); }},
      {"lane_returned", [=] { shim::launch(lane_returned, 1, 32, 0, result); }},
      {"lane_outside_mask", [=] { shim::launch(lane_outside_mask, 1, 32, 0, result); }},
      {"not_in_own_mask", [=] { shim::launch(not_in_own_mask, 1, 32, 0, result); }},
      {"no_such_lane", [=] { shim::launch(no_such_lane, 1, 20, 0, result); }},
      {"too_many_threads", [=] { shim::launch(ballots, 1, 1025, 0, result); }},
      {"no_blocks", [=] { launch_blocks(0, result); }},
      {"too_many_blocks", [=] { launch_blocks(int64_t(1) << 31, result); }},
      {"too_many_blocks_for_32_bits", [=] { launch_blocks((int64_t(1) << 32) + 1, result); }},
      {"empty_grid", [=] { shim::launch(ballots, dim3(0), 64, 0, result); }},
      {"grid_too_high", [=] { shim::launch(ballots, dim3(1, 65536), 64, 0, result); }},
      {"shared_memory_not_asked_for", [=] { shim::launch(ballots, 1, 64, 50000, result); }},
      {"shared_memory_asked_for",
       [=] {
         cudaFuncSetAttribute(shuffles, cudaFuncAttributeMaxDynamicSharedMemorySize, 60000);
         shim::launch(shuffles, 1, 32, 60000, result);
       }},
      {"too_much_shared_memory",
       [=] { cudaFuncSetAttribute(shuffles, cudaFuncAttributeMaxDynamicSharedMemorySize, 240000); }},
  };
  message.clear();
  try {
    probes.at(name)();
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}
