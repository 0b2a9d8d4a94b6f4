// Pooling with a fixed argmax, and its derivatives along box directions.
#include "argmax.cuh"

namespace roialign_ext::cuda {
namespace {

// A thread has one output (WorkPlan).
template <class S>
__global__ void __launch_bounds__(kThreads)
    argmax_pool(const __grid_constant__ CallArgs args, const __grid_constant__ Samples<typename Access<S>::W> samples,
                const WorkPlan plan) {
  using W = typename Access<S>::W;
  const Work work = work_of(plan, int64_t(blockIdx.x) * kThreads + threadIdx.x, 1, args.channels);
  if (work.channels.count <= 0) return;
  const Bin bin = bin_of(args, work.place);
  const int64_t channel = work.channels.first;
  const int plane = samples.plane_of_box[bin.box];
  W value = plane < 0 ? W(NAN) : W(0);
  if (plane >= 0) {
    const ArgmaxSample<W> sample = argmax_sample(args, samples, bin, channel);
    if (sample.found) {
      value = apply<S>(stencil_of(args, bin.box, sample), args.maps[plane / args.images].pixels,
                       offset_of(args, plane, channel, sample));
    }
  }
  const View<void>& bins = args.bins;
  Access<S>::store(bins.data, bins.offset(bin.box, channel, bin.p, bin.q), value);
}

}  // namespace

void enqueue_argmax_pool(const CallArgs& args, Scratch& scratch, Launcher& launcher) {
  with_storage(args.storage, [&](auto element) {
    using S = decltype(element);
    const auto samples = take_samples<typename Access<S>::W>(args, /*bins_of_pixel=*/false, scratch);
    if (scratch.counts_only()) return;
    build_samples(args, samples, BoxesByPlane{}, launcher);
    const WorkPlan plan = make_work_plan(args, args.boxes * args.bins_y * args.bins_x, 1);
    launcher.launch("argmax_pool", argmax_pool<S>, blocks_for(plan.threads()), kThreads, 0, args, samples, plan);
  });
}

}  // namespace roialign_ext::cuda
