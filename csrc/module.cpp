// The Python module: importing it registers the operators; what it exports are facts about the binary and,
// for tests, how results get their memory.
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <ATen/Parallel.h>
#include <torch/version.h>

#include "cpu/isa.h"
#include "cpu/results.h"

namespace {

// How many threads a parallel loop really uses: 1 with several configured means a build without OpenMP.
int64_t num_threads_seen() {
  std::set<std::thread::id> threads;
  std::mutex mutex;
  at::parallel_for(0, 64 * at::get_num_threads(), 1, [&](int64_t, int64_t) {
    const std::lock_guard<std::mutex> lock(mutex);
    threads.insert(std::this_thread::get_id());
  });
  return static_cast<int64_t>(threads.size());
}

std::string choose_pages(int64_t bytes, std::string enabled, std::string defrag, std::string buddyinfo, bool stalled) {
  return roialign_ext::name_of_pages(
      roialign_ext::choose_pages(bytes, {std::move(enabled), std::move(defrag), std::move(buddyinfo), stalled}));
}

// Of results one after another, of which those with huge pages stall or not, the choices of the trials: true is huge.
std::vector<bool> try_huge_pages(const std::vector<bool>& stalls) {
  roialign_ext::HugePageTrials trials;
  std::vector<bool> huge;
  for (const bool stall : stalls) {
    huge.push_back(!trials.waits());
    trials.record(huge.back() ? roialign_ext::Pages::kHuge : roialign_ext::Pages::kPopulated, stall);
  }
  return huge;
}

void supply_pages(uintptr_t address, int64_t bytes, const std::string& pages) {
  roialign_ext::supply_pages(reinterpret_cast<void*>(address), bytes, roialign_ext::pages_from_name(pages));
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.attr("torch_version") = TORCH_VERSION;
#if defined(__VERSION__)
  m.attr("compiler") = __VERSION__;
#endif
  m.def("cpu_capability", &roialign_ext::instruction_set_name);
  m.def("choose_pages", &choose_pages);
  m.def("is_stall", &roialign_ext::is_stall);
  m.def("try_huge_pages", &try_huge_pages);
  m.def("supply_pages", &supply_pages);
  m.def("num_threads_seen", &num_threads_seen, pybind11::call_guard<pybind11::gil_scoped_release>());
}
