// Gradient w.r.t. the boxes of pooling with a fixed argmax, and of its derivative along a direction.
#include "argmax.cuh"

namespace roialign_ext::cuda {
namespace {

// A block has one box; threads share the outputs (WorkPlan). See average_grad_boxes.cu.
template <class S>
__global__ void __launch_bounds__(kThreads)
    argmax_grad_boxes(const __grid_constant__ CallArgs args,
                      const __grid_constant__ Samples<typename Access<S>::W> samples, const WorkPlan plan) {
  using W = typename Access<S>::W;
  ROI_SHARED_BYTES(shared);
  const int64_t box = blockIdx.x;
  const int plane = samples.plane_of_box[box];
  W grad_edges[4] = {};
  const int64_t threads = plane < 0 ? 0 : plan.threads();
  for (int64_t thread = threadIdx.x; thread < threads; thread += kThreads) {
    const Work work = work_of(plan, thread, 1, args.channels);
    const int64_t channel = work.channels.first;
    if (work.channels.count <= 0) continue;
    Bin bin = bin_of(args, work.place);
    bin.box = box;
    const ArgmaxSample<W> sample = argmax_sample(args, samples, bin, channel);
    if (!sample.found) continue;
    TwoTaps<W> y_taps = value_taps(sample.y), x_taps = value_taps(sample.x);
    if (args.direction_count == 1) {
      y_taps = taps_along(sample.y, kLowY, 0, rates_of<W>(args, box));
      x_taps = taps_along(sample.x, kLowX, 0, rates_of<W>(args, box));
    }
    const View<void>&pixels = args.maps[plane / args.images].pixels, &bins = args.bins;
    const int64_t at = offset_of(args, plane, channel, sample);
    const W grad = Access<S>::load(bins.data, bins.offset(box, channel, bin.p, bin.q));
    const auto apply_taps = [&](const TwoTaps<W>& y, const TwoTaps<W>& x) {
      Stencil<W> stencil = {};
      stencil.add_product(y, x);
      return grad * apply<S>(stencil, pixels, at);
    };
    add_grad_edges(sample.y, sample.x, y_taps, x_taps, apply_taps, grad_edges);
  }
  const W sum = sum_over_block(grad_edges, reinterpret_cast<W*>(shared));
  store_grad_boxes<4>(args, box, sum);
}

}  // namespace

void enqueue_argmax_grad_boxes(const CallArgs& args, Scratch& scratch, Launcher& launcher) {
  with_storage(args.storage, [&](auto element) {
    using S = decltype(element);
    using W = typename Access<S>::W;
    const auto samples = take_samples<W>(args, /*bins_of_pixel=*/false, scratch);
    if (scratch.counts_only()) return;
    build_samples(args, samples, BoxesByPlane{}, launcher);
    const WorkPlan plan = make_work_plan(args, args.bins_y * args.bins_x, 1);
    launcher.launch("argmax_grad_boxes", argmax_grad_boxes<S>, args.boxes, kThreads, kWarps * 4 * sizeof(W), args,
                    samples, plan);
  });
}

}  // namespace roialign_ext::cuda
