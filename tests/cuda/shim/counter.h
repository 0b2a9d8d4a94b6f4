// What the scheduler and the launches tell the counter (counter.cpp), which is part of counted builds alone: elsewhere
// these functions are absent.
#pragma once

#include <cstdint>

struct dim3;
namespace roialign_ext::cuda {
struct CallArgs;
}

namespace shim::counter {

#define IF_COUNTED __attribute__((weak))

// A call is enqueued twice: once to learn what it launches, where begin_plan() says so, and then to run it.
IF_COUNTED bool begin_plan();
IF_COUNTED void end_plan();

// The maps and the bins of a launch are its features.
template <class T>
void argument(const T&) {}
IF_COUNTED void argument(const roialign_ext::cuda::CallArgs& args);

// Whether the launch is to be run; whether this block of it is.
IF_COUNTED bool begin_launch(const void* kernel, const dim3& grid, const dim3& block);
IF_COUNTED bool begin_block(uint64_t block, const unsigned char* shared, uint64_t shared_bytes);
IF_COUNTED void enter_thread(unsigned thread, const char* stack, uint64_t stack_bytes);
// The running thread lets the others of its block run; every thread of the block has run as far as it could.
void pause();
IF_COUNTED void end_round();
// All threads of the block are at a barrier; the lanes of `mask` met, for memory, for a vote or for a shuffle.
IF_COUNTED void barrier();
enum class Meeting { kSync, kVote, kShuffle };
IF_COUNTED void met(unsigned warp, unsigned mask, Meeting meeting);
IF_COUNTED void end_block();

#undef IF_COUNTED

}  // namespace shim::counter
