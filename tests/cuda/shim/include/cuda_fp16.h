// Replaces CUDA's header of that name: storage and conversions.
#pragma once

#include <c10/util/Half.h>

#include "cuda_runtime.h"

struct __half {
  uint16_t bits;
  __half() = default;
  explicit __half(float value) : bits(c10::detail::fp16_ieee_from_fp32_value(value)) {}
  explicit operator float() const { return c10::detail::fp16_ieee_to_fp32_value(bits); }
};
inline float __half2float(__half value) { return static_cast<float>(value); }
inline __half __float2half_rn(float value) { return __half(value); }

struct alignas(4) __half2 {
  __half x, y;
};
inline float2 __half22float2(__half2 pair) { return {static_cast<float>(pair.x), static_cast<float>(pair.y)}; }
