// Maximum pooling of the interpolated samples on the CPU: threading and registration. The loops are in max_body.h.
#include <algorithm>

#include <torch/library.h>

#include <ATen/ops/empty.h>

#include "call.h"

namespace roialign_ext {
namespace {

std::tuple<Tensor, Tensor> pool_max_cpu(at::TensorList input, const Tensor& boxes, at::IntArrayRef output_size,
                                        at::ArrayRef<double> scales, at::ArrayRef<double> canonical,
                                        int64_t sampling_ratio, std::string_view rule_name) {
  const RuleArgs rule = {scales, canonical, sampling_ratio, rule_name};
  check_pool_max_args(input, boxes, c10::fromIntArrayRefSlow(output_size), rule);
  const BoxCall call = make_box_call(input[0].scalar_type(), sizes_of(input), boxes, {}, {}, rule);
  const auto options = input[0].options().memory_format(input[0].suggest_memory_format());
  const Tensor values = at::empty({boxes.size(0), input[0].size(1), output_size[0], output_size[1]}, options);
  const Tensor winners = at::empty(values.sizes(), options.dtype(at::kInt));
  if (values.numel() == 0) return {values, winners};
  dispatch_types(input[0].scalar_type(), call.coordinates, [&](auto arithmetic, auto coordinate) {
    using W = decltype(arithmetic);
    using T = decltype(coordinate);
    const BoxParams<T> params = call.params<T>(output_size[0], output_size[1]);
    const MaxPlan<W> plan = make_max_plan<W>(params);
    const BoxesByPlane by_plane = group_by_plane(params.plane_of_box, params.planes());
    const Kernels<W> kernels = select_kernels<W>();
    const ChannelBlocks blocks = choose_blocks(kernels.lanes, values.size(1), params.planes());
    MaxJob<W> job = {input_pyramid(input), output_view(values), mutable_winners_view(winners), &plan, {}, {}, blocks};
    job.sweeps.resize(static_cast<size_t>(params.planes()));
    for (int64_t plane = 0; plane < params.planes(); ++plane) {
      const Input& map = job.maps.map(plane);
      std::vector<int64_t> boxes = by_plane.of(plane);
      auto swept = boxes.begin();
      if (!stays_in_cache<W>(map, blocks)) {
        swept = std::stable_partition(boxes.begin(), boxes.end(),
                                      [&](int64_t k) { return plan.touches_map(k) && plan.descends(k); });
        job.sweeps[static_cast<size_t>(plane)] = make_plane_sweep(plan, {boxes.begin(), swept}, map.height);
      }
      job.by_box.emplace_back(swept, boxes.end());
    }
    run_units(params.planes() * blocks.count, static_cast<double>(job.maps.elements() + values.numel()),
              [&](int64_t begin, int64_t end) { kernels.max(job, begin, end); });
  });
  return {values, winners};
}

TORCH_LIBRARY_IMPL(roialign_ext, CPU, m) { m.impl("_pool_max", pool_max_cpu); }

}  // namespace
}  // namespace roialign_ext
