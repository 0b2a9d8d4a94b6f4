// Tensors as kernels see them: pointers, sizes and strides in elements, and the type of the elements.
#pragma once

#include <cstdint>
#include <type_traits>

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "../core/limits.h"
#include "tuning.h"

namespace roialign_ext {

// Sizes and strides of a feature map [N, C, H, W] or of pooled bins [K, C, PH, PW]. Strides may have any value, zero
// included.
struct Extents {
  int64_t count, channels, height, width;  // `count` images or boxes
  int64_t stride_n, stride_c, stride_y, stride_x;

  int64_t offset(int64_t n, int64_t c) const { return n * stride_n + c * stride_c; }
  int64_t area() const { return height * width; }  // pixels of an image, or bins of a box
  int64_t elements() const { return count * channels * area(); }
  // True if rows follow each other without a gap, so that the pixels of a plane are stride_x apart.
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
  // True if results are written past the caches.
  bool past_caches() const { return elements() * bytes_of(storage) > kPastCachesBytes; }
};
using ConstView = View<const void>;
using MutableView = View<void>;

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
