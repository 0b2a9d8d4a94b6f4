// Small kernels with known requests, for tests/cuda/test_counts.py. A launch has one block, and 4096 floats of "maps"
// and of "bins" each, aligned to 128 bytes.
#include <cuda_runtime.h>

#include "cuda/portable.cuh"

#include <map>
#include <string>

namespace {

using roialign_ext::cuda::CallArgs;

constexpr unsigned kAll = 0xFFFFFFFFu;

__device__ const float* maps_of(const CallArgs& args) { return static_cast<const float*>(args.maps[0].pixels.data); }
__device__ float* bins_of(const CallArgs& args) { return static_cast<float*>(args.bins.data); }

// One coalesced load and store per warp.
__global__ void copy_4_bytes(const CallArgs args) { bins_of(args)[threadIdx.x] = __ldg(maps_of(args) + threadIdx.x); }

template <class Word>
__global__ void copy_words(const CallArgs args) {
  const Word word = __ldg(reinterpret_cast<const Word*>(maps_of(args)) + threadIdx.x);
  __stcs(reinterpret_cast<Word*>(bins_of(args)) + threadIdx.x, word);
}

// Through registers, as Pack does.
__global__ void copy_packs(const CallArgs args) {
  float values[4];
  roialign_ext::cuda::Pack<float, 4>::load(maps_of(args), 4 * threadIdx.x, values);
  for (float& value : values) value *= 2;
  roialign_ext::cuda::Pack<float, 4>::stream(bins_of(args), 4 * threadIdx.x, values);
}

__global__ void read_halves(const CallArgs args) {
  bins_of(args)[threadIdx.x] = static_cast<float>(__ldg(reinterpret_cast<const __half*>(maps_of(args)) + threadIdx.x));
}

__global__ void read_every_eighth(const CallArgs args) {
  bins_of(args)[threadIdx.x] = __ldg(maps_of(args) + 8 * threadIdx.x);
}

__global__ void read_one_for_all(const CallArgs args) { bins_of(args)[threadIdx.x] = __ldg(maps_of(args) + 5); }

__global__ void read_across_sectors(const CallArgs args) {
  bins_of(args)[threadIdx.x] = __ldg(maps_of(args) + threadIdx.x + 1);
}

// Strided accesses to shared memory: bank conflicts of 1 and more lanes.
template <int STRIDE>
__global__ void shared_stride(const CallArgs args) {
  float* shared = reinterpret_cast<float*>(shim::dynamic_shared());
  shared[STRIDE * threadIdx.x] = 1;
  __syncthreads();
  bins_of(args)[threadIdx.x] = shared[STRIDE * threadIdx.x];
}

__global__ void shared_one_for_all(const CallArgs args) {
  float* shared = reinterpret_cast<float*>(shim::dynamic_shared());
  shared[threadIdx.x] = 1;
  __syncwarp();
  bins_of(args)[threadIdx.x] = shared[7];
}

// Loads of 8 or 16 bytes per lane, served in halves or quarters of a warp; or one address for all lanes.
template <class Word, int STRIDE>
__global__ void shared_words(const CallArgs args) {
  float* shared = reinterpret_cast<float*>(shim::dynamic_shared());
  for (int i = 0; i < 4; ++i) shared[32 * i + threadIdx.x] = 1;
  __syncwarp();
  const Word word = reinterpret_cast<const Word*>(shared)[STRIDE * threadIdx.x];
  bins_of(args)[threadIdx.x] = static_cast<float>(word.x + word.y);
}

// Even lanes and odd lanes read at different places: two requests. Then all lanes read together.
__global__ void divergent_lanes(const CallArgs args) {
  float value;
  if (threadIdx.x % 2 == 0) {
    value = __ldg(maps_of(args) + threadIdx.x);
  } else {
    value = __ldg(maps_of(args) + 1024 + threadIdx.x) * 2;
  }
  bins_of(args)[threadIdx.x] = value;
}

// Lane l has l % 4 iterations: 3 requests, of 24, 16 and 8 lanes.
__global__ void unequal_trips(const CallArgs args) {
  float sum = 0;
  for (unsigned i = 0; i < threadIdx.x % 4; ++i) sum += __ldg(maps_of(args) + 32 * i + threadIdx.x);
  bins_of(args)[threadIdx.x] = sum;
}

// Two iterations: all lanes read, then run the inner loop. Lanes that leave it early wait for the others.
__global__ void unequal_trips_inside(const CallArgs args) {
  float sum = 0;
  for (unsigned j = 0; j < 2; ++j) {
    sum += __ldg(maps_of(args) + 1024 * j + threadIdx.x);
    for (unsigned i = 0; i < threadIdx.x % 4; ++i) sum += __ldg(maps_of(args) + 2048 + 32 * i + threadIdx.x);
  }
  bins_of(args)[threadIdx.x] = sum;
}

// Odd lanes skip the second of three iterations.
__global__ void lanes_that_skip(const CallArgs args) {
  float sum = 0;
  for (unsigned i = 0; i < 3; ++i) {
    if (i == 1 && threadIdx.x % 2 == 1) continue;
    sum += __ldg(maps_of(args) + 32 * i + threadIdx.x);
  }
  bins_of(args)[threadIdx.x] = sum;
}

__device__ __noinline__ float called(const float* values, unsigned count) {
  float sum = 0;
  for (unsigned i = 0; i < count; ++i) sum += __ldg(values + 32 * i);
  return sum;
}

// One function, called at two places, by half of the lanes each.
__global__ void lanes_in_calls(const CallArgs args) {
  const float* const own = maps_of(args) + threadIdx.x;
  float sum = 1;
  if (threadIdx.x < 16) {
    sum += called(own, 2);
  } else {
    sum += called(own + 1024, 3);
  }
  bins_of(args)[threadIdx.x] = sum;
}

struct Loose {
  int a, b;
};
struct alignas(8) Tight {
  int a, b;
};

// Table reads: two ints of a struct, loaded one by one or together.
template <class Pair>
__global__ void read_table(const CallArgs args, const Pair* pairs) {
  const Pair pair = pairs[threadIdx.x];
  bins_of(args)[threadIdx.x] = static_cast<float>(pair.a + pair.b);
}

// Two barriers, and per warp a vote, three shuffles and one __syncwarp.
__global__ void meetings(const CallArgs args) {
  __syncthreads();
  int value = static_cast<int>(threadIdx.x);
  for (int distance = 1; distance < 8; distance *= 2) value += __shfl_xor_sync(kAll, value, distance);
  value += __any_sync(kAll, value == 3);
  __syncwarp();
  value += __syncthreads_count(value > 4);
  bins_of(args)[threadIdx.x] = static_cast<float>(value);
}

// Every warp reads the same eight sectors twice.
__global__ void read_twice(const CallArgs args) {
  float sum = 0;
  for (unsigned i = 0; i < 2; ++i) sum += __ldg(maps_of(args) + 128 * i % 256 + threadIdx.x);
  for (unsigned i = 0; i < 2; ++i) sum *= __ldg(maps_of(args) + 128 * i % 256 + threadIdx.x);
  if (threadIdx.x == 0) bins_of(args)[blockIdx.x] = sum;
}

}  // namespace

// Launches the probe of that name; `table` has 64 pairs of ints, aligned to 128 bytes, which are no features.
extern "C" void run_counted_probe(const char* name, int blocks, int threads, float* maps, float* bins, void* table) {
  CallArgs args = {};
  args.images = args.channels = args.boxes = args.bins_y = args.levels = 1;
  args.bins_x = 4096;
  args.maps[0] = {{maps, 4096, 4096, 4096, 1}, 1, 4096, 1.0};
  args.bins = {bins, 4096, 4096, 4096, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = 4096;
  const std::map<std::string, void (*)(CallArgs)> probes = {
      {"copy_4_bytes", copy_4_bytes},
      {"copy_8_bytes", copy_words<uint2>},
      {"copy_16_bytes", copy_words<uint4>},
      {"copy_packs", copy_packs},
      {"read_halves", read_halves},
      {"read_every_eighth", read_every_eighth},
      {"read_one_for_all", read_one_for_all},
      {"read_across_sectors", read_across_sectors},
      {"shared_1", shared_stride<1>},
      {"shared_2", shared_stride<2>},
      {"shared_32", shared_stride<32>},
      {"shared_31", shared_stride<31>},
      {"shared_one_for_all", shared_one_for_all},
      {"shared_8_bytes", shared_words<uint2, 1>},
      {"shared_16_bytes", shared_words<uint4, 1>},
      {"shared_16_bytes_for_all", shared_words<uint4, 0>},
      {"divergent_lanes", divergent_lanes},
      {"unequal_trips", unequal_trips},
      {"unequal_trips_inside", unequal_trips_inside},
      {"lanes_that_skip", lanes_that_skip},
      {"lanes_in_calls", lanes_in_calls},
      {"meetings", meetings},
      {"read_twice", read_twice},
  };
  if (std::string(name) == "loose_table") {
    cudaLaunchKernelEx(&config, read_table<Loose>, args, static_cast<const Loose*>(table));
  } else if (std::string(name) == "tight_table") {
    cudaLaunchKernelEx(&config, read_table<Tight>, args, static_cast<const Tight*>(table));
  } else {
    cudaLaunchKernelEx(&config, probes.at(name), args);
  }
}
