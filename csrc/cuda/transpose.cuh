// Copies of tensors [N, C, H, W] of any strides with contiguous channels. Kernels whose lanes are channels read the
// copy: loads from the NCHW tensor would touch one sector per lane.
#pragma once

#include "portable.cuh"
#include "scratch.h"

namespace roialign_ext::cuda {

struct Shape {
  int64_t n, c, h, w;
};

// Scratch memory and strides of such a copy [N, H, W, C]. Pixels are aligned to 16 bytes. The padding after the
// channels of a pixel, up to 15 bytes, may be read.
View<void> take_channels_last(Storage storage, const Shape& shape, Scratch& scratch);

void build_channels_last(Storage storage, const Shape& shape, const View<void>& source, const View<void>& copy,
                         Launcher& launcher);

}  // namespace roialign_ext::cuda
