// The scheduler of the host shim: one fiber per CUDA thread, the blocks of a grid one after another.
//
// A fiber runs until it has to wait for others. Behaviour that hardware leaves undefined is an error here. Examples are
// barriers that not every thread reaches, collectives with disagreeing lanes, and launches beyond the limits. A seed
// other than 0 shuffles the order of blocks and threads.
//
// This file is compiled without sanitizers, but it tells them of its fibers. For the thread sanitizer a CUDA thread is
// a fiber that is switched without synchronisation. Barriers, __syncwarp and launches order memory; shuffles and
// ballots do not. A thread's fiber changes from block to block, so that blocks are unordered. So races in shared and in
// global memory are reported, whatever the order in which the fibers ran.
#include "include/cuda_runtime.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#if defined(__x86_64__)
extern "C" void shim_switch(void** save, void* load);
asm(R"(
.text
.type shim_switch, @function
shim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size shim_switch, .-shim_switch
)");
#else
#include <ucontext.h>
#endif

#define SANITIZER extern "C" __attribute__((weak))
SANITIZER void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
SANITIZER void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* size);
SANITIZER void __asan_unpoison_memory_region(const volatile void* address, size_t size);
SANITIZER void* __tsan_get_current_fiber();
SANITIZER void* __tsan_create_fiber(unsigned flags);
SANITIZER void __tsan_switch_to_fiber(void* fiber, unsigned flags);
SANITIZER void __tsan_acquire(void* address);
SANITIZER void __tsan_release(void* address);
SANITIZER void AnnotateIgnoreReadsBegin(const char* file, int line);
SANITIZER void AnnotateIgnoreReadsEnd(const char* file, int line);
SANITIZER void AnnotateIgnoreWritesBegin(const char* file, int line);
SANITIZER void AnnotateIgnoreWritesEnd(const char* file, int line);

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace shim {
namespace {

constexpr size_t kStackBytes = 256 << 10;
constexpr size_t kGuardBytes = 4 << 10;
constexpr size_t kSharedByDefault = 48 << 10, kSharedAtMost = 227 << 10;
constexpr unsigned kSwitchWithoutSync = 1;

enum class State { kReady, kAtBarrier, kInExchange, kDone };

struct Fiber {
  char* stack = nullptr;
  void* tsan = nullptr;
  void* asan = nullptr;  // fake stack
#if defined(__x86_64__)
  void* pointer = nullptr;
#else
  ucontext_t context;
#endif
  unsigned thread = 0;  // linear index in the block
  dim3 index;
  State state = State::kDone;
  bool started = false;
  // The collective call that the fiber waits in.
  Place place = {};
  int kind = 0;
  unsigned mask = 0;
  uint64_t value = 0, result = 0;
  int operand = 0, width = 0;
};

// Lanes that wait in a collective, and lanes that have returned.
struct Warp {
  unsigned waiting = 0, done = 0;
};

struct Scheduler {
  std::vector<Fiber> fibers;  // those of a block come first
  std::vector<unsigned> fiber_of_thread;
  std::vector<Warp> warps;
  Fiber main;
  Fiber* running = nullptr;
  const void* main_bottom = nullptr;
  size_t main_bytes = 0;

  unsigned threads = 0, rotation = 0;
  unsigned waiting = 0, done = 0;
  // Addresses for the sanitizer's synchronisation: of the launch, and of the barriers (first) and warps of one block.
  uint64_t sync_launch = 0, sync_end = 0;
  uint64_t* sync_block = nullptr;
  unsigned char* shared = nullptr;
  void (*body)(void*) = nullptr;
  void* argument = nullptr;
  std::string error;
  uint64_t seed = 0, random = 1;
  std::map<const void*, int> shared_limits;
  int64_t launches = 0, failing_launch = -1;  // since a test asked for it
  cudaError_t last_error = cudaSuccess;
};

// Never destroyed: fibers are reused by every launch of the process.
Scheduler& scheduler() {
  static Scheduler* one = new Scheduler;
  return *one;
}

uint64_t next_random(Scheduler& s) {
  s.random ^= s.random << 13;
  s.random ^= s.random >> 7;
  s.random ^= s.random << 17;
  return s.random;
}

template <class T>
void shuffle_order(Scheduler& s, std::vector<T>& items) {
  for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[next_random(s) % i]);
}

void release(void* address) {
  if (__tsan_release) __tsan_release(address);
}
void acquire(void* address) {
  if (__tsan_acquire) __tsan_acquire(address);
}

// Accesses of the allocator and of the fill are no part of the program.
struct Unseen {
  Unseen() {
    if (!AnnotateIgnoreReadsBegin) return;
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Unseen() {
    if (!AnnotateIgnoreReadsEnd) return;
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
};

bool same(const Place& a, const Place& b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

std::string describe(const Place& place) {
  const char* slash = std::strrchr(place.file, '/');
  return std::string(slash ? slash + 1 : place.file) + ":" + std::to_string(place.line);
}

std::string text(const dim3& d) {
  return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + ")";
}

void switch_to(Fiber& from, Fiber& to, const void* bottom, size_t bytes) {
  if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(to.tsan, kSwitchWithoutSync);
  if (__sanitizer_start_switch_fiber) __sanitizer_start_switch_fiber(&from.asan, bottom, bytes);
#if defined(__x86_64__)
  shim_switch(&from.pointer, to.pointer);
#else
  swapcontext(&from.context, &to.context);
#endif
  // `from` runs again.
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(from.asan, nullptr, nullptr);
}

void leave_fiber() {
  Scheduler& s = scheduler();
  switch_to(*s.running, s.main, s.main_bottom, s.main_bytes);
}

[[noreturn]] void fiber_main() {
  Scheduler& s = scheduler();
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(nullptr, &s.main_bottom, &s.main_bytes);
  for (;;) {
    acquire(&s.sync_launch);
    s.body(s.argument);
    release(&s.sync_end);
    s.running->state = State::kDone;
    ++s.done;
    s.warps[s.running->thread / 32].done |= 1u << s.running->thread % 32;
    leave_fiber();
  }
}

void prepare(Fiber& fiber, unsigned number) {
  if (fiber.stack == nullptr) {
    void* memory =
        mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("no memory for the stacks of fibers");
    mprotect(memory, kGuardBytes, PROT_NONE);
    fiber.stack = static_cast<char*>(memory);
    if (__tsan_create_fiber) fiber.tsan = __tsan_create_fiber(0);
  } else if (__asan_unpoison_memory_region) {
    __asan_unpoison_memory_region(fiber.stack + kGuardBytes, kStackBytes - kGuardBytes);
  }
  fiber.started = true;
  fiber.asan = nullptr;
#if defined(__x86_64__)
  // The stack as shim_switch leaves it: six registers, the return address, and the alignment of a called function.
  // Stacks begin at different offsets of their pages, or they would compete for few cache lines.
  void** top = reinterpret_cast<void**>(fiber.stack + kStackBytes - number % 32 * 128);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&fiber_main);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  fiber.pointer = top;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack + kGuardBytes;
  fiber.context.uc_stack.ss_size = kStackBytes - kGuardBytes;
  fiber.context.uc_link = nullptr;
  static_cast<void>(number);
  makecontext(&fiber.context, reinterpret_cast<void (*)()>(&fiber_main), 0);
#endif
}

// Ends the launch from within a fiber.
void fail(const std::string& message) {
  Scheduler& s = scheduler();
  if (s.error.empty()) {
    s.error = message + " [block " + text(blockIdx) + ", thread " + text(threadIdx) + "]";
  }
  release(&s.sync_end);
  leave_fiber();
}

const char* name_of(Exchange kind) {
  switch (kind) {
    case Exchange::kSync:
      return "__syncwarp";
    case Exchange::kBallot:
      return "__ballot_sync";
    case Exchange::kAny:
      return "__any_sync";
    case Exchange::kAll:
      return "__all_sync";
    default:
      return "a shuffle";
  }
}

counter::Meeting meeting_of(Exchange kind) {
  switch (kind) {
    case Exchange::kSync:
      return counter::Meeting::kSync;
    case Exchange::kBallot:
    case Exchange::kAny:
    case Exchange::kAll:
      return counter::Meeting::kVote;
    default:
      return counter::Meeting::kShuffle;
  }
}

Fiber& fiber_of(Scheduler& s, unsigned thread) { return s.fibers[s.fiber_of_thread[thread]]; }

std::string stuck(Scheduler& s) {
  std::string message = "deadlock:";
  for (unsigned t = 0, listed = 0; t < s.threads && listed < 4; ++t) {
    const Fiber& fiber = fiber_of(s, t);
    if (fiber.state == State::kDone) continue;
    ++listed;
    message += " thread " + std::to_string(t) + " waits in " +
               (fiber.state == State::kAtBarrier ? "__syncthreads" : name_of(static_cast<Exchange>(fiber.kind))) +
               " at " + describe(fiber.place) + ";";
  }
  return message + " " + std::to_string(s.done) + " of " + std::to_string(s.threads) + " threads have returned";
}

void run_block(Scheduler& s) {
  std::vector<unsigned> order(s.threads);
  std::iota(order.begin(), order.end(), 0u);
  s.waiting = s.done = 0;
  s.warps.assign((s.threads + 31) / 32, {});
  for (unsigned t = 0; t < s.threads; ++t) {
    const unsigned f = (t + s.rotation) % s.threads;
    Fiber& fiber = s.fibers[f];
    s.fiber_of_thread[t] = f;
    fiber.thread = t;
    fiber.index = dim3(t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y));
    fiber.state = State::kReady;
  }
  while (s.done < s.threads) {
    if (s.seed != 0) shuffle_order(s, order);
    bool progress = false;
    for (unsigned t : order) {
      Fiber& fiber = fiber_of(s, t);
      if (fiber.state != State::kReady) continue;
      progress = true;
      s.running = &fiber;
      threadIdx = fiber.index;
      if (counter::enter_thread) counter::enter_thread(t, fiber.stack, kStackBytes);
      switch_to(s.main, fiber, fiber.stack, kStackBytes);
      if (!s.error.empty()) return;
    }
    if (counter::end_round) counter::end_round();
    if (!progress) {
      s.error = stuck(s) + " [block " + text(blockIdx) + "]";
      return;
    }
  }
}

void check_launch(Scheduler& s, const void* kernel, dim3 grid, dim3 block, size_t shared_bytes) {
  const auto require = [](bool right, const std::string& message) {
    if (!right) throw std::runtime_error("shim: invalid launch: " + message);
  };
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  require(threads >= 1 && threads <= 1024 && block.z <= 64, "block " + text(block));
  require(grid.x >= 1 && grid.x <= 0x7FFFFFFFu && grid.y >= 1 && grid.y <= 65535 && grid.z >= 1 && grid.z <= 65535,
          "grid " + text(grid));
  const auto found = s.shared_limits.find(kernel);
  const size_t limit =
      found == s.shared_limits.end() ? kSharedByDefault : std::max<size_t>(found->second, kSharedByDefault);
  require(shared_bytes <= std::min(limit, kSharedAtMost), std::to_string(shared_bytes) + " bytes of shared memory");
}

}  // namespace

void allow_shared_memory(const void* kernel, int bytes) {
  if (bytes < 0 || static_cast<size_t>(bytes) > kSharedAtMost) {
    throw std::runtime_error("shim: no kernel may have " + std::to_string(bytes) + " bytes of shared memory");
  }
  scheduler().shared_limits[kernel] = bytes;
}

bool next_launch_fails() {
  Scheduler& s = scheduler();
  const bool fails = s.launches++ == s.failing_launch;
  if (fails) s.last_error = cudaErrorLaunchOutOfResources;
  return fails;
}

unsigned char* dynamic_shared() { return scheduler().shared; }

void run_grid(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes, void (*thread)(void*), void* argument) {
  Scheduler& s = scheduler();
  check_launch(s, kernel, grid, block, shared_bytes);
  if (counter::begin_launch && !counter::begin_launch(kernel, grid, block)) return;
  const char* seed = std::getenv("SHIM_SEED");
  s.seed = seed == nullptr ? 0 : std::strtoull(seed, nullptr, 10);
  s.random = s.seed * 0x9E3779B97F4A7C15u + 1;
  s.threads = block.x * block.y * block.z;
  s.body = thread;
  s.argument = argument;
  s.error.clear();
  s.fiber_of_thread.resize(s.threads);
  if (s.fibers.size() < s.threads) s.fibers.resize(s.threads);
  for (unsigned f = 0; f < s.threads; ++f) {
    if (!s.fibers[f].started) prepare(s.fibers[f], f);
  }
  if (__tsan_get_current_fiber) s.main.tsan = __tsan_get_current_fiber();
  gridDim = grid;
  blockDim = block;
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  std::vector<uint64_t> order;
  if (s.seed != 0) {
    order.resize(blocks);
    std::iota(order.begin(), order.end(), uint64_t(0));
    shuffle_order(s, order);
  }
  release(&s.sync_launch);
  for (uint64_t i = 0; i < blocks && s.error.empty(); ++i) {
    const uint64_t b = order.empty() ? i : order[i];
    blockIdx = dim3(static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                    static_cast<unsigned>(b / grid.x / grid.y));
    {
      const Unseen unseen;
      s.shared = static_cast<unsigned char*>(std::malloc(shared_bytes));
      std::memset(s.shared, 0xFF, shared_bytes);
      s.sync_block = static_cast<uint64_t*>(std::malloc((1 + s.threads) * sizeof(uint64_t)));
    }
    if (!counter::begin_block || counter::begin_block(b, s.shared, shared_bytes)) run_block(s);
    if (counter::end_block) counter::end_block();
    const Unseen unseen;
    std::free(s.shared);
    std::free(s.sync_block);
    s.shared = nullptr;
    s.sync_block = nullptr;
    s.rotation = (s.rotation + 1) % s.threads;
  }
  acquire(&s.sync_end);
  if (!s.error.empty()) {
    // Fibers that did not end restart.
    for (Fiber& fiber : s.fibers) fiber.started = false;
    throw std::runtime_error("shim: " + s.error);
  }
}

int barrier(Reduction reduction, int value, Place place) {
  Scheduler& s = scheduler();
  Fiber& self = *s.running;
  self.place = place;
  self.kind = static_cast<int>(reduction);
  self.value = static_cast<uint64_t>(value != 0);
  if (s.done > 0)
    fail("__syncthreads at " + describe(place) + " after " + std::to_string(s.done) + " threads returned");
  release(s.sync_block);
  self.state = State::kAtBarrier;
  ++s.waiting;
  if (s.waiting < s.threads) {
    leave_fiber();
  } else {
    uint64_t sum = 0;
    for (unsigned t = 0; t < s.threads; ++t) sum += fiber_of(s, t).value;
    for (unsigned t = 0; t < s.threads; ++t) {
      Fiber& fiber = fiber_of(s, t);
      if (fiber.kind != self.kind || !same(fiber.place, place)) {
        fail("divergent barriers: " + describe(place) + " and " + describe(fiber.place));
      }
      fiber.state = State::kReady;
      fiber.result = reduction == Reduction::kCount ? sum : reduction == Reduction::kAnd ? sum == s.threads : sum > 0;
    }
    s.waiting = 0;
    if (counter::barrier) counter::barrier();
    // The last lane to arrive does not continue at once: the next round chooses the fiber to run.
    leave_fiber();
  }
  acquire(s.sync_block);
  return static_cast<int>(self.result);
}

uint64_t exchange(Exchange kind, unsigned mask, uint64_t value, int operand, int width, Place place) {
  Scheduler& s = scheduler();
  Fiber& self = *s.running;
  const unsigned lane = self.thread % 32, first = self.thread - lane;
  const auto refuse = [&](const std::string& why) {
    fail(std::string(name_of(kind)) + " at " + describe(place) + ": " + why);
  };
  if ((mask >> lane & 1) == 0) refuse("lane " + std::to_string(lane) + " is not in its own mask");
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) refuse("width " + std::to_string(width));
  self.place = place;
  self.kind = static_cast<int>(kind);
  self.mask = mask;
  self.value = value;
  self.operand = operand;
  self.width = width;
  const unsigned lanes = std::min(32u, s.threads - first);
  if (lanes < 32 && mask >> lanes != 0) refuse("the block has no lane " + std::to_string(lanes));
  // Lanes of disjoint masks stay unordered.
  uint64_t* sync = &s.sync_block[1 + first + static_cast<unsigned>(__builtin_ctz(mask))];
  if (kind == Exchange::kSync) release(sync);
  self.state = State::kInExchange;
  Warp& warp = s.warps[first / 32];
  if ((warp.done & mask) != 0) {
    refuse("lane " + std::to_string(__builtin_ctz(warp.done & mask)) + " of the mask has returned");
  }
  if ((warp.waiting & mask) != 0) {
    const unsigned l = static_cast<unsigned>(__builtin_ctz(warp.waiting & mask));
    const Fiber& other = fiber_of(s, first + l);
    if (other.kind != self.kind || other.mask != mask || !same(other.place, place)) {
      refuse("lane " + std::to_string(l) + " of the mask is in " + name_of(static_cast<Exchange>(other.kind)) + " at " +
             describe(other.place) + " or has another mask");
    }
  }
  warp.waiting |= 1u << lane;
  if ((warp.waiting & mask) == mask) {
    warp.waiting &= ~mask;
    unsigned ballot = 0;
    for (unsigned l = 0; l < 32; ++l) {
      if (mask >> l & 1) ballot |= static_cast<unsigned>(fiber_of(s, first + l).value & 1) << l;
    }
    for (unsigned l = 0; l < 32; ++l) {
      if ((mask >> l & 1) == 0) continue;
      Fiber& fiber = fiber_of(s, first + l);
      const int w = fiber.width, begin = static_cast<int>(l) / w * w, end = begin + w, here = static_cast<int>(l);
      int from = here;
      if (kind == Exchange::kIndex) from = begin + (fiber.operand & (w - 1));
      if (kind == Exchange::kUp && here - fiber.operand >= begin) from = here - fiber.operand;
      if (kind == Exchange::kDown && here + fiber.operand < end) from = here + fiber.operand;
      if (kind == Exchange::kXor && (here ^ fiber.operand) < end) from = here ^ fiber.operand;
      if ((mask >> from & 1) == 0) refuse("lane " + std::to_string(here) + " reads from a lane outside the mask");
      fiber.result = fiber_of(s, first + static_cast<unsigned>(from)).value;
      if (kind == Exchange::kBallot) fiber.result = ballot;
      if (kind == Exchange::kAny) fiber.result = ballot != 0;
      if (kind == Exchange::kAll) fiber.result = ballot == mask;
      fiber.state = State::kReady;
    }
    if (counter::met) counter::met(first / 32, mask, meeting_of(kind));
  }
  leave_fiber();
  if (kind == Exchange::kSync) acquire(sync);
  return self.result;
}

void counter::pause() { leave_fiber(); }

}  // namespace shim

extern "C" cudaError_t cudaGetLastError() { return std::exchange(shim::scheduler().last_error, cudaSuccess); }

// For tests: the launch of that number fails, counted from 0 from now on; none if it is negative.
extern "C" void shim_fail_launch(int64_t number) {
  shim::scheduler().launches = 0;
  shim::scheduler().failing_launch = number;
}
// The number of launches since then, the failed one included.
extern "C" int64_t shim_launches() { return shim::scheduler().launches; }
