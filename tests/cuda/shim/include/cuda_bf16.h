// Replaces CUDA's header of that name: storage and conversions.
#pragma once

#include <c10/util/BFloat16.h>

#include "cuda_runtime.h"

struct __nv_bfloat16 {
  uint16_t bits;
  __nv_bfloat16() = default;
  explicit __nv_bfloat16(float value) : bits(c10::detail::round_to_nearest_even(value)) {}
  explicit operator float() const { return c10::detail::f32_from_bits(bits); }
};
inline float __bfloat162float(__nv_bfloat16 value) { return static_cast<float>(value); }
inline __nv_bfloat16 __float2bfloat16_rn(float value) { return __nv_bfloat16(value); }
