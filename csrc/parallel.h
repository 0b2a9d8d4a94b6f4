// Loops over the threads of torch, through its stable ABI.
#pragma once

#include <cstdint>
#include <exception>
#include <mutex>

#include <torch/csrc/stable/c/shim.h>
#include <torch/headeronly/util/shim_utils.h>

namespace roialign_ext {

// Calls body(begin, end) on disjoint ranges that cover [0, count), and rethrows the first exception. The ABI itself
// would replace the exception by an empty message.
template <class Body>
void parallel_for(int64_t count, const Body& body) {
  struct Loop {
    const Body& body;
    std::exception_ptr first;
    std::mutex mutex;
  } loop{body, nullptr, {}};
  const auto run = [](int64_t begin, int64_t end, void* context) {
    Loop& loop = *static_cast<Loop*>(context);
    try {
      loop.body(begin, end);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(loop.mutex);
      if (loop.first == nullptr) loop.first = std::current_exception();
    }
  };
  TORCH_ERROR_CODE_CHECK(torch_parallel_for(0, count, 1, run, &loop));
  if (loop.first != nullptr) std::rethrow_exception(loop.first);
}

inline int64_t num_threads() {
  uint32_t threads = 0;
  TORCH_ERROR_CODE_CHECK(torch_get_num_threads(&threads));
  return threads;
}

}  // namespace roialign_ext
