// Memory of results. A large one is mostly memory that nobody has touched yet: allocators give it back to the system
// after every call, and what the kernel then does on the first write to each page can cost more than the pooling.
#pragma once

#include <string>

#include "../tensor.h"

namespace roialign_ext {

// How a fresh result gets its pages: one by one as they are written, all before the loops, or those before the loops
// and huge.
enum class Pages { kTouched, kPopulated, kHuge };

// What the system says of huge pages, in its own words; empty where it says nothing.
struct HugePageFacts {
  std::string enabled;    // /sys/kernel/mm/transparent_hugepage/enabled, one word: when memory gets them
  std::string defrag;     // /sys/kernel/mm/transparent_hugepage/defrag, one word: who waits until one has been made
  std::string buddyinfo;  // /proc/buddyinfo: free blocks of 2^0, 2^1, ... pages, by node and zone
  bool stalled = false;   // whether results do without huge pages for a while, after an is_stall()
};
HugePageFacts read_huge_page_facts();

// Whether huge pages took longer to come than small ones. A virtual machine may have them free while its host has given
// their memory to others: the first touch then waits for the host, which no fact above tells.
bool is_stall(int64_t bytes, int64_t nanoseconds);

// The rule.
Pages choose_pages(int64_t bytes, const HugePageFacts& facts);

// Gives the whole pages inside a block to the process, in parallel, unless they are there. A hint: where the kernel
// refuses, pages come as they are touched, so errors mean nothing.
void supply_pages(void* data, int64_t bytes, Pages pages);

// empty() with its pages supplied. The environment variable ROIALIGN_EXT_PAGES takes the place of the rule.
Tensor empty_result(const Sizes& sizes, ScalarType dtype, const Tensor& like, bool channels_last);

// The names of the choices: touched, populated, huge. Raises ValueError for another one.
Pages pages_from_name(const std::string& name);
const char* name_of_pages(Pages pages);

}  // namespace roialign_ext
