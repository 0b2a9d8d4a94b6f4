// Scratch memory of a call.
#pragma once

#include <cstdint>

namespace roialign_ext::cuda {

// Allocates pieces of the scratch memory, or only counts their bytes.
class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(void* memory) : memory_(static_cast<char*>(memory)), counts_only_(false) {}

  template <class Item>
  Item* take(int64_t count) {
    char* const piece = counts_only_ ? nullptr : memory_ + bytes_;
    bytes_ += (count * static_cast<int64_t>(sizeof(Item)) + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<Item*>(piece);
  }
  int64_t bytes() const { return bytes_; }
  bool counts_only() const { return counts_only_; }

 private:
  static constexpr int64_t kAlignment = 256;
  char* memory_ = nullptr;
  bool counts_only_ = true;
  int64_t bytes_ = 0;
};

}  // namespace roialign_ext::cuda
