#include "pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <sstream>
#include <stdexcept>

#include "../parallel.h"
#include "tuning.h"

namespace roialign_ext {
namespace {

constexpr int64_t kHugePage = 2 * kMiB;
constexpr int64_t kSmallPage = 4096;      // other sizes have other huge pages, and none is smaller
constexpr int kSmallPagesOfHugePage = 9;  // log2
// MADV_POPULATE_WRITE of Linux 5.14, a name that older headers lack.
constexpr int kPopulateWrite = 23;

std::string contents_of(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// The choice in brackets: "always [madvise] never".
std::string chosen_word(const std::string& words) {
  const size_t begin = words.find('['), end = words.find(']');
  return begin == std::string::npos || end == std::string::npos ? "" : words.substr(begin + 1, end - begin - 1);
}

// Free blocks of the size of a huge page on the node that has the fewest. A thread takes blocks of its own node first.
int64_t free_huge_pages(const std::string& buddyinfo) {
  std::map<std::string, int64_t> by_node;
  std::istringstream lines(buddyinfo);
  for (std::string line; std::getline(lines, line);) {
    // Node 0, zone   Normal     12      7 ...
    std::istringstream fields(line);
    std::string node, number, zone, name;
    fields >> node >> number >> zone >> name;
    int64_t& blocks = by_node[number];
    int64_t count = 0;
    for (int order = 0; fields >> count; ++order) {
      if (order >= kSmallPagesOfHugePage) blocks += count << (order - kSmallPagesOfHugePage);
    }
  }
  int64_t fewest = by_node.empty() ? 0 : INT64_MAX;
  for (const auto& [number, blocks] : by_node) fewest = std::min(fewest, blocks);
  return fewest;
}

// Whole pages of memory.
struct PageRange {
  uintptr_t begin, end;

  int64_t bytes() const { return static_cast<int64_t>(end - begin); }
  void advise(int advice) const { madvise(reinterpret_cast<void*>(begin), end - begin, advice); }
};

// The whole pages inside a block of memory, in chunks. Chunks end at the bounds of huge pages, so that no two threads
// ask for the same huge page.
class WholePages {
 public:
  WholePages(void* data, int64_t bytes) : page_(sysconf(_SC_PAGESIZE)) {
    const uintptr_t start = reinterpret_cast<uintptr_t>(data);
    const uintptr_t begin = (start + page_ - 1) / page_ * page_, end = (start + bytes) / page_ * page_;
    all_ = {begin, std::max(begin, end)};
  }

  const PageRange& all() const { return all_; }
  int64_t chunks() const {
    return static_cast<int64_t>((all_.end + kPageChunk - 1) / kPageChunk - all_.begin / kPageChunk);
  }
  PageRange chunk(int64_t i) const {
    const uintptr_t begin = (all_.begin / kPageChunk + i) * kPageChunk;
    return {std::max(begin, all_.begin), std::min(begin + kPageChunk, all_.end)};
  }
  // True if the process has these pages already, because an allocator kept them.
  bool resident(const PageRange& chunk) const {
    unsigned char pages[kPageChunk / kSmallPage];
    if (mincore(reinterpret_cast<void*>(chunk.begin), chunk.end - chunk.begin, pages) != 0) return false;
    return std::all_of(pages, pages + chunk.bytes() / page_, [](unsigned char flags) { return (flags & 1) != 0; });
  }
  bool all_resident() const {
    for (int64_t i = 0; i < chunks(); ++i) {
      if (!resident(chunk(i))) return false;
    }
    return true;
  }

 private:
  int64_t page_;
  PageRange all_;
};

HugePageTrials& trials() {
  static HugePageTrials of_process;
  return of_process;
}

const std::optional<Pages>& forced_pages() {
  static const std::optional<Pages> forced = []() -> std::optional<Pages> {
    const char* name = std::getenv("ROIALIGN_EXT_PAGES");
    if (name == nullptr || *name == '\0') return std::nullopt;
    return pages_from_name(name);
  }();
  return forced;
}

}  // namespace

HugePageFacts read_huge_page_facts() {
  if (sysconf(_SC_PAGESIZE) != kSmallPage) return {};
  return {chosen_word(contents_of("/sys/kernel/mm/transparent_hugepage/enabled")),
          chosen_word(contents_of("/sys/kernel/mm/transparent_hugepage/defrag")), contents_of("/proc/buddyinfo"),
          trials().waits()};
}

void HugePageTrials::record(Pages pages, bool stalled) {
  if (pages != Pages::kHuge) {
    if (waits()) --left_;
  } else if (!stalled) {
    stalls_ = 0;
  } else if (++stalls_ == kDecisiveStalls) {
    stalls_ = 0;
    left_ = next_.load();
    next_ = 2 * next_;
  }
}

bool is_stall(int64_t bytes, int64_t nanoseconds) { return nanoseconds / kStallPerMiB > bytes / kMiB; }

Pages choose_pages(int64_t bytes, const HugePageFacts& facts) {
  if (bytes < kWorthPopulating) return Pages::kTouched;
  // `always` needs no advice: with advice the kernel may stop the process to make huge pages. `never` has no huge
  // pages.
  if (bytes < kWorthHugePages || facts.enabled != "madvise" || facts.stalled) return Pages::kPopulated;
  // With these two settings no thread waits for a huge page: if none is free, it gets small pages.
  if (facts.defrag == "never" || facts.defrag == "defer") return Pages::kHuge;
  // With the others a thread that asks for a huge page moves memory until there is one, which has taken a second. So
  // huge pages are requested only if enough of them are free.
  const int64_t needed = bytes / kHugePage * kFreeBlocksPerBlock;
  return free_huge_pages(facts.buddyinfo) >= needed ? Pages::kHuge : Pages::kPopulated;
}

void supply_pages(void* data, int64_t bytes, Pages pages) {
  if (pages == Pages::kTouched) return;
  const WholePages block(data, bytes);
  if (pages == Pages::kHuge) block.all().advise(MADV_HUGEPAGE);
  parallel_for(block.chunks(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const PageRange chunk = block.chunk(i);
      if (!block.resident(chunk)) chunk.advise(kPopulateWrite);
    }
  });
}

void supply_pages(void* data, int64_t bytes) {
  if (WholePages(data, bytes).all_resident()) return;
  const auto& forced = forced_pages();
  const Pages pages = forced.has_value() ? *forced : choose_pages(bytes, read_huge_page_facts());
  const auto begin = std::chrono::steady_clock::now();
  supply_pages(data, bytes, pages);
  const std::chrono::nanoseconds taken = std::chrono::steady_clock::now() - begin;
  if (bytes >= kWorthHugePages) trials().record(pages, is_stall(bytes, taken.count()));
}

Pages pages_from_name(const std::string& name) {
  for (const Pages pages : {Pages::kTouched, Pages::kPopulated, Pages::kHuge}) {
    if (name == name_of_pages(pages)) return pages;
  }
  throw std::invalid_argument("ROIALIGN_EXT_PAGES must be touched, populated or huge, but is " + name);
}

const char* name_of_pages(Pages pages) {
  switch (pages) {
    case Pages::kTouched:
      return "touched";
    case Pages::kPopulated:
      return "populated";
    case Pages::kHuge:
      break;
  }
  return "huge";
}

}  // namespace roialign_ext
