// Gradient by the boxes on the CPU: threading and registration. The loops are in box_gradient_body.h; given winners,
// in winners.cpp.
#include <torch/library.h>

#include <ATen/ops/zeros.h>

#include "call.h"
#include "winners.h"

namespace roialign_ext {
namespace {

// Tables of all boxes. Without a direction the table of the other axis is its values; along v it is its derivative,
// which turns the gradient of the form into the gradient of its derivative along v.
template <class W, class T>
EdgePlan<W> make_edge_plan(const BoxParams<T>& params, const std::vector<const T*>& directions) {
  EdgePlan<W> plan;
  TableBuilder<W, 1> other;
  TableBuilder<W, 2> edges;
  for (int64_t k = 0; k < params.boxes; ++k) {
    const BoxAxis<T> y = params.y_axis(k), x = params.x_axis(k);
    if (directions.empty()) {
      other.append(plan.y, y, ValueWeights());
      other.append(plan.x, x, ValueWeights());
    } else {
      other.append(plan.y, y, direction_of_edges(directions[0], k, 2));
      other.append(plan.x, x, direction_of_edges(directions[0], k, 1));
    }
    edges.append(plan.y_edges, y, EdgeWeights());
    edges.append(plan.x_edges, x, EdgeWeights());
  }
  return plan;
}

// The sum over channels must not depend on the number of threads, so the width of a block is fixed.
template <class S>
ChannelBlocks summed_blocks(const Kernels<S>& kernels, int64_t channels) {
  const int64_t width = channels > kernels.lanes ? kernels.lanes * kWideBlock : kernels.lanes;
  return {width, (channels + width - 1) / width};
}

Tensor pool_grad_boxes_cpu(const Tensor& grad, const Tensor& input, const Tensor& boxes, const OptionalTensor& v,
                           const OptionalTensor& winners, double spatial_scale, int64_t sampling_ratio,
                           std::string_view rule) {
  check_pool_grad_boxes_args(grad, input, boxes, v, winners, spatial_scale, rule);
  const BoxCall call = make_box_call(input, input.size(0), boxes, v, {}, spatial_scale, sampling_ratio, rule);
  const Tensor grad_rows = at::zeros(call.rows.sizes(), call.rows.options());
  if (grad.numel() == 0) return grad_rows.to(boxes.scalar_type());
  dispatch_types(input.scalar_type(), call.coordinates, [&](auto storage, auto coordinate) {
    using S = decltype(storage);
    using T = decltype(coordinate);
    using W = arithmetic_t<S>;
    const BoxParams<T> params = call.params<T>(grad.sizes(), input.sizes());
    T* rows = grad_rows.mutable_data_ptr<T>();
    if (winners.has_value()) {
      box_gradient_winners<S>(params, call.direction_pointers<T>(), const_view_of<int32_t>(*winners),
                              const_view_of<S>(grad), const_view_of<S>(input), rows);
      return;
    }
    const auto plan = make_edge_plan<W>(params, call.direction_pointers<T>());
    const std::vector<int64_t> images = image_of_box(params);
    const Kernels<S> kernels = select_kernels<S>();
    const ChannelBlocks blocks = summed_blocks(kernels, input.size(1));
    std::vector<W> partial(static_cast<size_t>(params.boxes * blocks.count * 4));
    const BoxGradientJob<S> job = {const_view_of<S>(input), const_view_of<S>(grad), &plan, images.data(), blocks,
                                   partial.data()};
    run_units(params.boxes * blocks.count, static_cast<double>(grad.numel()),
              [&](int64_t begin, int64_t end) { kernels.grad_boxes(job, begin, end); });
    for (int64_t k = 0; k < params.boxes; ++k) {
      for (int64_t i = 0; i < blocks.count * 4; ++i) {
        rows[5 * k + 1 + i % 4] += static_cast<T>(partial[static_cast<size_t>(k * blocks.count * 4 + i)]);
      }
    }
  });
  return grad_rows.to(boxes.scalar_type());
}

TORCH_LIBRARY_IMPL(roialign_ext, CPU, m) { m.impl("_pool_grad_boxes", pool_grad_boxes_cpu); }

}  // namespace
}  // namespace roialign_ext
