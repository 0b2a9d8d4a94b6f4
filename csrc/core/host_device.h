// One source for host and device, and the arithmetic that must round alike on both.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define ROI_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define ROI_HOST_DEVICE inline
#endif

namespace roialign_ext {

// Coordinates select the pixel of a sample, so every backend must round them alike. A compiler must not fuse these
// operations into a multiply-add. On the host -ffp-contract=off prevents it, on the device the intrinsics do.
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
