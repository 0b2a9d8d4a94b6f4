// The families of kernels. Each function enqueues one operation, or without scratch memory only counts its bytes.
#pragma once

#include "tables.cuh"

namespace roialign_ext::cuda {

void pool_average(const CallArgs& args, Scratch& scratch, Launcher& launcher);
void average_grad_input(const CallArgs& args, Scratch& scratch, Launcher& launcher);
void average_grad_input_few_channels(const CallArgs& args, Scratch& scratch, Launcher& launcher);
void average_box_gradient(const CallArgs& args, Scratch& scratch, Launcher& launcher);

void pool_maximum(const CallArgs& args, Scratch& scratch, Launcher& launcher);
void pool_winners(const CallArgs& args, Scratch& scratch, Launcher& launcher);
void spread_winners(const CallArgs& args, Scratch& scratch, Launcher& launcher);
void winners_box_gradient(const CallArgs& args, Scratch& scratch, Launcher& launcher);

void pool_rotated(const CallArgs& args, Scratch& scratch, Launcher& launcher);
void spread_rotated(const CallArgs& args, Scratch& scratch, Launcher& launcher);
void rotated_box_gradient(const CallArgs& args, Scratch& scratch, Launcher& launcher);

}  // namespace roialign_ext::cuda
