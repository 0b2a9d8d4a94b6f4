// What the kernels know of tensors: pointers, sizes and strides in elements, and the type that the elements have.
#pragma once

#include <cstdint>
#include <type_traits>

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "../core/limits.h"

namespace roialign_ext {

// Sizes and strides of a feature map [N, C, H, W] or of pooled bins [K, C, PH, PW]; any strides, zero included.
struct Extents {
  int64_t count, channels, height, width;  // `count` images or boxes
  int64_t stride_n, stride_c, stride_y, stride_x;

  int64_t offset(int64_t n, int64_t c) const { return n * stride_n + c * stride_c; }
  int64_t pixels() const { return height * width; }
  int64_t elements() const { return count * channels * pixels(); }
  // Rows follow each other without a gap: the plane is one run of pixels() elements, stride_x apart.
  bool flat() const { return height <= 1 || stride_y == width * stride_x; }
};

// A tensor of features, gradients or values; Void is void or const void.
template <class Void>
struct View : Extents {
  Void* data;
  Storage storage;

  template <class S>
  auto at(int64_t n, int64_t c) const {
    using Pointer = std::conditional_t<std::is_const_v<Void>, const S*, S*>;
    return static_cast<Pointer>(data) + offset(n, c);
  }
  // Results this large are not in any cache when they are read back.
  bool past_caches() const {
    const int64_t size = storage == Storage::kDouble ? 8 : storage == Storage::kFloat ? 4 : 2;
    return elements() * size > (int64_t(8) << 20);
  }
};
using Input = View<const void>;
using Output = View<void>;

// The argmax of every output.
template <class Int>
struct ArgmaxView : Extents {
  Int* data;

  Int* at(int64_t n, int64_t c) const { return data + offset(n, c); }
};

// Calls run(S()) with the element type of a tensor whose arithmetic type is W.
template <class W, class Run>
inline void with_storage(Storage storage, Run&& run) {
  if constexpr (std::is_same_v<W, double>) {
    run(double());
  } else if (storage == Storage::kHalf) {
    run(c10::Half());
  } else if (storage == Storage::kBFloat16) {
    run(c10::BFloat16());
  } else {
    run(float());
  }
}

}  // namespace roialign_ext
