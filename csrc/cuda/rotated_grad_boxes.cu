// Gradient of average pooling w.r.t. rotated boxes.
#include "rotated_boxes.cuh"
#include "work.cuh"

namespace roialign_ext::cuda {
namespace {

// A block has one box; threads share the bins and channels (WorkPlan). See average_grad_boxes.cu. ORDER 1 is the
// gradient of <G, A F>, ORDER 2 the gradient of its derivative along a direction.
template <class S, class T, int ORDER>
__global__ void __launch_bounds__(kThreads, kRotatedBlocks)
    rotated_grad_boxes(const __grid_constant__ CallArgs args, const RotatedBoxes<T> boxes, const WorkPlan plan) {
  using W = typename Access<S>::W;
  constexpr int M = kRotatedParameters;
  ROI_SHARED_BYTES(shared);
  const int64_t k = blockIdx.x;
  const int plane = boxes.plane_of_box[k];
  const Access<S> access(args.storage);
  const T unit[M][M] = {{1, 0, 0, 0, 0}, {0, 1, 0, 0, 0}, {0, 0, 1, 0, 0}, {0, 0, 0, 1, 0}, {0, 0, 0, 0, 1}};
  PointDerivative<T, M, ORDER> derivative = {};
  for (int m = 0; m < M; ++m) {
    derivative.first[m] = unit[m];
    if constexpr (ORDER > 1) derivative.second[m] = direction_of<T>(args, 0, k);
  }
  W grad_parameters[M] = {};
  const int images = static_cast<int>(args.images), level = plane < 0 ? 0 : plane / images;
  const View<void>& pixels = args.maps[level].pixels;
  const int64_t at_image = (plane - level * images) * pixels.stride_n;
  const int64_t threads = plane < 0 ? 0 : plan.threads();
  for (int64_t thread = threadIdx.x; thread < threads; thread += kThreads) {
    const Work work = work_of(plan, thread, kRotatedChannels, args.channels);
    const Channels& channels = work.channels;
    const Bin bin = bin_of(args, work.place);
    const View<void>& bins = args.bins;
    const int64_t at_bin = bins.offset(k, channels.first, bin.p, bin.q);
    const int64_t at_map = at_image + channels.first * pixels.stride_c;
    const int64_t step = channels.step * pixels.stride_c;
    W grad[kRotatedChannels];
#pragma unroll
    for (int c = 0; c < kRotatedChannels; ++c) {
      grad[c] = c < channels.count ? access.load(bins.data, at_bin + c * channels.step * bins.stride_c) : W(0);
    }
    const RotatedBox<T> box = boxes.boxes[k];
    for_each_rotated_tap<W>(box, turn_back(window_of_map(box), box), bin.p, bin.q, derivative,
                            [&](int64_t y, int64_t x, const W* weight) {
                              const int64_t at = at_map + y * pixels.stride_y + x * pixels.stride_x;
                              W product = W(0);
#pragma unroll
                              for (int c = 0; c < kRotatedChannels; ++c) {
                                if (c < channels.count) product += grad[c] * access.load(pixels.data, at + c * step);
                              }
                              for (int m = 0; m < M; ++m) grad_parameters[m] += weight[m] * product;
                            });
  }
  const W sum = sum_over_block(grad_parameters, reinterpret_cast<W*>(shared));
  store_grad_boxes<M>(args, k, sum);
}

}  // namespace

void enqueue_rotated_grad_boxes(const CallArgs& args, Scratch& scratch, Launcher& launcher) {
  with_rotated_types(args, [&](auto element, auto coordinate) {
    using S = decltype(element);
    using T = decltype(coordinate);
    const auto boxes = take_rotated_boxes<T>(args, scratch);
    if (scratch.counts_only()) return;
    build_rotated_boxes(args, boxes, BoxesByPlane{}, launcher);
    const WorkPlan plan = make_work_plan(args, args.bins_y * args.bins_x, kRotatedChannels);
    const size_t shared_bytes = kWarps * kRotatedParameters * sizeof(typename Access<S>::W);
    const auto kernel = args.direction_count == 0 ? rotated_grad_boxes<S, T, 1> : rotated_grad_boxes<S, T, 2>;
    launcher.launch("rotated_grad_boxes", kernel, args.boxes, kThreads, shared_bytes, args, boxes, plan);
  });
}

}  // namespace roialign_ext::cuda
