#include "max_pool.h"

#include <algorithm>

#include "schedule.h"

namespace roialign_ext {

template <class W, class T>
void max_pool(const CallArgs<T>& args, const Pyramid<ConstView>& maps, const MutableView& values,
              const ArgmaxView<int32_t>& argmax) {
  const MaxPlan<W> plan = make_max_plan<W>(args);
  const BoxesByPlane by_plane = group_by_plane(args.plane_of_box, args.planes());
  const Kernels<W> kernels = select_kernels<W>();
  const double elements = static_cast<double>(maps.elements() + values.elements());
  const ChannelBlocks blocks = choose_blocks(kernels.lanes, values.channels, maps.planes());
  const int64_t parts = parts_of_plane(blocks, maps.planes(), elements);
  MaxPoolJob<W> job = {maps, values, argmax, &plan, split_planes(by_plane, parts), blocks};
  // A sweep keeps the running maxima of several boxes, so those of one box have to be small.
  const bool sweeps = stays_in_cache<W>(job.values, blocks);
  for (PlanePart& part : job.parts) {
    const ConstView& map = maps.map(part.plane);
    if (stays_in_cache<W>(map, blocks)) continue;
    const auto swept = std::stable_partition(part.boxes.begin(), part.boxes.end(), [&](int64_t k) {
      return sweeps && plan.touches_map(k) && plan.descends(k);
    });
    part.sweep = make_plane_sweep(plan, {part.boxes.begin(), swept}, map.height);
    part.boxes.erase(part.boxes.begin(), swept);
  }
  run_units(static_cast<int64_t>(job.parts.size()) * blocks.count, elements,
            [&](int64_t begin, int64_t end) { kernels.max_pool_units(job, begin, end); });
}

template void max_pool<float, float>(const CallArgs<float>&, const Pyramid<ConstView>&, const MutableView&,
                                     const ArgmaxView<int32_t>&);
template void max_pool<float, double>(const CallArgs<double>&, const Pyramid<ConstView>&, const MutableView&,
                                      const ArgmaxView<int32_t>&);
template void max_pool<double, double>(const CallArgs<double>&, const Pyramid<ConstView>&, const MutableView&,
                                       const ArgmaxView<int32_t>&);

}  // namespace roialign_ext
