// Functions by which the Python module queries the CPU library. They are its only exported functions, and use no type
// of torch.
#pragma once

#include <cstdint>
#include <string>

#pragma GCC visibility push(default)

namespace roialign_ext::hooks {

std::string cpu_capability();

// The number of threads that take part in a parallel loop.
int64_t num_threads_seen();

}  // namespace roialign_ext::hooks

#pragma GCC visibility pop
