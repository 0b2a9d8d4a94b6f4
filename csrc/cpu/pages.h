// Pages of large blocks of memory. Allocators return a large block to the system after every call. The system's work on
// the first write to each page can then cost more than the pooling.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "tuning.h"

namespace roialign_ext {

// A fresh result gets its pages one by one as they are written, or before the loops, as small or as huge pages.
enum class Pages { kTouched, kPopulated, kHuge };

// The settings of the system for huge pages and its free memory, in the words of the system; empty if it has none.
struct HugePageFacts {
  std::string enabled;    // /sys/kernel/mm/transparent_hugepage/enabled, one word: the memory that gets them
  std::string defrag;     // /sys/kernel/mm/transparent_hugepage/defrag, one word: whether threads wait for one
  std::string buddyinfo;  // /proc/buddyinfo: free blocks of 2^0, 2^1, ... pages, by node and zone
  bool stalled = false;   // HugePageTrials::waits()
};
HugePageFacts read_huge_page_facts();

// Whether huge pages took longer than small ones. A virtual machine may have them free although its host has given
// their memory to other machines. The first touch then waits for the host. None of the facts above shows this.
bool is_stall(int64_t bytes, int64_t nanoseconds);

// Decides by past results whether the next result asks for huge pages. After kDecisiveStalls in succession
// kFirstResultsWithout results get small pages, then twice as many each time, so stalls that recur become rare.
class HugePageTrials {
 public:
  bool waits() const { return left_ > 0; }
  // How one result large enough for huge pages got its memory.
  void record(Pages pages, bool stalled);

 private:
  std::atomic<int> stalls_{0};
  std::atomic<int64_t> left_{0}, next_{kFirstResultsWithout};
};

// The rule for one result.
Pages choose_pages(int64_t bytes, const HugePageFacts& facts);

// Gives the whole pages inside a block to the process, in parallel, unless it has them. This is a hint: if the kernel
// refuses, pages come as they are touched. So errors are ignored.
void supply_pages(void* data, int64_t bytes, Pages pages);

// The same for a new result of at least kWorthPopulating bytes. The rule chooses, or the environment variable
// ROIALIGN_EXT_PAGES.
void supply_pages(void* data, int64_t bytes);

// The names of the choices: touched, populated, huge. Raises ValueError for another one.
Pages pages_from_name(const std::string& name);
const char* name_of_pages(Pages pages);

}  // namespace roialign_ext
