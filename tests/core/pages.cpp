// csrc/cpu/pages.h as plain functions for tests/core/test_pages.py.
#include "pages.h"

using namespace roialign_ext;

extern "C" {

const char* choose(int64_t bytes, const char* enabled, const char* defrag, const char* buddyinfo, bool stalled) {
  return name_of_pages(choose_pages(bytes, {enabled, defrag, buddyinfo, stalled}));
}

bool stalls(int64_t bytes, int64_t nanoseconds) { return is_stall(bytes, nanoseconds); }

// Plays the trials of huge pages through. Character i of `stalled` is '1' if result i stalls with huge pages, else '0'.
// Character i of `tried` becomes '1' if result i got huge pages.
void try_huge_pages(const char* stalled, char* tried) {
  HugePageTrials trials;
  for (; *stalled != '\0'; ++stalled, ++tried) {
    *tried = trials.waits() ? '0' : '1';
    trials.record(trials.waits() ? Pages::kPopulated : Pages::kHuge, *stalled == '1');
  }
}

void supply(uintptr_t address, int64_t bytes, const char* pages) {
  supply_pages(reinterpret_cast<void*>(address), bytes, pages_from_name(pages));
}

}  // extern "C"
