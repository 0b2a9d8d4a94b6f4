// Stands in for CUDA's header of that name: storage and conversions.
#pragma once

#include <c10/util/BFloat16.h>

#include "cuda_runtime.h"

struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 value) { return c10::detail::f32_from_bits(value.bits); }
inline __nv_bfloat16 __float2bfloat16_rn(float value) { return {c10::detail::round_to_nearest_even(value)}; }
inline __nv_bfloat16 __float2bfloat16(float value) { return __float2bfloat16_rn(value); }
