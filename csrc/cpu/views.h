// What the kernels know of tensors: typed pointers, sizes and strides in elements.
#pragma once

#include <cstdint>

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

namespace roialign_ext {

// Storage type -> arithmetic type: half precision is storage only.
template <class S>
struct Arithmetic {
  using type = float;
};
template <>
struct Arithmetic<double> {
  using type = double;
};
template <class S>
using arithmetic_t = typename Arithmetic<S>::type;

// A feature map [N, C, H, W] or pooled bins [K, C, PH, PW], with any strides (zero included).
template <class S>
struct View {
  S* data;
  int64_t count, channels, height, width;  // `count` images or boxes
  int64_t stride_n, stride_c, stride_y, stride_x;

  S* at(int64_t n, int64_t c) const { return data + n * stride_n + c * stride_c; }
  int64_t pixels() const { return height * width; }
  int64_t elements() const { return count * channels * pixels(); }
  // Results this large are not in any cache when they are read back.
  bool past_caches() const { return elements() * static_cast<int64_t>(sizeof(S)) > (int64_t(8) << 20); }
  // Rows follow each other without a gap: the plane is one run of pixels() elements, stride_x apart.
  bool flat() const { return height <= 1 || stride_y == width * stride_x; }
};

}  // namespace roialign_ext
