// Maximum pooling of the interpolated samples on the CPU: threading and registration. The loops are in max_body.h.
#include <torch/library.h>

#include <ATen/ops/empty.h>

#include "call.h"

namespace roialign_ext {
namespace {

std::tuple<Tensor, Tensor> pool_max_cpu(const Tensor& input, const Tensor& boxes, at::IntArrayRef output_size,
                                        double spatial_scale, int64_t sampling_ratio, std::string_view rule) {
  check_pool_args(input, boxes, {}, {}, {}, output_size, spatial_scale, rule);
  const BoxCall call = make_box_call(input, input.size(0), boxes, {}, {}, spatial_scale, sampling_ratio, rule);
  const auto options = input.options().memory_format(input.suggest_memory_format());
  const Tensor values = at::empty({boxes.size(0), input.size(1), output_size[0], output_size[1]}, options);
  const Tensor winners = at::empty(values.sizes(), options.dtype(at::kInt));
  if (values.numel() == 0) return {values, winners};
  dispatch_types(input.scalar_type(), call.coordinates, [&](auto storage, auto coordinate) {
    using S = decltype(storage);
    using T = decltype(coordinate);
    const BoxParams<T> params = call.params<T>(values.sizes(), input.sizes());
    const auto plan = make_sample_plan<arithmetic_t<S>>(params);
    const int64_t samples_y = plan.y.max_samples_per_bin(), samples_x = plan.x.max_samples_per_bin();
    TORCH_CHECK_VALUE(samples_y == 0 || samples_x <= INT32_MAX / samples_y,
                      "mode 'max': at most 2^31 - 1 samples of one bin may fall on the map, got ", samples_y, " x ",
                      samples_x);
    const std::vector<int64_t> images = image_of_box(params);
    const Kernels<S> kernels = select_kernels<S>();
    const ChannelBlocks blocks = choose_blocks(kernels, input.size(1), params.boxes);
    const MaxJob<S> job = {
        const_view_of<S>(input), view_of<S>(values), view_of<int32_t>(winners), &plan, images.data(), blocks};
    run_units(params.boxes * blocks.count, static_cast<double>(values.numel()),
              [&](int64_t begin, int64_t end) { kernels.max(job, begin, end); });
  });
  return {values, winners};
}

TORCH_LIBRARY_IMPL(roialign_ext, CPU, m) { m.impl("_pool_max", pool_max_cpu); }

}  // namespace
}  // namespace roialign_ext
