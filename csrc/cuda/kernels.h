// The families of kernels. Each function enqueues one operation, or without scratch memory only counts its bytes.
#pragma once

#include "tables.cuh"

namespace roialign_ext::cuda {

void pool_average(const CallArgs& args, Scratch& scratch, cudaStream_t stream);
void spread_average(const CallArgs& args, Scratch& scratch, cudaStream_t stream);
void average_box_gradient(const CallArgs& args, Scratch& scratch, cudaStream_t stream);

void pool_maximum(const CallArgs& args, Scratch& scratch, cudaStream_t stream);
void pool_winners(const CallArgs& args, Scratch& scratch, cudaStream_t stream);
void spread_winners(const CallArgs& args, Scratch& scratch, cudaStream_t stream);
void winners_box_gradient(const CallArgs& args, Scratch& scratch, cudaStream_t stream);

void pool_rotated(const CallArgs& args, Scratch& scratch, cudaStream_t stream);
void spread_rotated(const CallArgs& args, Scratch& scratch, cudaStream_t stream);
void rotated_box_gradient(const CallArgs& args, Scratch& scratch, cudaStream_t stream);

}  // namespace roialign_ext::cuda
