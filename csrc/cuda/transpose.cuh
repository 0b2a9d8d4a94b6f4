// Tensors [N, C, H, W] of any strides copied so that channels are contiguous: kernels whose lanes are channels read the
// copy where the tensor itself would take one sector of memory for each lane.
#pragma once

#include "tables.cuh"

namespace roialign_ext::cuda {

struct Sizes {
  int64_t n, c, h, w;
};

// Scratch memory for such a copy [N, H, W, C], and its strides. Pixels begin at multiples of 16 bytes: up to 15 bytes
// behind the channels of a pixel have no meaning, but may be read.
Elements<void> take_channels_last(Storage storage, const Sizes& sizes, Scratch& scratch);

void build_channels_last(Storage storage, const Sizes& sizes, const Elements<void>& source, const Elements<void>& copy,
                         Launcher& launcher);

}  // namespace roialign_ext::cuda
