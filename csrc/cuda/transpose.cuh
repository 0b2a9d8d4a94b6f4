// Copies of tensors [N, C, H, W] of any strides with contiguous channels. Kernels whose lanes are channels read the
// copy: loads from the NCHW tensor would touch one sector per lane.
#pragma once

#include "portable.cuh"
#include "scratch.h"

namespace roialign_ext::cuda {

struct Sizes {
  int64_t n, c, h, w;
};

// Scratch memory and strides of such a copy [N, H, W, C]. Pixels are aligned to 16 bytes: up to 15 bytes after the
// channels of a pixel are padding, which may be read.
Elements<void> take_channels_last(Storage storage, const Sizes& sizes, Scratch& scratch);

void build_channels_last(Storage storage, const Sizes& sizes, const Elements<void>& source, const Elements<void>& copy,
                         Launcher& launcher);

}  // namespace roialign_ext::cuda
