// Maximum pooling of the interpolated samples on the CPU: threading and registration. The loops are in max_body.h.
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
    const auto plan = make_sample_plan<W>(params);
    const Kernels<W> kernels = select_kernels<W>();
    const ChannelBlocks blocks = choose_blocks(kernels.lanes, values.size(1), params.boxes);
    const MaxJob<W> job = {input_pyramid(input),          output_view(values),
                           mutable_winners_view(winners), &plan,
                           params.plane_of_box.data(),    blocks};
    run_units(params.boxes * blocks.count, static_cast<double>(values.numel()),
              [&](int64_t begin, int64_t end) { kernels.max(job, begin, end); });
  });
  return {values, winners};
}

TORCH_LIBRARY_IMPL(roialign_ext, CPU, m) { m.impl("_pool_max", pool_max_cpu); }

}  // namespace
}  // namespace roialign_ext
