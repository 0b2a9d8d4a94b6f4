// Counts the memory requests of the kernels in a counted build.
//
// The build is compiled for the thread sanitizer, whose runtime this file replaces. Every load, store, call and basic
// block of a kernel calls a function below, which records the lane's next step. When lanes meet, the steps of a warp
// are merged as a device would run them. Lanes that are furthest back in the program go first, and lanes at one place
// go together. So diverged lanes meet again where their paths do. This needs basic blocks in the order of the program,
// hence the flags in tests/support/cuda_shim.py.
//
// A request is one instruction of a warp. Its lanes and bytes are counted, and the sectors of 32 bytes and lines of 128
// bytes that it touches. In shared memory its wavefronts are counted, of 32 banks of 4 bytes. Parameters, constants and
// the stack are not counted.
#include "counter.h"

#include <link.h>
#include <pthread.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "cuda/args.h"
#include "include/cuda_runtime.h"

namespace shim::counter {
namespace {

using roialign_ext::cuda::CallArgs;
using roialign_ext::cuda::View;

constexpr int kLanes = 32;
constexpr size_t kMaxEvents = 1 << 14;  // of a lane before it waits for the others; bounds memory
constexpr uint64_t kSector = 32, kLine = 128, kBank = 4, kBanks = 32;

enum class Step : uint8_t { kBlock, kRead, kWrite, kCall, kReturn };

// A step of a lane: its place in the program, and the memory it touches.
struct Event {
  uint32_t place;  // in the library
  Step step;
  uint8_t bytes;
  uintptr_t address;
};

enum Space { kMaps, kBins, kShared, kTables, kSpaces };
const char* const kNames[kSpaces] = {"maps", "bins", "shared", "tables"};

struct Region {
  uintptr_t begin, end;
  Space space;
};

struct Lane {
  std::vector<Event> events;
  size_t next = 0;
  std::vector<uint32_t> calls;  // active calls, outermost first
  bool goes_on = false;         // where its events end
  uintptr_t stack = 0, stack_bytes = 0;
};

struct Counts {
  uint64_t requests = 0, lanes = 0, sectors = 0, lines = 0, wavefronts = 0;
};

// Place in the program, space, whether it writes, bytes per lane.
using Site = std::tuple<uint32_t, Space, bool, int>;

struct Launch {
  uint32_t kernel = 0;  // its place in the library
  uint64_t blocks = 0, counted_blocks = 0;
  unsigned threads = 0;
  uint64_t barriers = 0, syncs = 0, votes = 0, shuffles = 0, steps = 0;
  uint64_t distinct_sectors[kSpaces] = {};  // counted once per block that reads them
  std::map<Site, Counts> sites;
};

enum class Mode { kOff, kPlanning, kRunning };

struct Counter {
  Mode mode = Mode::kOff;
  uint64_t max_blocks = 0;
  int64_t planned = -1;  // launches of the call, if that is known
  std::vector<Region> regions;
  std::vector<Launch> launches;
  std::set<uint64_t> chosen;  // blocks of this launch that are counted
  bool runs_others = true, counts_block = false;
  uintptr_t shared = 0, shared_end = 0;
  std::vector<Lane> lanes;
  std::vector<uintptr_t> sectors[kSpaces];
  std::string report;
};

Counter& counter() {
  static Counter* one = new Counter;
  return *one;
}

// The running lane; null while steps are not counted.
Lane* running = nullptr;
// The library, and the stack of the launching thread, which holds the parameters.
uintptr_t image_begin = 0, image_bytes = 0, stack_begin = 0, stack_bytes = 0;

inline void note(Step step, const void* place, uintptr_t address, size_t bytes) {
  Lane* const lane = running;
  if (lane == nullptr) return;
  if (address != 0 && (address - lane->stack < lane->stack_bytes || address - image_begin < image_bytes ||
                       address - stack_begin < stack_bytes)) {
    return;
  }
  lane->events.push_back({static_cast<uint32_t>(reinterpret_cast<uintptr_t>(place) - image_begin), step,
                          static_cast<uint8_t>(bytes), address});
  if (lane->events.size() < kMaxEvents) return;
  lane->goes_on = true;
  pause();
}

// Objects that are not known to be aligned to their size are moved by words.
void note_range(Step step, const void* place, uintptr_t address, size_t bytes) {
  while (bytes > 0) {
    const size_t piece = std::min({bytes, size_t(4), size_t(address & -address)});
    const size_t power = piece == 3 ? 2 : piece;
    note(step, place, address, power);
    address += power;
    bytes -= power;
  }
}

void find_uncounted_memory() {
  pthread_attr_t attributes;
  void* stack = nullptr;
  size_t bytes = 0;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &stack, &bytes);
  pthread_attr_destroy(&attributes);
  stack_begin = reinterpret_cast<uintptr_t>(stack);
  stack_bytes = bytes;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void*) {
        const uintptr_t here = reinterpret_cast<uintptr_t>(&counter);
        uintptr_t end = 0;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& part = info->dlpi_phdr[i];
          if (part.p_type == PT_LOAD) end = std::max<uintptr_t>(end, info->dlpi_addr + part.p_vaddr + part.p_memsz);
        }
        if (here < info->dlpi_addr || here >= end) return 0;
        image_begin = info->dlpi_addr;
        image_bytes = end - info->dlpi_addr;
        return 1;
      },
      nullptr);
}

Region region_of(const Counter& c, uintptr_t address) {
  if (address >= c.shared && address < c.shared_end) return {c.shared, c.shared_end, kShared};
  for (const Region& region : c.regions) {
    if (address >= region.begin && address < region.end) return region;
  }
  return {0, 0, kTables};
}

struct Access {
  uintptr_t address;
  int bytes;
};

// Accesses of 8 bytes per lane are served in halves of a warp, those of 16 bytes in quarters, unless a part reads
// nothing new. A wavefront serves one word of each bank.
uint64_t wavefronts_of(const std::array<Access, kLanes>& accesses, unsigned mask, int bytes) {
  const int lanes = bytes <= 4 ? 32 : bytes == 8 ? 16 : 8;
  std::set<uintptr_t> served;
  uint64_t wavefronts = 0;
  for (int first = 0; first < kLanes; first += lanes) {
    std::set<uintptr_t> words;
    for (int lane = first; lane < first + lanes; ++lane) {
      if ((mask >> lane & 1) == 0) continue;
      const uintptr_t address = accesses[static_cast<size_t>(lane)].address;
      for (uintptr_t word = address / kBank; word <= (address + static_cast<uintptr_t>(bytes) - 1) / kBank; ++word) {
        if (served.count(word) == 0) words.insert(word);
      }
    }
    uint64_t of_bank[kBanks] = {}, largest = 0;
    for (uintptr_t word : words) largest = std::max(largest, ++of_bank[word % kBanks]);
    wavefronts += largest;
    served.insert(words.begin(), words.end());
  }
  return wavefronts;
}

void count_request(Counter& c, const Event& event, const std::array<Access, kLanes>& accesses, unsigned mask) {
  const int first = __builtin_ctz(mask);
  const Region region = region_of(c, accesses[static_cast<size_t>(first)].address);
  const Space space = region.space;
  const bool write = event.step == Step::kWrite;
  Counts& counts = c.launches.back().sites[{event.place, space, write, event.bytes}];
  ++counts.requests;
  counts.lanes += static_cast<uint64_t>(__builtin_popcount(mask));
  if (space == kShared) {
    counts.wavefronts += wavefronts_of(accesses, mask, event.bytes);
    return;
  }
  uintptr_t sectors[2 * kLanes];
  size_t touched = 0;
  for (unsigned left = mask; left != 0; left &= left - 1) {
    const Access& access = accesses[static_cast<size_t>(__builtin_ctz(left))];
    sectors[touched++] = access.address / kSector;
    const uintptr_t last = (access.address + static_cast<uintptr_t>(access.bytes) - 1) / kSector;
    if (last != sectors[touched - 1]) sectors[touched++] = last;
  }
  std::sort(sectors, sectors + touched);
  touched = static_cast<size_t>(std::unique(sectors, sectors + touched) - sectors);
  counts.sectors += touched;
  // Device memory is aligned to lines, host memory is not.
  const auto line = [&](size_t i) { return (sectors[i] - region.begin / kSector) / (kLine / kSector); };
  for (size_t i = 0; i < touched; ++i) counts.lines += i == 0 || line(i) != line(i - 1);
  if (!write) c.sectors[space].insert(c.sectors[space].end(), sectors, sectors + touched);
}

// Whether lane a is further back in the program than lane b, by the outermost call that differs.
constexpr uint32_t kEnd = ~0u;  // of a function, after all its code
uint32_t place_of(const Lane& lane) {
  const Event& event = lane.events[lane.next];
  return event.step == Step::kReturn ? kEnd : event.place;
}
int compare(const Lane& a, const Lane& b) {
  const size_t common = std::min(a.calls.size(), b.calls.size());
  for (size_t i = 0; i < common; ++i) {
    if (a.calls[i] != b.calls[i]) return a.calls[i] < b.calls[i] ? -1 : 1;
  }
  const uint32_t own = a.calls.size() > common ? a.calls[common] : place_of(a);
  const uint32_t other = b.calls.size() > common ? b.calls[common] : place_of(b);
  if (own != other) return own < other ? -1 : 1;
  // One lane is inside a call that the other is about to make, or has returned from.
  if (a.calls.size() != b.calls.size()) return a.calls.size() < b.calls.size() ? -1 : 1;
  return 0;
}

// Merges the steps of a warp's lanes, until an unfinished lane has no more steps.
void run_warp(Counter& c, unsigned warp) {
  Launch& launch = c.launches.back();
  const size_t begin = size_t(warp) * kLanes, end = std::min(begin + kLanes, c.lanes.size());
  std::array<Access, kLanes> accesses = {};
  for (;;) {
    unsigned mask = 0;
    bool waits = false;
    const Lane* leader = nullptr;
    for (size_t i = begin; i < end; ++i) {
      const Lane& lane = c.lanes[i];
      if (lane.next == lane.events.size()) {
        waits = waits || lane.goes_on;
        continue;
      }
      const int order = leader == nullptr ? -1 : compare(lane, *leader);
      if (order > 0) continue;
      if (order < 0) {
        leader = &lane;
        mask = 0;
      }
      mask |= 1u << (i - begin);
    }
    if (waits || mask == 0) break;
    const Event event = leader->events[leader->next];
    unsigned together = 0;
    for (unsigned left = mask; left != 0; left &= left - 1) {
      const unsigned l = static_cast<unsigned>(__builtin_ctz(left));
      Lane& lane = c.lanes[begin + l];
      const Event& own = lane.events[lane.next];
      if (own.step != event.step || own.bytes != event.bytes) continue;
      together |= 1u << l;
      accesses[l] = {own.address, own.bytes};
      ++lane.next;
      if (event.step == Step::kCall) lane.calls.push_back(event.place);
      if (event.step == Step::kReturn) lane.calls.pop_back();
    }
    ++launch.steps;
    if (event.step == Step::kRead || event.step == Step::kWrite) count_request(c, event, accesses, together);
  }
  for (size_t i = begin; i < end; ++i) {
    Lane& lane = c.lanes[i];
    lane.events.erase(lane.events.begin(), lane.events.begin() + static_cast<std::ptrdiff_t>(lane.next));
    lane.next = 0;
  }
}

unsigned warps_of(const Counter& c) { return static_cast<unsigned>((c.lanes.size() + kLanes - 1) / kLanes); }

void add_region(Counter& c, const View<void>& view, const int64_t (&sizes)[4], uint64_t bytes, Space space) {
  const int64_t strides[4] = {view.stride_n, view.stride_c, view.stride_y, view.stride_x};
  int64_t last = 0;
  for (int i = 0; i < 4; ++i) {
    if (sizes[i] == 0) return;
    last += (sizes[i] - 1) * strides[i];
  }
  const uintptr_t begin = reinterpret_cast<uintptr_t>(view.data);
  if (begin != 0) c.regions.push_back({begin, begin + static_cast<uint64_t>(last + 1) * bytes, space});
}

}  // namespace

bool begin_plan() {
  Counter& c = counter();
  if (c.mode == Mode::kOff) return false;
  c.mode = Mode::kPlanning;
  c.planned = 0;
  c.regions.clear();
  return true;
}

void end_plan() {
  Counter& c = counter();
  c.mode = Mode::kRunning;
  c.planned += static_cast<int64_t>(c.launches.size());
}

void argument(const CallArgs& args) {
  Counter& c = counter();
  if (c.mode == Mode::kOff) return;
  const uint64_t bytes = static_cast<uint64_t>(bytes_of(args.storage));
  for (int i = 0; i < args.levels; ++i) {
    const auto& map = args.maps[i];
    add_region(c, map.pixels, {args.images, args.channels, map.height, map.width}, bytes, kMaps);
  }
  const int64_t bins[4] = {args.boxes, args.channels, args.bins_y, args.bins_x};
  add_region(c, args.bins, bins, bytes, kBins);
  add_region(c,
             {args.argmax.data, args.argmax.stride_n, args.argmax.stride_c, args.argmax.stride_y, args.argmax.stride_x},
             bins, sizeof(int32_t), kBins);
}

bool begin_launch(const void* kernel, const dim3& grid, const dim3& block) {
  Counter& c = counter();
  if (c.mode == Mode::kOff) return true;
  if (c.mode == Mode::kPlanning) {
    ++c.planned;
    return false;
  }
  Launch launch;
  launch.kernel = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(kernel) - image_begin);
  launch.blocks = uint64_t(grid.x) * grid.y * grid.z;
  launch.threads = block.x * block.y * block.z;
  // No other kernel reads the results of the last launch of a call.
  c.launches.push_back(launch);
  c.runs_others = static_cast<int64_t>(c.launches.size()) != c.planned;
  c.chosen.clear();
  const uint64_t count = std::min(launch.blocks, c.max_blocks);
  uint64_t random = 88172645463325252u;
  for (uint64_t i = 0; i < count; ++i) {
    // One block from each of equal parts of the launch.
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    const uint64_t begin = i * launch.blocks / count, end = (i + 1) * launch.blocks / count;
    c.chosen.insert(begin + random % (end - begin));
  }
  c.lanes.assign(launch.threads, {});
  return true;
}

bool begin_block(uint64_t block, const unsigned char* shared, uint64_t shared_bytes) {
  Counter& c = counter();
  if (c.mode == Mode::kOff) return true;
  running = nullptr;
  c.counts_block = c.chosen.count(block) > 0;
  c.launches.back().counted_blocks += c.counts_block;
  c.shared = reinterpret_cast<uintptr_t>(shared);
  c.shared_end = c.shared + shared_bytes;
  return c.counts_block || c.runs_others;
}

void enter_thread(unsigned thread, const char* stack, uint64_t stack_bytes) {
  Counter& c = counter();
  if (c.mode == Mode::kOff || !c.counts_block) return;
  running = &c.lanes[thread];
  running->goes_on = false;
  running->stack = reinterpret_cast<uintptr_t>(stack);
  running->stack_bytes = stack_bytes;
}

void end_round() {
  Counter& c = counter();
  if (running == nullptr) return;
  const auto goes_on = [](const Lane& lane) { return lane.goes_on; };
  if (std::none_of(c.lanes.begin(), c.lanes.end(), goes_on)) return;
  for (unsigned warp = 0; warp < warps_of(c); ++warp) run_warp(c, warp);
}

void barrier() {
  Counter& c = counter();
  if (running == nullptr) return;
  for (unsigned warp = 0; warp < warps_of(c); ++warp) run_warp(c, warp);
  c.launches.back().barriers += warps_of(c);
}

void met(unsigned warp, unsigned mask, Meeting meeting) {
  Counter& c = counter();
  if (running == nullptr) return;
  Launch& launch = c.launches.back();
  ++(meeting == Meeting::kSync ? launch.syncs : meeting == Meeting::kVote ? launch.votes : launch.shuffles);
  if (mask == ~0u) run_warp(c, warp);
}

void end_block() {
  Counter& c = counter();
  if (running == nullptr) return;
  running = nullptr;
  for (unsigned warp = 0; warp < warps_of(c); ++warp) run_warp(c, warp);
  for (Lane& lane : c.lanes) lane.calls.clear();
  for (int space = 0; space < kSpaces; ++space) {
    std::vector<uintptr_t>& touched = c.sectors[space];
    std::sort(touched.begin(), touched.end());
    c.launches.back().distinct_sectors[space] +=
        static_cast<uint64_t>(std::unique(touched.begin(), touched.end()) - touched.begin());
    touched.clear();
  }
}

}  // namespace shim::counter

namespace {

using shim::counter::counter;
using shim::counter::note;
using shim::counter::note_range;
using shim::counter::Step;

std::string text_of(const shim::counter::Launch& launch) {
  std::ostringstream text;
  text << "{\"kernel\": " << launch.kernel << ", \"blocks\": " << launch.blocks
       << ", \"counted_blocks\": " << launch.counted_blocks << ", \"threads\": " << launch.threads
       << ", \"barriers\": " << launch.barriers << ", \"syncs\": " << launch.syncs << ", \"votes\": " << launch.votes
       << ", \"shuffles\": " << launch.shuffles << ", \"steps\": " << launch.steps << ", \"distinct_sectors\": {";
  for (int space = 0; space < shim::counter::kSpaces; ++space) {
    text << (space == 0 ? "" : ", ") << '"' << shim::counter::kNames[space] << "\": " << launch.distinct_sectors[space];
  }
  text << "}, \"sites\": [";
  bool first = true;
  for (const auto& [site, counts] : launch.sites) {
    const auto& [place, space, write, bytes] = site;
    text << (first ? "" : ", ") << "{\"place\": " << place << ", \"space\": \"" << shim::counter::kNames[space]
         << "\", \"write\": " << (write ? "true" : "false") << ", \"bytes\": " << bytes
         << ", \"requests\": " << counts.requests << ", \"lanes\": " << counts.lanes
         << ", \"sectors\": " << counts.sectors << ", \"lines\": " << counts.lines
         << ", \"wavefronts\": " << counts.wavefronts << "}";
    first = false;
  }
  text << "]}";
  return text.str();
}

}  // namespace

// Starts counting. Of each later launch at most `max_blocks` blocks are counted, spread over the launch.
extern "C" void shim_count(int64_t max_blocks) {
  auto& c = counter();
  c.mode = shim::counter::Mode::kRunning;
  c.max_blocks = static_cast<uint64_t>(max_blocks);
  c.planned = -1;
  c.launches.clear();
  c.regions.clear();
  shim::counter::find_uncounted_memory();
}

// Ends counting. Returns the launches since the start as JSON.
extern "C" const char* shim_counts() {
  auto& c = counter();
  c.mode = shim::counter::Mode::kOff;
  c.report = "[";
  for (size_t i = 0; i < c.launches.size(); ++i) c.report += (i == 0 ? "" : ", ") + text_of(c.launches[i]);
  c.report += "]";
  return c.report.c_str();
}

// Functions that compiled code calls.
#define HERE __builtin_return_address(0)
#define ACCESS(bytes)                                                      \
  extern "C" void __tsan_read##bytes(void* address) {                      \
    note(Step::kRead, HERE, reinterpret_cast<uintptr_t>(address), bytes);  \
  }                                                                        \
  extern "C" void __tsan_write##bytes(void* address) {                     \
    note(Step::kWrite, HERE, reinterpret_cast<uintptr_t>(address), bytes); \
  }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
extern "C" void __tsan_read_range(void* address, size_t bytes) {
  note_range(Step::kRead, HERE, reinterpret_cast<uintptr_t>(address), bytes);
}
extern "C" void __tsan_write_range(void* address, size_t bytes) {
  note_range(Step::kWrite, HERE, reinterpret_cast<uintptr_t>(address), bytes);
}
extern "C" void __tsan_func_entry(void* call) { note(Step::kCall, call, 0, 0); }
extern "C" void __tsan_func_exit() { note(Step::kReturn, HERE, 0, 0); }
extern "C" void __sanitizer_cov_trace_pc() { note(Step::kBlock, HERE, 0, 0); }
extern "C" void __tsan_init() {}
extern "C" void __tsan_vptr_update(void**, void*) {}
extern "C" void __tsan_vptr_read(void**) {}
