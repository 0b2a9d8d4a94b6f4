// Average pooling of rotated boxes, and its derivatives along box directions.
#include "rotated_boxes.cuh"
#include "work.cuh"

namespace roialign_ext::cuda {
namespace {

// A thread has one bin of one box and up to kRotatedChannels channels (WorkPlan).
template <class S, class T, int ORDER>
__global__ void __launch_bounds__(kThreads, kRotatedBlocks)
    rotated_pool(const __grid_constant__ CallArgs args, const RotatedBoxes<T> boxes, const WorkPlan plan) {
  using W = typename Access<S>::W;
  const Work work = work_of(plan, int64_t(blockIdx.x) * kThreads + threadIdx.x, kRotatedChannels, args.channels);
  const Channels& channels = work.channels;
  if (channels.count <= 0) return;
  const Access<S> access(args.storage);
  const Bin bin = bin_of(args, work.place);
  const int plane = boxes.plane_of_box[bin.box];
  W sums[kRotatedChannels];
#pragma unroll
  for (int c = 0; c < kRotatedChannels; ++c) sums[c] = plane < 0 ? W(NAN) : W(0);
  if (plane >= 0) {
    const int images = static_cast<int>(args.images), level = plane / images;
    const View<void>& pixels = args.maps[level].pixels;
    const int64_t base = (plane - level * images) * pixels.stride_n + channels.first * pixels.stride_c;
    const int64_t step = channels.step * pixels.stride_c;
    const RotatedBox<T> box = boxes.boxes[bin.box];
    for_each_rotated_tap<W>(box, turn_back(window_of_map(box), box), bin.p, bin.q,
                            derivative_of<ORDER, T>(args, bin.box), [&](int64_t y, int64_t x, const W* weight) {
                              const int64_t at = base + y * pixels.stride_y + x * pixels.stride_x;
#pragma unroll
                              for (int c = 0; c < kRotatedChannels; ++c) {
                                if (c < channels.count) sums[c] += *weight * access.load(pixels.data, at + c * step);
                              }
                            });
  }
  const View<void>& bins = args.bins;
  const int64_t at = bins.offset(bin.box, channels.first, bin.p, bin.q);
#pragma unroll
  for (int c = 0; c < kRotatedChannels; ++c) {
    if (c < channels.count) access.store(bins.data, at + c * channels.step * bins.stride_c, sums[c]);
  }
}

}  // namespace

void enqueue_rotated_pool(const CallArgs& args, Scratch& scratch, Launcher& launcher) {
  with_rotated_types(args, [&](auto element, auto coordinate) {
    using S = decltype(element);
    using T = decltype(coordinate);
    const auto boxes = take_rotated_boxes<T>(args, scratch);
    if (scratch.counts_only()) return;
    build_rotated_boxes(args, boxes, BoxesByPlane{}, launcher);
    const WorkPlan plan = make_work_plan(args, args.boxes * args.bins_y * args.bins_x, kRotatedChannels);
    with_order(args, [&](auto order) {
      launcher.launch("rotated_pool", rotated_pool<S, T, order.value>, blocks_for(plan.threads()), kThreads, 0, args,
                      boxes, plan);
    });
  });
}

}  // namespace roialign_ext::cuda
