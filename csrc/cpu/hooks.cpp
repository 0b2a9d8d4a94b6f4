#include "hooks.h"

#include <mutex>
#include <set>
#include <thread>

#include "../parallel.h"
#include "isa.h"
#include "results.h"

namespace roialign_ext::hooks {

std::string cpu_capability() { return instruction_set_name(); }

int64_t num_threads_seen() {
  std::set<std::thread::id> threads;
  std::mutex mutex;
  parallel_for(64 * num_threads(), [&](int64_t, int64_t) {
    const std::lock_guard<std::mutex> lock(mutex);
    threads.insert(std::this_thread::get_id());
  });
  return static_cast<int64_t>(threads.size());
}

std::string choose_pages(int64_t bytes, const std::string& enabled, const std::string& defrag,
                         const std::string& buddyinfo, bool stalled) {
  return name_of_pages(roialign_ext::choose_pages(bytes, {enabled, defrag, buddyinfo, stalled}));
}

bool is_stall(int64_t bytes, int64_t nanoseconds) { return roialign_ext::is_stall(bytes, nanoseconds); }

std::string try_huge_pages(const std::string& stalls) {
  HugePageTrials trials;
  std::string tried;
  for (const char stall : stalls) {
    tried += trials.waits() ? '0' : '1';
    trials.record(trials.waits() ? Pages::kPopulated : Pages::kHuge, stall == '1');
  }
  return tried;
}

void supply_pages(uintptr_t address, int64_t bytes, const std::string& pages) {
  roialign_ext::supply_pages(reinterpret_cast<void*>(address), bytes, pages_from_name(pages));
}

}  // namespace roialign_ext::hooks
