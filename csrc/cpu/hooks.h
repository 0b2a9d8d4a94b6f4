// Functions by which the Python module, and so the tests, query the CPU library. They are its only exported functions,
// and use no type of torch.
#pragma once

#include <cstdint>
#include <string>

#pragma GCC visibility push(default)

namespace roialign_ext::hooks {

std::string cpu_capability();

// The number of threads that take part in a parallel loop.
int64_t num_threads_seen();

// Memory of results (results.h). `pages` are named as in ROIALIGN_EXT_PAGES.
std::string choose_pages(int64_t bytes, const std::string& enabled, const std::string& defrag,
                         const std::string& buddyinfo, bool stalled);
bool is_stall(int64_t bytes, int64_t nanoseconds);
std::string try_huge_pages(const std::string& stalls);
void supply_pages(uintptr_t address, int64_t bytes, const std::string& pages);

}  // namespace roialign_ext::hooks

#pragma GCC visibility pop
