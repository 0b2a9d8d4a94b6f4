// Limits and element types that the checks and both devices share.
#pragma once

#include <cstdint>

namespace roialign_ext {

constexpr int kMaxLevels = 8;      // of a feature pyramid
constexpr int kMaxDirections = 2;  // of a derivative with respect to the boxes

// Elements in memory. Half precision is storage only: arithmetic is float, or double on doubles.
enum class Storage { kFloat, kDouble, kHalf, kBFloat16 };

constexpr int64_t bytes_of(Storage storage) {
  return storage == Storage::kDouble ? 8 : storage == Storage::kFloat ? 4 : 2;
}

}  // namespace roialign_ext
