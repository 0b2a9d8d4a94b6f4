// Gradient by the boxes on the CPU: threading and registration. The loops are in box_gradient_body.h; given winners,
// in winners.h.
#include <torch/library.h>

#include <ATen/ops/zeros.h>

#include "call.h"
#include "rotated.h"
#include "winners.h"

namespace roialign_ext {
namespace {

// Tables of all boxes, of one of the products whose sum is the gradient. Without a direction: the table of one axis as
// it is, with the other's derivatives by its edges. Along v either factor may be differentiated once more.
enum class Product { kValueByEdges, kDirectionByEdges, kValueByEdgesAlong };

template <class W, class T>
EdgePlan<W> make_edge_plan(const BoxParams<T>& params, Product product, const T* v) {
  EdgePlan<W> plan;
  TableBuilder<W, 1> other;
  TableBuilder<W, 2> edges;
  const auto append_other = [&](auto& table, const BoxAxis<T>& axis, const EdgeRates<T>& rates) {
    if (product == Product::kDirectionByEdges) {
      other.append(table, axis, TableDerivative<T, 1, 1>{{rates}, {}});
    } else {
      other.append(table, axis, TableValue<T>{});
    }
  };
  const auto append_edges = [&](auto& table, const BoxAxis<T>& axis, const EdgeRates<T>& rates) {
    if (product == Product::kValueByEdgesAlong) {
      edges.append(table, axis, by_edges_along(rates));
    } else {
      edges.append(table, axis, by_edges<T>());
    }
  };
  for (int64_t k = 0; k < params.boxes; ++k) {
    const BoxAxis<T> y = params.y_axis(k), x = params.x_axis(k);
    const EdgeRates<T> y_rates = v == nullptr ? EdgeRates<T>{} : params.y_rates(v, k);
    const EdgeRates<T> x_rates = v == nullptr ? EdgeRates<T>{} : params.x_rates(v, k);
    append_other(plan.y, y, y_rates);
    append_other(plan.x, x, x_rates);
    append_edges(plan.y_edges, y, y_rates);
    append_edges(plan.x_edges, x, x_rates);
  }
  return plan;
}

// Adds one product to rows[k][1..4].
template <class W, class T>
void add_box_gradient(const BoxParams<T>& params, const EdgePlan<W>& plan, const Input& grad,
                      const Pyramid<Input>& maps, T* rows) {
  const Kernels<W> kernels = select_kernels<W>();
  const ChannelBlocks blocks = summed_blocks(kernels.lanes, grad.channels);
  std::vector<W> partial(static_cast<size_t>(params.boxes * blocks.count * 4));
  const BoxGradientJob<W> job = {maps, grad, &plan, params.plane_of_box.data(), blocks, partial.data()};
  run_units(params.boxes * blocks.count, static_cast<double>(grad.elements()),
            [&](int64_t begin, int64_t end) { kernels.grad_boxes(job, begin, end); });
  for (int64_t k = 0; k < params.boxes; ++k) {
    for (int64_t i = 0; i < blocks.count * 4; ++i) {
      rows[5 * k + 1 + i % 4] += static_cast<T>(partial[static_cast<size_t>(k * blocks.count * 4 + i)]);
    }
  }
}

Tensor pool_grad_boxes_cpu(const Tensor& grad, at::TensorList input, const Tensor& boxes, const OptionalTensor& v,
                           const OptionalTensor& winners, at::ArrayRef<double> scales, at::ArrayRef<double> canonical,
                           int64_t sampling_ratio, std::string_view rule_name) {
  const RuleArgs rule = {scales, canonical, sampling_ratio, rule_name};
  check_pool_grad_boxes_args(grad, input, boxes, v, winners, rule);
  const BoxCall call = make_box_call(input[0].scalar_type(), sizes_of(input), boxes, v, {}, rule);
  const Tensor grad_rows = at::zeros(call.rows.sizes(), call.rows.options());
  if (grad.numel() == 0) return grad_rows.to(boxes.scalar_type());
  dispatch_types(input[0].scalar_type(), call.coordinates, [&](auto arithmetic, auto coordinate) {
    using W = decltype(arithmetic);
    using T = decltype(coordinate);
    const BoxParams<T> params = call.params<T>(grad.size(2), grad.size(3));
    const std::vector<const T*> directions = call.direction_pointers<T>();
    const Pyramid<Input> maps = input_pyramid(input);
    const Input bins = input_view(grad);
    T* rows = grad_rows.mutable_data_ptr<T>();
    if (winners.has_value()) {
      return box_gradient_winners<W>(params, directions, winners_view(*winners), bins, maps, rows);
    }
    if (is_rotated(call.rule)) return box_gradient_rotated<W>(params, directions, bins, maps, rows);
    const auto add = [&](Product product) {
      const T* along = directions.empty() ? nullptr : directions[0];
      add_box_gradient(params, make_edge_plan<W>(params, product, along), bins, maps, rows);
    };
    if (directions.empty()) return add(Product::kValueByEdges);
    add(Product::kDirectionByEdges);
    if (is_integral(call.rule)) add(Product::kValueByEdgesAlong);
  });
  return grad_rows.to(boxes.scalar_type());
}

TORCH_LIBRARY_IMPL(roialign_ext, CPU, m) { m.impl("_pool_grad_boxes", pool_grad_boxes_cpu); }

}  // namespace
}  // namespace roialign_ext
