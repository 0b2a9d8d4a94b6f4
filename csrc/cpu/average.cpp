// Average pooling on the CPU, its input gradient, and their derivatives along box directions: threading and
// registration. The loops are in pool_body.h; given winners, in winners.cpp.
#include <torch/library.h>

#include <ATen/ops/empty.h>

#include "call.h"
#include "winners.h"

namespace roialign_ext {
namespace {

// A block of the map up to this size stays in a core's second-level cache while boxes are visited one by one; larger
// maps are swept row by row (docs/design.md has the measurement).
constexpr int64_t kCachedMapBytes = 1 << 20;

// Runs pooling (job.read is the map) or its transpose (job.write is the map) over units (image, channel block).
template <class S, class M, class Kernel>
void run_average(AverageJob<S>& job, const Kernels<S>& kernels, Kernel kernel, const View<M>& map) {
  job.blocks = choose_blocks(kernels, map.channels, map.count);
  const int64_t block_bytes = map.pixels() * job.blocks.width * static_cast<int64_t>(sizeof(arithmetic_t<S>));
  if (job.plan->terms == 1 && block_bytes > kCachedMapBytes) {
    for (int64_t n = 0; n < map.count; ++n) job.sweeps.push_back(make_image_sweep(*job.plan, n, map.height));
  }
  const double elements = static_cast<double>(job.read.elements()) + static_cast<double>(job.write.elements());
  run_units(map.count * job.blocks.count, elements, [&](int64_t begin, int64_t end) { kernel(job, begin, end); });
}

Tensor pool_cpu(const Tensor& input, const Tensor& boxes, const OptionalTensor& u, const OptionalTensor& v,
                const OptionalTensor& winners, at::IntArrayRef output_size, double spatial_scale,
                int64_t sampling_ratio, std::string_view rule) {
  check_pool_args(input, boxes, u, v, winners, output_size, spatial_scale, rule);
  const BoxCall call = make_box_call(input, input.size(0), boxes, u, v, spatial_scale, sampling_ratio, rule);
  const Tensor output = at::empty({boxes.size(0), input.size(1), output_size[0], output_size[1]},
                                  input.options().memory_format(input.suggest_memory_format()));
  if (output.numel() == 0) return output;
  dispatch_types(input.scalar_type(), call.coordinates, [&](auto storage, auto coordinate) {
    using S = decltype(storage);
    using T = decltype(coordinate);
    const BoxParams<T> params = call.params<T>(output.sizes(), input.sizes());
    if (winners.has_value()) {
      pool_winners<S>(params, call.direction_pointers<T>(), const_view_of<int32_t>(*winners), const_view_of<S>(input),
                      view_of<S>(output));
      return;
    }
    const auto plan = make_average_plan<arithmetic_t<S>>(params, call.direction_pointers<T>());
    const Kernels<S> kernels = select_kernels<S>();
    AverageJob<S> job = {const_view_of<S>(input), view_of<S>(output), &plan, {}, {}};
    run_average(job, kernels, kernels.pool, job.read);
  });
  return output;
}

Tensor pool_grad_input_cpu(const Tensor& grad, const Tensor& boxes, const OptionalTensor& u, const OptionalTensor& v,
                           const OptionalTensor& winners, at::IntArrayRef input_size, bool channels_last,
                           double spatial_scale, int64_t sampling_ratio, std::string_view rule) {
  check_pool_grad_input_args(grad, boxes, u, v, winners, input_size, spatial_scale, rule);
  const BoxCall call = make_box_call(grad, input_size[0], boxes, u, v, spatial_scale, sampling_ratio, rule);
  const auto format = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  const Tensor grad_input = at::empty(input_size, grad.options().memory_format(format));
  if (grad_input.numel() == 0) return grad_input;
  dispatch_types(grad.scalar_type(), call.coordinates, [&](auto storage, auto coordinate) {
    using S = decltype(storage);
    using T = decltype(coordinate);
    const BoxParams<T> params = call.params<T>(grad.sizes(), input_size);
    if (winners.has_value()) {
      spread_winners<S>(params, call.direction_pointers<T>(), const_view_of<int32_t>(*winners), const_view_of<S>(grad),
                        view_of<S>(grad_input));
      return;
    }
    const auto plan = make_average_plan<arithmetic_t<S>>(params, call.direction_pointers<T>());
    const Kernels<S> kernels = select_kernels<S>();
    AverageJob<S> job = {const_view_of<S>(grad), view_of<S>(grad_input), &plan, {}, {}};
    run_average(job, kernels, kernels.grad_input, job.write);
  });
  return grad_input;
}

TORCH_LIBRARY_IMPL(roialign_ext, CPU, m) {
  m.impl("_pool", pool_cpu);
  m.impl("_pool_grad_input", pool_grad_input_cpu);
}

}  // namespace
}  // namespace roialign_ext
