// The families of kernels. Each function enqueues one operation, or without scratch memory only counts its bytes.
#pragma once

#include "tables.cuh"

namespace roialign_ext::cuda {

void average_pool(const CallArgs& args, Scratch& scratch, Launcher& launcher);
void average_grad_input(const CallArgs& args, Scratch& scratch, Launcher& launcher);
void average_grad_input_few_channels(const CallArgs& args, Scratch& scratch, Launcher& launcher);
void average_grad_boxes(const CallArgs& args, Scratch& scratch, Launcher& launcher);

void max_pool(const CallArgs& args, Scratch& scratch, Launcher& launcher);
void argmax_pool(const CallArgs& args, Scratch& scratch, Launcher& launcher);
void argmax_grad_input(const CallArgs& args, Scratch& scratch, Launcher& launcher);
void argmax_grad_boxes(const CallArgs& args, Scratch& scratch, Launcher& launcher);

void rotated_pool(const CallArgs& args, Scratch& scratch, Launcher& launcher);
void rotated_grad_input(const CallArgs& args, Scratch& scratch, Launcher& launcher);
void rotated_grad_boxes(const CallArgs& args, Scratch& scratch, Launcher& launcher);

}  // namespace roialign_ext::cuda
