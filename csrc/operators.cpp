#include "operators.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

namespace roialign_ext {
namespace {

template <class Signature>
c10::TypedOperatorHandle<Signature> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

OptionalTensor optional(const Tensor& tensor) { return tensor.defined() ? OptionalTensor(tensor) : OptionalTensor(); }

OptionalTensor direction(const Directions& directions, size_t i) {
  return i < directions.size() ? OptionalTensor(directions[i]) : OptionalTensor();
}

// The public operator is a choice of rule and mode; its derivatives are those of what it calls.
Tensor roi_align(const Tensor& input, const Tensor& boxes, c10::SymIntArrayRef output_size, double spatial_scale,
                 int64_t sampling_ratio, bool aligned, std::string_view mode) {
  const BoxRule rule = {spatial_scale, sampling_ratio, std::string(aligned ? kHalfPixelRule : kLegacyRule)};
  if (mode == "avg") return pool(input, boxes, {}, {}, output_size, rule);
  TORCH_CHECK_VALUE(mode == "max", "mode: expected 'avg' or 'max', got '", mode, "'");
  return std::get<0>(pool_max(input, boxes, output_size, rule));
}

TORCH_LIBRARY_IMPL(roialign_ext, CompositeImplicitAutograd, m) { m.impl("roi_align", roi_align); }

// A transform of torch.func has to meet the private operators before it is taken off the stack: that is where
// roialign_ext/autograd.py waits for it.
TORCH_LIBRARY_IMPL(roialign_ext, FuncTorchDynamicLayerFrontMode, m) { m.impl("roi_align", roi_align); }

}  // namespace

Tensor pool(const Tensor& input, const Tensor& boxes, const Directions& directions, const Tensor& winners,
            c10::SymIntArrayRef output_size, const BoxRule& rule) {
  using Signature = Tensor(const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&,
                           const OptionalTensor&, c10::SymIntArrayRef, double, int64_t, std::string_view);
  static const auto op = find<Signature>("roialign_ext::_pool");
  return op.call(input, boxes, direction(directions, 0), direction(directions, 1), optional(winners), output_size,
                 rule.spatial_scale, rule.sampling_ratio, rule.name);
}

std::tuple<Tensor, Tensor> pool_max(const Tensor& input, const Tensor& boxes, c10::SymIntArrayRef output_size,
                                    const BoxRule& rule) {
  using Signature =
      std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, c10::SymIntArrayRef, double, int64_t, std::string_view);
  static const auto op = find<Signature>("roialign_ext::_pool_max");
  return op.call(input, boxes, output_size, rule.spatial_scale, rule.sampling_ratio, rule.name);
}

Tensor pool_grad_input(const Tensor& grad, const Tensor& boxes, const Directions& directions, const Tensor& winners,
                       c10::SymIntArrayRef input_size, bool channels_last, const BoxRule& rule) {
  using Signature = Tensor(const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&,
                           const OptionalTensor&, c10::SymIntArrayRef, bool, double, int64_t, std::string_view);
  static const auto op = find<Signature>("roialign_ext::_pool_grad_input");
  return op.call(grad, boxes, direction(directions, 0), direction(directions, 1), optional(winners), input_size,
                 channels_last, rule.spatial_scale, rule.sampling_ratio, rule.name);
}

Tensor pool_grad_boxes(const Tensor& grad, const Tensor& input, const Tensor& boxes, const Directions& directions,
                       const Tensor& winners, const BoxRule& rule) {
  using Signature = Tensor(const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&,
                           double, int64_t, std::string_view);
  static const auto op = find<Signature>("roialign_ext::_pool_grad_boxes");
  return op.call(grad, input, boxes, direction(directions, 0), optional(winners), rule.spatial_scale,
                 rule.sampling_ratio, rule.name);
}

}  // namespace roialign_ext
