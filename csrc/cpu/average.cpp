// Pooling on the CPU, its input gradient, and their derivatives along box directions: registration, and the averages'
// threading. The loops are in pool_body.h; those given winners in winners.h, those over rotated boxes in rotated.cpp.
#include <torch/library.h>

#include "call.h"
#include "results.h"
#include "rotated.h"
#include "winners.h"

namespace roialign_ext {
namespace {

// Runs pooling or its transpose over units (part of a plane, channel block).
template <class W, class MapView, class BinsView>
void run_average(Pyramid<MapView> maps, const BinsView& bins, const AveragePlan<W>& plan, int64_t lanes,
                 void (*kernel)(const AverageJob<W, MapView, BinsView>&, int64_t, int64_t)) {
  constexpr bool kWritesMaps = std::is_same_v<MapView, Output>;
  const int64_t planes = maps.planes();
  const double elements = static_cast<double>(maps.elements() + bins.elements());
  const ChannelBlocks blocks = choose_blocks(lanes, bins.channels, planes);
  const int64_t parts = kWritesMaps ? 1 : parts_of_plane(blocks, planes, elements);
  AverageJob<W, MapView, BinsView> job = {std::move(maps), bins, &plan, split_planes(plan.by_plane, parts), blocks};
  for (PlanePart& part : job.parts) {
    const MapView& map = job.maps.map(part.plane);
    if (plan.terms == 1 && !stays_in_cache<W>(map, blocks)) {
      part.sweep = make_plane_sweep(plan, part.boxes, map.height);
      part.boxes.clear();
    }
  }
  run_units(static_cast<int64_t>(job.parts.size()) * blocks.count, elements,
            [&](int64_t begin, int64_t end) { kernel(job, begin, end); });
}

Tensor pool_cpu(at::TensorList input, const Tensor& boxes, const OptionalTensor& u, const OptionalTensor& v,
                const OptionalTensor& winners, at::IntArrayRef output_size, at::ArrayRef<double> scales,
                at::ArrayRef<double> canonical, int64_t sampling_ratio, std::string_view rule_name,
                double extrapolation_value) {
  const RuleArgs rule = {scales, canonical, sampling_ratio, rule_name};
  check_pool_args(input, boxes, u, v, winners, c10::fromIntArrayRefSlow(output_size), rule, extrapolation_value);
  const BoxCall call = make_box_call(input[0].scalar_type(), sizes_of(input), boxes, u, v, rule);
  const Tensor output = empty_result({boxes.size(0), input[0].size(1), output_size[0], output_size[1]},
                                     input[0].options().memory_format(input[0].suggest_memory_format()));
  if (output.numel() == 0) return output;
  dispatch_types(input[0].scalar_type(), call.coordinates, [&](auto arithmetic, auto coordinate) {
    using W = decltype(arithmetic);
    using T = decltype(coordinate);
    const BoxParams<T> params = call.params<T>(output_size[0], output_size[1]);
    const std::vector<const T*> directions = call.direction_pointers<T>();
    const Pyramid<Input> maps = input_pyramid(input);
    const Output bins = output_view(output);
    if (winners.has_value()) return pool_winners<W>(params, directions, winners_view(*winners), maps, bins);
    if (is_rotated(call.rule)) return pool_rotated<W>(params, directions, maps, bins);
    const Kernels<W> kernels = select_kernels<W>();
    AveragePlan<W> plan = make_average_plan<W>(params, directions);
    if (extrapolation_value != 0) add_extrapolation(plan, params, extrapolation_value);
    run_average(maps, bins, plan, kernels.lanes, kernels.pool);
  });
  return output;
}

std::vector<Tensor> pool_grad_input_cpu(const Tensor& grad, const Tensor& boxes, const OptionalTensor& u,
                                        const OptionalTensor& v, const OptionalTensor& winners,
                                        at::IntArrayRef input_size, bool channels_last, at::ArrayRef<double> scales,
                                        at::ArrayRef<double> canonical, int64_t sampling_ratio,
                                        std::string_view rule_name) {
  const RuleArgs rule = {scales, canonical, sampling_ratio, rule_name};
  check_pool_grad_input_args(grad, boxes, u, v, winners, c10::fromIntArrayRefSlow(input_size), rule);
  const BoxCall call = make_box_call(grad.scalar_type(), input_size, boxes, u, v, rule);
  const auto format = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  std::vector<Tensor> grad_input;
  for (const MapLevel& level : call.levels) {
    grad_input.push_back(
        empty_result({input_size[0], input_size[1], level.height, level.width}, grad.options().memory_format(format)));
  }
  if (input_size[0] * input_size[1] == 0) return grad_input;
  dispatch_types(grad.scalar_type(), call.coordinates, [&](auto arithmetic, auto coordinate) {
    using W = decltype(arithmetic);
    using T = decltype(coordinate);
    const BoxParams<T> params = call.params<T>(grad.size(2), grad.size(3));
    const std::vector<const T*> directions = call.direction_pointers<T>();
    const Pyramid<Output> maps = output_pyramid(grad_input);
    const Input bins = input_view(grad);
    if (winners.has_value()) return spread_winners<W>(params, directions, winners_view(*winners), bins, maps);
    if (is_rotated(call.rule)) return spread_rotated<W>(params, directions, bins, maps);
    const Kernels<W> kernels = select_kernels<W>();
    run_average(maps, bins, make_average_plan<W>(params, directions), kernels.lanes, kernels.grad_input);
  });
  return grad_input;
}

TORCH_LIBRARY_IMPL(roialign_ext, CPU, m) {
  m.impl("_pool", pool_cpu);
  m.impl("_pool_grad_input", pool_grad_input_cpu);
}

}  // namespace
}  // namespace roialign_ext
