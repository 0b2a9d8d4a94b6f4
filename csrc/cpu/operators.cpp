// The private operators on the CPU: the memory of the result, and which family of kernels computes it. Equations:
// docs/math.md.
#include "../private_ops.h"
#include "../public_ops.h"
#include "argmax.h"
#include "average.h"
#include "call.h"
#include "max_pool.h"
#include "pages.h"
#include "rotated.h"

namespace roialign_ext {
namespace {

// empty() with its pages supplied.
Tensor empty_result(const Sizes& sizes, ScalarType dtype, const Tensor& like, bool channels_last) {
  Tensor result = empty(sizes, dtype, like, channels_last);
  const int64_t bytes = result.numel() * static_cast<int64_t>(result.element_size());
  if (bytes >= kWorthPopulating) supply_pages(result.mutable_data_ptr(), bytes);
  return result;
}

}  // namespace

Tensor pool(const Tensors& input, const Tensor& boxes, const OptionalTensor& u, const OptionalTensor& v,
            const OptionalTensor& argmax, const Sizes& output_size, const Geometry& geometry,
            double extrapolation_value) {
  const ScalarType dtype = input[0].scalar_type(), coordinates = coordinate_type(input[0], boxes);
  const Call call = make_call(coordinates, sizes_of(input), boxes, u, v, geometry);
  const Tensor output = empty_result({boxes.size(0), input[0].size(1), output_size[0], output_size[1]}, dtype, input[0],
                                     is_channels_last(input[0]));
  if (output.numel() == 0) return output;
  dispatch_types(dtype, coordinates, [&](auto arithmetic, auto coordinate) {
    using W = decltype(arithmetic);
    using T = decltype(coordinate);
    const CallArgs<T> args = call.args<T>(output_size[0], output_size[1]);
    const std::vector<const T*> directions = call.direction_pointers<T>();
    const Pyramid<ConstView> maps = const_pyramid(input);
    const MutableView bins = mutable_view(output);
    if (argmax.has_value()) return argmax_pool<W>(args, directions, const_argmax_view(*argmax), maps, bins);
    if (is_rotated(geometry.rule)) return rotated_pool<W>(args, directions, maps, bins);
    average_pool<W>(args, directions, extrapolation_value, maps, bins);
  });
  return output;
}

std::tuple<Tensor, Tensor> max_pool(const Tensors& input, const Tensor& boxes, const Sizes& output_size,
                                    const Geometry& geometry) {
  const ScalarType dtype = input[0].scalar_type(), coordinates = coordinate_type(input[0], boxes);
  const Call call = make_call(coordinates, sizes_of(input), boxes, {}, {}, geometry);
  const Sizes sizes = {boxes.size(0), input[0].size(1), output_size[0], output_size[1]};
  const bool channels_last = is_channels_last(input[0]);
  const Tensor values = empty_result(sizes, dtype, input[0], channels_last);
  const Tensor argmax = empty_result(sizes, ScalarType::Int, input[0], channels_last);
  if (values.numel() == 0) return {values, argmax};
  dispatch_types(dtype, coordinates, [&](auto arithmetic, auto coordinate) {
    using W = decltype(arithmetic);
    using T = decltype(coordinate);
    max_pool<W>(call.args<T>(output_size[0], output_size[1]), const_pyramid(input), mutable_view(values),
                mutable_argmax_view(argmax));
  });
  return {values, argmax};
}

Tensors pool_grad_input(const Tensor& grad, const Tensor& boxes, const OptionalTensor& u, const OptionalTensor& v,
                        const OptionalTensor& argmax, const Sizes& input_size, bool channels_last,
                        const Geometry& geometry) {
  const ScalarType dtype = grad.scalar_type(), coordinates = coordinate_type(grad, boxes);
  const Call call = make_call(coordinates, input_size, boxes, u, v, geometry);
  Tensors grad_input;
  for (const MapLevel& level : call.levels) {
    grad_input.push_back(
        empty_result({input_size[0], input_size[1], level.height, level.width}, dtype, grad, channels_last));
  }
  dispatch_types(dtype, coordinates, [&](auto arithmetic, auto coordinate) {
    using W = decltype(arithmetic);
    using T = decltype(coordinate);
    const CallArgs<T> args = call.args<T>(grad.size(2), grad.size(3));
    const std::vector<const T*> directions = call.direction_pointers<T>();
    const Pyramid<MutableView> maps = mutable_pyramid(grad_input);
    const ConstView bins = const_view(grad);
    if (argmax.has_value()) return argmax_grad_input<W>(args, directions, const_argmax_view(*argmax), bins, maps);
    if (is_rotated(geometry.rule)) return rotated_grad_input<W>(args, directions, bins, maps);
    average_grad_input<W>(args, directions, bins, maps);
  });
  return grad_input;
}

Tensor pool_grad_boxes(const Tensor& grad, const Tensors& input, const Tensor& boxes, const OptionalTensor& v,
                       const OptionalTensor& argmax, const Geometry& geometry) {
  const ScalarType dtype = grad.scalar_type(), coordinates = coordinate_type(grad, boxes);
  const Call call = make_call(coordinates, sizes_of(input), boxes, v, {}, geometry);
  const Tensor grad_boxes = zeros({boxes.size(0), boxes.size(1)}, coordinates, boxes);
  if (grad.numel() == 0) return as_dtype(grad_boxes, boxes.scalar_type());
  dispatch_types(dtype, coordinates, [&](auto arithmetic, auto coordinate) {
    using W = decltype(arithmetic);
    using T = decltype(coordinate);
    const CallArgs<T> args = call.args<T>(grad.size(2), grad.size(3));
    const std::vector<const T*> directions = call.direction_pointers<T>();
    const Pyramid<ConstView> maps = const_pyramid(input);
    const ConstView bins = const_view(grad);
    T* const sums = grad_boxes.mutable_data_ptr<T>();
    if (argmax.has_value()) {
      return argmax_grad_boxes<W>(args, directions, const_argmax_view(*argmax), bins, maps, sums);
    }
    if (is_rotated(geometry.rule)) return rotated_grad_boxes<W>(args, directions, bins, maps, sums);
    average_grad_boxes<W>(args, directions, bins, maps, sums);
  });
  return as_dtype(grad_boxes, boxes.scalar_type());
}

STABLE_TORCH_LIBRARY_IMPL(roialign_ext, CPU, m) {
  register_private_ops(m);
  register_public_ops(m);
}

}  // namespace roialign_ext
