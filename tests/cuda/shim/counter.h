// Notifications of the scheduler and of launches to the counter (counter.cpp). Only counted builds have these
// functions.
#pragma once

#include <cstdint>

struct dim3;
namespace roialign_ext::cuda {
struct CallArgs;
}

namespace shim::counter {

#define IF_COUNTED __attribute__((weak))

// A call is enqueued twice: after begin_plan() to record its launches, and then to run them.
IF_COUNTED bool begin_plan();
IF_COUNTED void end_plan();

// The maps and the bins of a launch are its features.
template <class T>
void argument(const T&) {}
IF_COUNTED void argument(const roialign_ext::cuda::CallArgs& args);

// Whether to run the launch; whether to run this block of it.
IF_COUNTED bool begin_launch(const void* kernel, const dim3& grid, const dim3& block);
IF_COUNTED bool begin_block(uint64_t block, const unsigned char* shared, uint64_t shared_bytes);
IF_COUNTED void enter_thread(unsigned thread, const char* stack, uint64_t stack_bytes);
// The running thread yields to the other threads of its block; every thread of the block is blocked or has ended.
void pause();
IF_COUNTED void end_round();
// All threads of the block are at a barrier; the lanes of `mask` met at a __syncwarp, a vote or a shuffle.
IF_COUNTED void barrier();
enum class Meeting { kSync, kVote, kShuffle };
IF_COUNTED void met(unsigned warp, unsigned mask, Meeting meeting);
IF_COUNTED void end_block();

#undef IF_COUNTED

}  // namespace shim::counter
