#include "average.h"

#include "schedule.h"

namespace roialign_ext {
namespace {

// Runs pooling or grad_input over units (part of a plane, channel block).
template <class W, class MapView, class BinsView>
void run_average(Pyramid<MapView> maps, const BinsView& bins, const AveragePlan<W>& plan, int64_t lanes,
                 void (*kernel)(const AverageJob<W, MapView, BinsView>&, int64_t, int64_t)) {
  constexpr bool kWritesMaps = std::is_same_v<MapView, MutableView>;
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

// Tables of all boxes for one term of grad_boxes. `kinds` are its tables (EdgeTable). The two derivatives with respect
// to the edges have one order, so they are built together.
template <class W, class T>
EdgePlan<W> make_edge_plan(const CallArgs<T>& args, const TableKind* kinds, const T* v) {
  EdgePlan<W> plan;
  TableBuilder<W, 1> builder;
  TableBuilder<W, 2> edge_builder;
  const auto append = [&](auto& table, auto& edge_table, const BoxAxis<T>& axis, const EdgeRates<T>& rates) {
    append_table(builder, table, axis, kinds[kKept], &rates);
    if (kinds[kByLowEdge].order == 1) {
      edge_builder.append(edge_table, axis, by_edges<T>());
    } else {
      edge_builder.append(edge_table, axis, by_edges_along(rates));
    }
  };
  for (int64_t k = 0; k < args.boxes; ++k) {
    append(plan.y, plan.y_edges, args.y_axis(k), v == nullptr ? EdgeRates<T>{} : args.y_rates(v, k));
    append(plan.x, plan.x_edges, args.x_axis(k), v == nullptr ? EdgeRates<T>{} : args.x_rates(v, k));
  }
  return plan;
}

// Adds one term to grad_boxes[k][1..4].
template <class W, class T>
void add_term(const CallArgs<T>& args, const EdgePlan<W>& plan, const ConstView& grad, const Pyramid<ConstView>& maps,
              T* grad_boxes) {
  const Kernels<W> kernels = select_kernels<W>();
  const ChannelBlocks blocks = summed_blocks(kernels.lanes, grad.channels);
  std::vector<W> partial(static_cast<size_t>(args.boxes * blocks.count * 4));
  const AverageGradBoxesJob<W> job = {maps, grad, &plan, args.plane_of_box.data(), blocks, partial.data()};
  run_units(args.boxes * blocks.count, static_cast<double>(grad.elements()),
            [&](int64_t begin, int64_t end) { kernels.average_grad_boxes_units(job, begin, end); });
  for (int64_t k = 0; k < args.boxes; ++k) {
    for (int64_t i = 0; i < blocks.count * 4; ++i) {
      grad_boxes[5 * k + 1 + i % 4] += static_cast<T>(partial[static_cast<size_t>(k * blocks.count * 4 + i)]);
    }
  }
}

}  // namespace

template <class W, class T>
void average_pool(const CallArgs<T>& args, const std::vector<const T*>& directions, double extrapolation_value,
                  const Pyramid<ConstView>& maps, const MutableView& output) {
  const Kernels<W> kernels = select_kernels<W>();
  AveragePlan<W> plan = make_average_plan<W>(args, directions);
  if (extrapolation_value != 0) add_extrapolation(plan, args, extrapolation_value);
  run_average(maps, output, plan, kernels.lanes, kernels.average_pool_units);
}

template <class W, class T>
void average_grad_input(const CallArgs<T>& args, const std::vector<const T*>& directions, const ConstView& grad,
                        const Pyramid<MutableView>& grad_input) {
  const Kernels<W> kernels = select_kernels<W>();
  run_average(grad_input, grad, make_average_plan<W>(args, directions), kernels.lanes,
              kernels.average_grad_input_units);
}

template <class W, class T>
void average_grad_boxes(const CallArgs<T>& args, const std::vector<const T*>& directions, const ConstView& grad,
                        const Pyramid<ConstView>& maps, T* grad_boxes) {
  const T* const v = directions.empty() ? nullptr : directions[0];
  const Products products = grad_boxes_products(args.rule, static_cast<int>(directions.size()));
  for (int first = 0; first < products.tables; first += kEdgeTables) {
    add_term(args, make_edge_plan<W>(args, products.kinds + first, v), grad, maps, grad_boxes);
  }
}

#define INSTANTIATE(W, T)                                                                                    \
  template void average_pool<W, T>(const CallArgs<T>&, const std::vector<const T*>&, double,                 \
                                   const Pyramid<ConstView>&, const MutableView&);                           \
  template void average_grad_input<W, T>(const CallArgs<T>&, const std::vector<const T*>&, const ConstView&, \
                                         const Pyramid<MutableView>&);                                       \
  template void average_grad_boxes<W, T>(const CallArgs<T>&, const std::vector<const T*>&, const ConstView&, \
                                         const Pyramid<ConstView>&, T*);
INSTANTIATE(float, float)
INSTANTIATE(float, double)
INSTANTIATE(double, double)

}  // namespace roialign_ext
