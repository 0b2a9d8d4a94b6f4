// Maximum pooling of the interpolated samples on the CPU: threading and registration. The loops are in max_body.h.
#include <algorithm>

#include <torch/library.h>

#include "call.h"
#include "results.h"

namespace roialign_ext {
namespace {

std::tuple<Tensor, Tensor> pool_max_cpu(at::TensorList input, const Tensor& boxes, at::IntArrayRef output_size,
                                        at::ArrayRef<double> scales, at::ArrayRef<double> canonical,
                                        int64_t sampling_ratio, std::string_view rule_name) {
  const RuleArgs rule = {scales, canonical, sampling_ratio, rule_name};
  check_pool_max_args(input, boxes, c10::fromIntArrayRefSlow(output_size), rule);
  const BoxCall call = make_box_call(input[0].scalar_type(), sizes_of(input), boxes, {}, {}, rule);
  const auto options = input[0].options().memory_format(input[0].suggest_memory_format());
  const Tensor values = empty_result({boxes.size(0), input[0].size(1), output_size[0], output_size[1]}, options);
  const Tensor winners = empty_result(values.sizes(), options.dtype(at::kInt));
  if (values.numel() == 0) return {values, winners};
  dispatch_types(input[0].scalar_type(), call.coordinates, [&](auto arithmetic, auto coordinate) {
    using W = decltype(arithmetic);
    using T = decltype(coordinate);
    const BoxParams<T> params = call.params<T>(output_size[0], output_size[1]);
    const MaxPlan<W> plan = make_max_plan<W>(params);
    const BoxesByPlane by_plane = group_by_plane(params.plane_of_box, params.planes());
    const Kernels<W> kernels = select_kernels<W>();
    const Pyramid<Input> maps = input_pyramid(input);
    const double elements = static_cast<double>(maps.elements() + values.numel());
    const ChannelBlocks blocks = choose_blocks(kernels.lanes, values.size(1), maps.planes());
    const int64_t parts = parts_of_plane(blocks, maps.planes(), elements);
    MaxJob<W> job = {maps,  output_view(values),           mutable_winners_view(winners),
                     &plan, split_planes(by_plane, parts), blocks};
    // A sweep keeps the bins of several boxes at hand.
    const bool sweeps = stays_in_cache<W>(job.values, blocks);
    for (PlanePart& part : job.parts) {
      const Input& map = maps.map(part.plane);
      if (stays_in_cache<W>(map, blocks)) continue;
      const auto swept = std::stable_partition(part.boxes.begin(), part.boxes.end(), [&](int64_t k) {
        return sweeps && plan.touches_map(k) && plan.descends(k);
      });
      part.sweep = make_plane_sweep(plan, {part.boxes.begin(), swept}, map.height);
      part.boxes.erase(part.boxes.begin(), swept);
    }
    run_units(static_cast<int64_t>(job.parts.size()) * blocks.count, elements,
              [&](int64_t begin, int64_t end) { kernels.max(job, begin, end); });
  });
  return {values, winners};
}

TORCH_LIBRARY_IMPL(roialign_ext, CPU, m) { m.impl("_pool_max", pool_max_cpu); }

}  // namespace
}  // namespace roialign_ext
