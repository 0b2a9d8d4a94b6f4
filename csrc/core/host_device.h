// What lets one source line run on the host and on the device, and the arithmetic both must agree on.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define ROI_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define ROI_HOST_DEVICE inline
#endif

namespace roialign_ext {

// Coordinates decide which pixel a sample falls on, so every backend has to round them alike: a compiler may not
// fuse these operations into a multiply-add. On the host that is the flag -ffp-contract=off, on the device these
// intrinsics.
ROI_HOST_DEVICE float multiply(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

ROI_HOST_DEVICE double multiply(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

ROI_HOST_DEVICE float add(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

ROI_HOST_DEVICE double add(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dadd_rn(a, b);
#else
  return a + b;
#endif
}

}  // namespace roialign_ext
