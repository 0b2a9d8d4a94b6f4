// The families of kernels. Each function enqueues one operation, or only counts the bytes that it needs (Scratch).
#pragma once

#include "portable.cuh"
#include "scratch.h"

namespace roialign_ext::cuda {

void enqueue_average_pool(const CallArgs& args, Scratch& scratch, Launcher& launcher);
void enqueue_average_grad_input(const CallArgs& args, Scratch& scratch, Launcher& launcher);
void enqueue_average_grad_input_few_channels(const CallArgs& args, Scratch& scratch, Launcher& launcher);
void enqueue_average_grad_boxes(const CallArgs& args, Scratch& scratch, Launcher& launcher);

void enqueue_max_pool(const CallArgs& args, Scratch& scratch, Launcher& launcher);
void enqueue_argmax_pool(const CallArgs& args, Scratch& scratch, Launcher& launcher);
void enqueue_argmax_grad_input(const CallArgs& args, Scratch& scratch, Launcher& launcher);
void enqueue_argmax_grad_boxes(const CallArgs& args, Scratch& scratch, Launcher& launcher);

void enqueue_rotated_pool(const CallArgs& args, Scratch& scratch, Launcher& launcher);
void enqueue_rotated_grad_input(const CallArgs& args, Scratch& scratch, Launcher& launcher);
void enqueue_rotated_grad_boxes(const CallArgs& args, Scratch& scratch, Launcher& launcher);

}  // namespace roialign_ext::cuda
