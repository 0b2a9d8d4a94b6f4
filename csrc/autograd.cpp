// Derivatives of the private operators (docs/math.md, sections 7 and 8), under the Autograd key: eager backward, double
// backward and forward mode, and whatever is traced or exported through them. roialign_ext/autograd.py has the same
// formulas for torch.func, whose transforms refuse C++ functions.
//
// All come from the form Phi(G, F, b; u, v) = D_u D_v <G, A(b) F>, linear in G, F, u and v:
//   by G: pool      by F: pool_grad_input      by b or one more direction: pool_grad_boxes
// A third derivative by the boxes is zero: a tensor of zeros in a backward pass, no term in a tangent.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <tuple>

#include "operators.h"

namespace roialign_ext {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

constexpr size_t kMaxDirections = 2;

Directions given(std::initializer_list<Tensor> candidates) {
  Directions directions;
  for (const Tensor& candidate : candidates) {
    if (candidate.defined()) directions.push_back(candidate);
  }
  return directions;
}

Directions with(Directions directions, const Tensor& one_more) {
  directions.push_back(one_more);
  return directions;
}

Tensor or_undefined(const OptionalTensor& tensor) { return tensor.has_value() ? *tensor : Tensor(); }

void save_rule(AutogradContext* ctx, const BoxRule& rule) {
  ctx->saved_data["spatial_scale"] = rule.spatial_scale;
  ctx->saved_data["sampling_ratio"] = rule.sampling_ratio;
  ctx->saved_data["rule"] = rule.name;
}

BoxRule saved_rule(AutogradContext* ctx) {
  return {ctx->saved_data["spatial_scale"].toDouble(), ctx->saved_data["sampling_ratio"].toInt(),
          ctx->saved_data["rule"].toStringRef()};
}

bool is_channels_last(const Tensor& input) { return input.suggest_memory_format() == at::MemoryFormat::ChannelsLast; }

// Gradients of Phi by the boxes and by each direction; `first` is the edge number of the boxes. Arguments that are not
// given have no edge, and v is given only with u, so that u and v follow.
void add_box_gradients(AutogradContext* ctx, size_t first, const Tensor& grad, const Tensor& features,
                       const Tensor& boxes, const Tensor& u, const Tensor& v, const Tensor& winners,
                       const BoxRule& rule, variable_list& grads) {
  const Directions directions = given({u, v});
  if (ctx->needs_input_grad(first)) {
    grads[first] = directions.size() < kMaxDirections
                       ? pool_grad_boxes(grad, features, boxes, directions, winners, rule)
                       : at::zeros_like(boxes);
  }
  if (u.defined() && ctx->needs_input_grad(first + 1)) {
    grads[first + 1] = pool_grad_boxes(grad, features, boxes, given({v}), winners, rule).to(u.scalar_type());
  }
  if (v.defined() && ctx->needs_input_grad(first + 2)) {
    grads[first + 2] = pool_grad_boxes(grad, features, boxes, given({u}), winners, rule).to(v.scalar_type());
  }
}

// What backward needs. Under forward mode the functions below are applied to primals, but what they save carries its
// tangents, so that forward mode over backward is right. A struct is opaque to torch::autograd::Function.
struct Saved {
  variable_list tensors;
};

// The features are saved only if the boxes or a direction need a gradient: the usual training case keeps none alive.
struct PoolFunction : torch::autograd::Function<PoolFunction> {
  static constexpr bool is_traceable = true;

  static Variable forward(AutogradContext* ctx, const Tensor& input, const Tensor& boxes, const OptionalTensor& u,
                          const OptionalTensor& v, const OptionalTensor& winners, c10::SymIntArrayRef output_size,
                          const BoxRule& rule, const Saved& saved) {
    save_rule(ctx, rule);
    ctx->saved_data["input_size"] = input.sym_sizes();
    ctx->saved_data["channels_last"] = is_channels_last(input);
    ctx->save_for_backward(saved.tensors);
    at::AutoDispatchBelowADInplaceOrView guard;
    return pool(input, boxes, given({or_undefined(u), or_undefined(v)}), or_undefined(winners), output_size, rule);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& outputs) {
    variable_list grads(8);
    const Tensor& grad = outputs[0];
    if (!grad.defined()) return grads;
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &input = saved[0], &boxes = saved[1], &u = saved[2], &v = saved[3], &winners = saved[4];
    const BoxRule rule = saved_rule(ctx);
    if (ctx->needs_input_grad(0)) {
      const auto size = ctx->saved_data["input_size"].toSymIntVector();
      grads[0] =
          pool_grad_input(grad, boxes, given({u, v}), winners, size, ctx->saved_data["channels_last"].toBool(), rule);
    }
    if (input.defined()) add_box_gradients(ctx, 1, grad, input, boxes, u, v, winners, rule, grads);
    return grads;
  }
};

struct PoolMaxFunction : torch::autograd::Function<PoolMaxFunction> {
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* ctx, const Tensor& input, const Tensor& boxes,
                               c10::SymIntArrayRef output_size, const BoxRule& rule, const Saved& saved) {
    save_rule(ctx, rule);
    ctx->saved_data["input_size"] = input.sym_sizes();
    ctx->saved_data["channels_last"] = is_channels_last(input);
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [values, winners] = pool_max(input, boxes, output_size, rule);
    ctx->save_for_backward({saved.tensors[0], saved.tensors[1], winners});
    return {values, winners};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& outputs) {
    variable_list grads(5);
    const Tensor& grad = outputs[0];
    if (!grad.defined()) return grads;
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &input = saved[0], &boxes = saved[1], &winners = saved[2];
    const BoxRule rule = saved_rule(ctx);
    if (ctx->needs_input_grad(0)) {
      const auto size = ctx->saved_data["input_size"].toSymIntVector();
      grads[0] = pool_grad_input(grad, boxes, {}, winners, size, ctx->saved_data["channels_last"].toBool(), rule);
    }
    if (ctx->needs_input_grad(1)) grads[1] = pool_grad_boxes(grad, input, boxes, {}, winners, rule);
    return grads;
  }
};

struct PoolGradInputFunction : torch::autograd::Function<PoolGradInputFunction> {
  static constexpr bool is_traceable = true;

  static Variable forward(AutogradContext* ctx, const Tensor& grad, const Tensor& boxes, const OptionalTensor& u,
                          const OptionalTensor& v, const OptionalTensor& winners, c10::SymIntArrayRef input_size,
                          bool channels_last, const BoxRule& rule, const Saved& saved) {
    save_rule(ctx, rule);
    ctx->saved_data["output_size"] = grad.sym_sizes().slice(2);
    ctx->save_for_backward(saved.tensors);
    at::AutoDispatchBelowADInplaceOrView guard;
    return pool_grad_input(grad, boxes, given({or_undefined(u), or_undefined(v)}), or_undefined(winners), input_size,
                           channels_last, rule);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& outputs) {
    variable_list grads(9);
    const Tensor& features = outputs[0];
    if (!features.defined()) return grads;
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &grad = saved[0], &boxes = saved[1], &u = saved[2], &v = saved[3], &winners = saved[4];
    const BoxRule rule = saved_rule(ctx);
    if (ctx->needs_input_grad(0)) {
      grads[0] = pool(features, boxes, given({u, v}), winners, ctx->saved_data["output_size"].toSymIntVector(), rule);
    }
    if (grad.defined()) add_box_gradients(ctx, 1, grad, features, boxes, u, v, winners, rule, grads);
    return grads;
  }
};

struct PoolGradBoxesFunction : torch::autograd::Function<PoolGradBoxesFunction> {
  static constexpr bool is_traceable = true;

  static Variable forward(AutogradContext* ctx, const Tensor& grad, const Tensor& input, const Tensor& boxes,
                          const OptionalTensor& v, const OptionalTensor& winners, const BoxRule& rule,
                          const Saved& saved) {
    save_rule(ctx, rule);
    ctx->save_for_backward(saved.tensors);
    at::AutoDispatchBelowADInplaceOrView guard;
    return pool_grad_boxes(grad, input, boxes, given({or_undefined(v)}), or_undefined(winners), rule);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& outputs) {
    variable_list grads(7);
    const Tensor& direction = outputs[0];
    if (!direction.defined()) return grads;
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &grad = saved[0], &input = saved[1], &boxes = saved[2], &v = saved[3], &winners = saved[4];
    const BoxRule rule = saved_rule(ctx);
    const Directions directions = with(given({v}), direction);
    if (ctx->needs_input_grad(0)) {
      grads[0] = pool(input, boxes, directions, winners, grad.sym_sizes().slice(2), rule);
    }
    if (ctx->needs_input_grad(1)) {
      grads[1] = pool_grad_input(grad, boxes, directions, winners, input.sym_sizes(), is_channels_last(input), rule);
    }
    if (v.defined() && ctx->needs_input_grad(2)) grads[2] = at::zeros_like(boxes);
    const size_t second = v.defined() ? 3 : 2;
    if (ctx->needs_input_grad(second)) {
      const at::ScalarType dtype = (v.defined() ? v : boxes).scalar_type();
      grads[second] = pool_grad_boxes(grad, input, boxes, {direction}, winners, rule).to(dtype);
    }
    return grads;
  }
};

// Forward mode: the tangent is set by hand, since functions of torch::autograd compute none.
constexpr uint64_t kLevel = 0;  // torch has one level of forward mode outside torch.func

Tensor tangent_of(const Tensor& tensor) { return tensor.defined() ? tensor._fw_grad(kLevel) : Tensor(); }
Tensor primal_of(const Tensor& tensor) { return tangent_of(tensor).defined() ? tensor._fw_primal(kLevel) : tensor; }

OptionalTensor optional_primal(const Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(primal_of(tensor)) : OptionalTensor();
}

template <class... Tensors>
bool requires_grad(const Tensors&... tensors) {
  return at::GradMode::is_enabled() && ((tensors.defined() && tensors.requires_grad()) || ...);
}

// A sum whose terms may be missing.
struct Sum {
  Tensor total;

  // Adds evaluate(tangent of `of`), if there is one.
  template <class Evaluate>
  void add(const Tensor& of, Evaluate&& evaluate) {
    if (!tangent_of(of).defined()) return;
    const Tensor term = evaluate(tangent_of(of));
    total = total.defined() ? total + term : term;
  }

  // What the tangents of the boxes and of the directions contribute to evaluate(directions).
  template <class Evaluate>
  void add_boxes(const Tensor& boxes, const Tensor& u, const Tensor& v, size_t max_directions, Evaluate&& evaluate) {
    const Directions directions = given({primal_of(u), primal_of(v)});
    if (directions.size() < max_directions) add(boxes, [&](const Tensor& t) { return evaluate(with(directions, t)); });
    add(u, [&](const Tensor& t) { return evaluate(given({t, primal_of(v)})); });
    add(v, [&](const Tensor& t) { return evaluate(given({primal_of(u), t})); });
  }

  void set_on(const Tensor& value) const {
    if (total.defined()) value._set_fw_grad(total, kLevel, /*is_inplace_op=*/false);
  }
};

Tensor pool_autograd(const Tensor& input, const Tensor& boxes, const OptionalTensor& u_given,
                     const OptionalTensor& v_given, const OptionalTensor& winners_given,
                     c10::SymIntArrayRef output_size, double spatial_scale, int64_t sampling_ratio,
                     std::string_view rule_name) {
  const Tensor u = or_undefined(u_given), v = or_undefined(v_given), winners = or_undefined(winners_given);
  const BoxRule rule = {spatial_scale, sampling_ratio, std::string(rule_name)};
  const Tensor features = primal_of(input), rows = primal_of(boxes);
  const Directions directions = given({primal_of(u), primal_of(v)});
  Tensor value;
  if (requires_grad(input, boxes, u, v)) {
    const Saved saved = {{requires_grad(boxes, u, v) ? input : Tensor(), boxes, u, v, winners}};
    value = PoolFunction::apply(features, rows, optional_primal(u), optional_primal(v), winners_given, output_size,
                                rule, saved);
  } else {
    at::AutoDispatchBelowADInplaceOrView guard;
    value = pool(features, rows, directions, winners, output_size, rule);
  }
  Sum tangent;
  tangent.add(input, [&](const Tensor& t) { return pool(t, rows, directions, winners, output_size, rule); });
  tangent.add_boxes(boxes, u, v, kMaxDirections,
                    [&](const Directions& along) { return pool(features, rows, along, winners, output_size, rule); });
  tangent.set_on(value);
  return value;
}

std::tuple<Tensor, Tensor> pool_max_autograd(const Tensor& input, const Tensor& boxes, c10::SymIntArrayRef output_size,
                                             double spatial_scale, int64_t sampling_ratio, std::string_view rule_name) {
  const BoxRule rule = {spatial_scale, sampling_ratio, std::string(rule_name)};
  const Tensor features = primal_of(input), rows = primal_of(boxes);
  Tensor values, winners;
  if (requires_grad(input, boxes)) {
    const Saved saved = {{requires_grad(boxes) ? input : Tensor(), boxes}};
    const variable_list results = PoolMaxFunction::apply(features, rows, output_size, rule, saved);
    values = results[0];
    winners = results[1];
  } else {
    at::AutoDispatchBelowADInplaceOrView guard;
    std::tie(values, winners) = pool_max(features, rows, output_size, rule);
  }
  Sum tangent;
  tangent.add(input, [&](const Tensor& t) { return pool(t, rows, {}, winners, output_size, rule); });
  tangent.add(boxes, [&](const Tensor& t) { return pool(features, rows, {t}, winners, output_size, rule); });
  tangent.set_on(values);
  return {values, winners};
}

Tensor pool_grad_input_autograd(const Tensor& grad, const Tensor& boxes, const OptionalTensor& u_given,
                                const OptionalTensor& v_given, const OptionalTensor& winners_given,
                                c10::SymIntArrayRef input_size, bool channels_last, double spatial_scale,
                                int64_t sampling_ratio, std::string_view rule_name) {
  const Tensor u = or_undefined(u_given), v = or_undefined(v_given), winners = or_undefined(winners_given);
  const BoxRule rule = {spatial_scale, sampling_ratio, std::string(rule_name)};
  const Tensor bins = primal_of(grad), rows = primal_of(boxes);
  const Directions directions = given({primal_of(u), primal_of(v)});
  const auto evaluate = [&](const Tensor& of, const Directions& along) {
    return pool_grad_input(of, rows, along, winners, input_size, channels_last, rule);
  };
  Tensor value;
  if (requires_grad(grad, boxes, u, v)) {
    const Saved saved = {{requires_grad(boxes, u, v) ? grad : Tensor(), boxes, u, v, winners}};
    value = PoolGradInputFunction::apply(bins, rows, optional_primal(u), optional_primal(v), winners_given, input_size,
                                         channels_last, rule, saved);
  } else {
    at::AutoDispatchBelowADInplaceOrView guard;
    value = evaluate(bins, directions);
  }
  Sum tangent;
  tangent.add(grad, [&](const Tensor& t) { return evaluate(t, directions); });
  tangent.add_boxes(boxes, u, v, kMaxDirections, [&](const Directions& along) { return evaluate(bins, along); });
  tangent.set_on(value);
  return value;
}

Tensor pool_grad_boxes_autograd(const Tensor& grad, const Tensor& input, const Tensor& boxes,
                                const OptionalTensor& v_given, const OptionalTensor& winners_given,
                                double spatial_scale, int64_t sampling_ratio, std::string_view rule_name) {
  const Tensor v = or_undefined(v_given), winners = or_undefined(winners_given);
  const BoxRule rule = {spatial_scale, sampling_ratio, std::string(rule_name)};
  const Tensor bins = primal_of(grad), features = primal_of(input), rows = primal_of(boxes);
  const Directions directions = given({primal_of(v)});
  const auto evaluate = [&](const Tensor& of, const Tensor& on, const Directions& along) {
    return pool_grad_boxes(of, on, rows, along, winners, rule);
  };
  Tensor value;
  if (requires_grad(grad, input, boxes, v)) {
    const Saved saved = {{grad, input, boxes, v, winners}};
    value = PoolGradBoxesFunction::apply(bins, features, rows, optional_primal(v), winners_given, rule, saved);
  } else {
    at::AutoDispatchBelowADInplaceOrView guard;
    value = evaluate(bins, features, directions);
  }
  Sum tangent;
  tangent.add(grad, [&](const Tensor& t) { return evaluate(t, features, directions); });
  tangent.add(input, [&](const Tensor& t) { return evaluate(bins, t, directions); });
  tangent.add_boxes(boxes, v, Tensor(), kMaxDirections - 1,
                    [&](const Directions& along) { return evaluate(bins, features, along); });
  tangent.set_on(value);
  return value;
}

TORCH_LIBRARY_IMPL(roialign_ext, Autograd, m) {
  m.impl("_pool", pool_autograd);
  m.impl("_pool_max", pool_max_autograd);
  m.impl("_pool_grad_input", pool_grad_input_autograd);
  m.impl("_pool_grad_boxes", pool_grad_boxes_autograd);
}

}  // namespace
}  // namespace roialign_ext
