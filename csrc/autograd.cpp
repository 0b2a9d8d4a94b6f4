// Derivatives of the private operators (docs/math.md, sections 7 and 8), under the Autograd key: eager backward, double
// backward and forward mode, and whatever is traced or exported through them. roialign_ext/autograd.py has the same
// formulas for torch.func, whose transforms refuse C++ functions.
//
// All come from the form Phi(G, F, b; u, v) = D_u D_v <G, A(b) F>, linear in G, F, u and v:
//   by G: pool      by F: pool_grad_input      by b or one more direction: pool_grad_boxes
// A third derivative by the boxes is zero where tables are piecewise linear in the edges: a tensor of zeros in a
// backward pass, no term in a tangent. Where it is not (prroi_pool, rotated boxes) it is refused.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
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
  ctx->saved_data["scales"] = rule.scales;
  ctx->saved_data["canonical"] = rule.canonical;
  ctx->saved_data["sampling_ratio"] = rule.sampling_ratio;
  ctx->saved_data["rule"] = rule.name;
}

BoxRule saved_rule(AutogradContext* ctx) {
  return {ctx->saved_data["scales"].toDoubleVector(), ctx->saved_data["canonical"].toDoubleVector(),
          ctx->saved_data["sampling_ratio"].toInt(), ctx->saved_data["rule"].toStringRef()};
}

bool is_channels_last(const Tensor& input) { return input.suggest_memory_format() == at::MemoryFormat::ChannelsLast; }

// (N, C, H, W), H and W once more for each further level.
std::vector<c10::SymInt> sizes_of(at::TensorList maps) {
  std::vector<c10::SymInt> sizes = {maps[0].sym_size(0), maps[0].sym_size(1)};
  for (const Tensor& map : maps) sizes.insert(sizes.end(), {map.sym_size(2), map.sym_size(3)});
  return sizes;
}

void check_third_derivative(const BoxRule& rule) {
  const Rule kind = find_rule(rule.name);
  TORCH_CHECK_NOT_IMPLEMENTED(!is_integral(kind) && !is_rotated(kind),
                              "third derivatives by the boxes are not implemented for ", rule.name);
}

Tensor third_derivative(const Tensor& boxes, const BoxRule& rule) {
  check_third_derivative(rule);
  return at::zeros_like(boxes);
}

// Gradients of Phi by the boxes and by each direction; `first` is the edge number of the boxes. Arguments that are not
// given have no edge, and v is given only with u, so that u and v follow.
void add_box_gradients(AutogradContext* ctx, size_t first, const Tensor& grad, at::TensorList features,
                       const Tensor& boxes, const Tensor& u, const Tensor& v, const Tensor& winners,
                       const BoxRule& rule, variable_list& grads) {
  const Directions directions = given({u, v});
  if (ctx->needs_input_grad(first)) {
    grads[first] = directions.size() < kMaxDirections
                       ? pool_grad_boxes(grad, features, boxes, directions, winners, rule)
                       : third_derivative(boxes, rule);
  }
  if (u.defined() && ctx->needs_input_grad(first + 1)) {
    grads[first + 1] = pool_grad_boxes(grad, features, boxes, given({v}), winners, rule).to(u.scalar_type());
  }
  if (v.defined() && ctx->needs_input_grad(first + 2)) {
    grads[first + 2] = pool_grad_boxes(grad, features, boxes, given({u}), winners, rule).to(v.scalar_type());
  }
}

bool needs_any(AutogradContext* ctx, size_t levels) {
  for (size_t i = 0; i < levels; ++i) {
    if (ctx->needs_input_grad(i)) return true;
  }
  return false;
}

// What backward needs besides the feature maps. Under forward mode the functions below are applied to primals, but what
// they save carries its tangents, so that forward mode over backward is right. A struct is opaque to
// torch::autograd::Function.
struct Saved {
  variable_list tensors;  // boxes, u, v, winners as far as the operator has them, and then what else it needs
};

// The feature maps come first among the arguments, so that level i is edge i. They are saved only if the boxes or a
// direction need a gradient: the usual training case keeps none alive.
struct PoolFunction : torch::autograd::Function<PoolFunction> {
  static constexpr bool is_traceable = true;

  static Variable forward(AutogradContext* ctx, at::TensorList input, const Tensor& boxes, const OptionalTensor& u,
                          const OptionalTensor& v, const OptionalTensor& winners, c10::SymIntArrayRef output_size,
                          const BoxRule& rule, double extrapolation_value, const Saved& saved) {
    save_rule(ctx, rule);
    ctx->saved_data["input_size"] = sizes_of(input);
    ctx->saved_data["channels_last"] = is_channels_last(input[0]);
    ctx->save_for_backward(saved.tensors);
    at::AutoDispatchBelowADInplaceOrView guard;
    return pool(input, boxes, given({or_undefined(u), or_undefined(v)}), or_undefined(winners), output_size, rule,
                extrapolation_value);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& outputs) {
    const auto size = ctx->saved_data["input_size"].toSymIntVector();
    const size_t levels = size.size() / 2 - 1;
    variable_list grads(levels + 8);
    const Tensor& grad = outputs[0];
    if (!grad.defined()) return grads;
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &boxes = saved[0], &u = saved[1], &v = saved[2], &winners = saved[3];
    const at::TensorList input = at::TensorList(saved).slice(4);
    const BoxRule rule = saved_rule(ctx);
    if (needs_any(ctx, levels)) {
      const auto by_input =
          pool_grad_input(grad, boxes, given({u, v}), winners, size, ctx->saved_data["channels_last"].toBool(), rule);
      std::copy(by_input.begin(), by_input.end(), grads.begin());
    }
    if (!input.empty()) add_box_gradients(ctx, levels, grad, input, boxes, u, v, winners, rule, grads);
    return grads;
  }
};

struct PoolMaxFunction : torch::autograd::Function<PoolMaxFunction> {
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* ctx, at::TensorList input, const Tensor& boxes,
                               c10::SymIntArrayRef output_size, const BoxRule& rule, const Saved& saved) {
    save_rule(ctx, rule);
    ctx->saved_data["input_size"] = sizes_of(input);
    ctx->saved_data["channels_last"] = is_channels_last(input[0]);
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [values, winners] = pool_max(input, boxes, output_size, rule);
    variable_list tensors = saved.tensors;
    tensors.insert(tensors.begin() + 1, winners);
    ctx->save_for_backward(tensors);
    return {values, winners};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& outputs) {
    const auto size = ctx->saved_data["input_size"].toSymIntVector();
    const size_t levels = size.size() / 2 - 1;
    variable_list grads(levels + 4);
    const Tensor& grad = outputs[0];
    if (!grad.defined()) return grads;
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &boxes = saved[0], &winners = saved[1];
    const BoxRule rule = saved_rule(ctx);
    if (needs_any(ctx, levels)) {
      const auto by_input =
          pool_grad_input(grad, boxes, {}, winners, size, ctx->saved_data["channels_last"].toBool(), rule);
      std::copy(by_input.begin(), by_input.end(), grads.begin());
    }
    if (ctx->needs_input_grad(levels)) {
      grads[levels] = pool_grad_boxes(grad, at::TensorList(saved).slice(2), boxes, {}, winners, rule);
    }
    return grads;
  }
};

struct PoolGradInputFunction : torch::autograd::Function<PoolGradInputFunction> {
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* ctx, const Tensor& grad, const Tensor& boxes, const OptionalTensor& u,
                               const OptionalTensor& v, const OptionalTensor& winners, c10::SymIntArrayRef input_size,
                               bool channels_last, const BoxRule& rule, const Saved& saved) {
    save_rule(ctx, rule);
    ctx->saved_data["input_size"] = input_size;
    ctx->saved_data["output_size"] = grad.sym_sizes().slice(2);
    ctx->save_for_backward(saved.tensors);
    at::AutoDispatchBelowADInplaceOrView guard;
    return pool_grad_input(grad, boxes, given({or_undefined(u), or_undefined(v)}), or_undefined(winners), input_size,
                           channels_last, rule);
  }

  // A level whose gradient is not given adds nothing.
  static variable_list materialized(AutogradContext* ctx, const variable_list& outputs, const Tensor& boxes) {
    const auto size = ctx->saved_data["input_size"].toSymIntVector();
    const auto first = std::find_if(outputs.begin(), outputs.end(), [](const Tensor& t) { return t.defined(); });
    variable_list features = outputs;
    for (size_t i = 0; i < features.size() && first != outputs.end(); ++i) {
      if (features[i].defined()) continue;
      features[i] = at::zeros_symint({size[0], size[1], size[2 * i + 2], size[2 * i + 3]},
                                     first->options().device(boxes.device()));
    }
    return features;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& outputs) {
    variable_list grads(9);
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &boxes = saved[0], &u = saved[1], &v = saved[2], &winners = saved[3], &grad = saved[4];
    const variable_list features = materialized(ctx, outputs, boxes);
    if (!features[0].defined()) return grads;
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

  static Variable forward(AutogradContext* ctx, at::TensorList input, const Tensor& grad, const Tensor& boxes,
                          const OptionalTensor& v, const OptionalTensor& winners, const BoxRule& rule,
                          const Saved& saved) {
    save_rule(ctx, rule);
    ctx->save_for_backward(saved.tensors);
    at::AutoDispatchBelowADInplaceOrView guard;
    return pool_grad_boxes(grad, input, boxes, given({or_undefined(v)}), or_undefined(winners), rule);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& outputs) {
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &boxes = saved[0], &v = saved[1], &winners = saved[2], &grad = saved[3];
    const at::TensorList input = at::TensorList(saved).slice(4);
    const size_t levels = input.size();
    variable_list grads(levels + 6);
    const Tensor& direction = outputs[0];
    if (!direction.defined()) return grads;
    const BoxRule rule = saved_rule(ctx);
    const Directions directions = with(given({v}), direction);
    if (needs_any(ctx, levels)) {
      const auto by_input =
          pool_grad_input(grad, boxes, directions, winners, sizes_of(input), is_channels_last(input[0]), rule);
      std::copy(by_input.begin(), by_input.end(), grads.begin());
    }
    if (ctx->needs_input_grad(levels)) {
      grads[levels] = pool(input, boxes, directions, winners, grad.sym_sizes().slice(2), rule);
    }
    if (v.defined() && ctx->needs_input_grad(levels + 1)) grads[levels + 1] = third_derivative(boxes, rule);
    const size_t second = levels + (v.defined() ? 2 : 1);
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

// The maps bare of their tangents.
variable_list primals_of(at::TensorList tensors) {
  variable_list primals;
  for (const Tensor& tensor : tensors) primals.push_back(primal_of(tensor));
  return primals;
}

template <class... Tensors>
bool requires_grad(const Tensors&... tensors) {
  return at::GradMode::is_enabled() && ((tensors.defined() && tensors.requires_grad()) || ...);
}

bool any_requires_grad(at::TensorList tensors) {
  return std::any_of(tensors.begin(), tensors.end(), [](const Tensor& tensor) { return requires_grad(tensor); });
}

variable_list joined(variable_list first, at::TensorList then) {
  first.insert(first.end(), then.begin(), then.end());
  return first;
}

// Terms of a tangent, of which there may be none: those of the tangents of features, boxes and directions.
template <class Result>
struct Sum {
  std::optional<Result> total;

  void add(const Result& term) { total = total.has_value() ? plus(*total, term) : term; }

  // Adds evaluate(tangent of `of`), if there is one.
  template <class Evaluate>
  void add(const Tensor& of, Evaluate&& evaluate) {
    if (tangent_of(of).defined()) add(evaluate(tangent_of(of)));
  }

  // Adds evaluate(tangents of the maps); a map without one stands still.
  template <class Evaluate>
  void add_maps(at::TensorList maps, Evaluate&& evaluate) {
    variable_list tangents;
    bool any = false;
    for (const Tensor& map : maps) {
      tangents.push_back(tangent_of(map));
      any = any || tangents.back().defined();
    }
    if (!any) return;
    for (size_t i = 0; i < tangents.size(); ++i) {
      if (!tangents[i].defined()) tangents[i] = at::zeros_like(primal_of(maps[i]));
    }
    add(evaluate(tangents));
  }

  // What the tangents of the boxes and of the directions contribute to evaluate(directions).
  template <class Evaluate>
  void add_boxes(const Tensor& boxes, const Tensor& u, const Tensor& v, size_t max_directions, const BoxRule& rule,
                 Evaluate&& evaluate) {
    const Directions directions = given({primal_of(u), primal_of(v)});
    add(boxes, directions, max_directions, rule, evaluate);
    add(u, [&](const Tensor& t) { return evaluate(given({t, primal_of(v)})); });
    add(v, [&](const Tensor& t) { return evaluate(given({primal_of(u), t})); });
  }

 private:
  static Tensor plus(const Tensor& a, const Tensor& b) { return a + b; }
  static variable_list plus(const variable_list& a, const variable_list& b) {
    variable_list sum;
    for (size_t i = 0; i < a.size(); ++i) sum.push_back(a[i] + b[i]);
    return sum;
  }

  template <class Evaluate>
  void add(const Tensor& boxes, const Directions& directions, size_t max_directions, const BoxRule& rule,
           Evaluate&& evaluate) {
    if (!tangent_of(boxes).defined()) return;
    if (directions.size() < max_directions) return add(evaluate(with(directions, tangent_of(boxes))));
    check_third_derivative(rule);
  }
};

void set_tangent(const Tensor& value, const Tensor& tangent) {
  value._set_fw_grad(tangent, kLevel, /*is_inplace_op=*/false);
}

Tensor pool_autograd(at::TensorList input, const Tensor& boxes, const OptionalTensor& u_given,
                     const OptionalTensor& v_given, const OptionalTensor& winners_given,
                     c10::SymIntArrayRef output_size, at::ArrayRef<double> scales, at::ArrayRef<double> canonical,
                     int64_t sampling_ratio, std::string_view rule_name, double extrapolation_value) {
  const Tensor u = or_undefined(u_given), v = or_undefined(v_given), winners = or_undefined(winners_given);
  const BoxRule rule = {scales.vec(), canonical.vec(), sampling_ratio, std::string(rule_name)};
  const variable_list features = primals_of(input);
  const Tensor rows = primal_of(boxes);
  const Directions directions = given({primal_of(u), primal_of(v)});
  Tensor value;
  if (any_requires_grad(input) || requires_grad(boxes, u, v)) {
    variable_list saved = {boxes, u, v, winners};
    if (requires_grad(boxes, u, v)) saved = joined(saved, input);
    value = PoolFunction::apply(at::TensorList(features), rows, optional_primal(u), optional_primal(v), winners_given,
                                output_size, rule, extrapolation_value, Saved{saved});
  } else {
    at::AutoDispatchBelowADInplaceOrView guard;
    value = pool(features, rows, directions, winners, output_size, rule, extrapolation_value);
  }
  Sum<Tensor> tangent;
  tangent.add_maps(input,
                   [&](const variable_list& t) { return pool(t, rows, directions, winners, output_size, rule); });
  tangent.add_boxes(boxes, u, v, kMaxDirections, rule,
                    [&](const Directions& along) { return pool(features, rows, along, winners, output_size, rule); });
  if (tangent.total.has_value()) set_tangent(value, *tangent.total);
  return value;
}

std::tuple<Tensor, Tensor> pool_max_autograd(at::TensorList input, const Tensor& boxes, c10::SymIntArrayRef output_size,
                                             at::ArrayRef<double> scales, at::ArrayRef<double> canonical,
                                             int64_t sampling_ratio, std::string_view rule_name) {
  const BoxRule rule = {scales.vec(), canonical.vec(), sampling_ratio, std::string(rule_name)};
  const variable_list features = primals_of(input);
  const Tensor rows = primal_of(boxes);
  Tensor values, winners;
  if (any_requires_grad(input) || requires_grad(boxes)) {
    variable_list saved = {boxes};
    if (requires_grad(boxes)) saved = joined(saved, input);
    const variable_list results =
        PoolMaxFunction::apply(at::TensorList(features), rows, output_size, rule, Saved{saved});
    values = results[0];
    winners = results[1];
  } else {
    at::AutoDispatchBelowADInplaceOrView guard;
    std::tie(values, winners) = pool_max(features, rows, output_size, rule);
  }
  Sum<Tensor> tangent;
  tangent.add_maps(input, [&](const variable_list& t) { return pool(t, rows, {}, winners, output_size, rule); });
  tangent.add(boxes, [&](const Tensor& t) { return pool(features, rows, {t}, winners, output_size, rule); });
  if (tangent.total.has_value()) set_tangent(values, *tangent.total);
  return {values, winners};
}

std::vector<Tensor> pool_grad_input_autograd(const Tensor& grad, const Tensor& boxes, const OptionalTensor& u_given,
                                             const OptionalTensor& v_given, const OptionalTensor& winners_given,
                                             c10::SymIntArrayRef input_size, bool channels_last,
                                             at::ArrayRef<double> scales, at::ArrayRef<double> canonical,
                                             int64_t sampling_ratio, std::string_view rule_name) {
  const Tensor u = or_undefined(u_given), v = or_undefined(v_given), winners = or_undefined(winners_given);
  const BoxRule rule = {scales.vec(), canonical.vec(), sampling_ratio, std::string(rule_name)};
  const Tensor bins = primal_of(grad), rows = primal_of(boxes);
  const Directions directions = given({primal_of(u), primal_of(v)});
  const auto evaluate = [&](const Tensor& of, const Directions& along) {
    return pool_grad_input(of, rows, along, winners, input_size, channels_last, rule);
  };
  variable_list value;
  if (requires_grad(grad, boxes, u, v)) {
    const Saved saved = {{boxes, u, v, winners, requires_grad(boxes, u, v) ? grad : Tensor()}};
    value = PoolGradInputFunction::apply(bins, rows, optional_primal(u), optional_primal(v), winners_given, input_size,
                                         channels_last, rule, saved);
  } else {
    at::AutoDispatchBelowADInplaceOrView guard;
    value = evaluate(bins, directions);
  }
  Sum<variable_list> tangent;
  tangent.add(grad, [&](const Tensor& t) { return evaluate(t, directions); });
  tangent.add_boxes(boxes, u, v, kMaxDirections, rule, [&](const Directions& along) { return evaluate(bins, along); });
  for (size_t i = 0; i < value.size() && tangent.total.has_value(); ++i) set_tangent(value[i], (*tangent.total)[i]);
  return value;
}

Tensor pool_grad_boxes_autograd(const Tensor& grad, at::TensorList input, const Tensor& boxes,
                                const OptionalTensor& v_given, const OptionalTensor& winners_given,
                                at::ArrayRef<double> scales, at::ArrayRef<double> canonical, int64_t sampling_ratio,
                                std::string_view rule_name) {
  const Tensor v = or_undefined(v_given), winners = or_undefined(winners_given);
  const BoxRule rule = {scales.vec(), canonical.vec(), sampling_ratio, std::string(rule_name)};
  const variable_list features = primals_of(input);
  const Tensor bins = primal_of(grad), rows = primal_of(boxes);
  const Directions directions = given({primal_of(v)});
  const auto evaluate = [&](const Tensor& of, at::TensorList on, const Directions& along) {
    return pool_grad_boxes(of, on, rows, along, winners, rule);
  };
  Tensor value;
  if (any_requires_grad(input) || requires_grad(grad, boxes, v)) {
    const Saved saved = {joined({boxes, v, winners, grad}, input)};
    value = PoolGradBoxesFunction::apply(at::TensorList(features), bins, rows, optional_primal(v), winners_given, rule,
                                         saved);
  } else {
    at::AutoDispatchBelowADInplaceOrView guard;
    value = evaluate(bins, features, directions);
  }
  Sum<Tensor> tangent;
  tangent.add(grad, [&](const Tensor& t) { return evaluate(t, features, directions); });
  tangent.add_maps(input, [&](const variable_list& t) { return evaluate(bins, t, directions); });
  tangent.add_boxes(boxes, v, Tensor(), kMaxDirections - 1, rule,
                    [&](const Directions& along) { return evaluate(bins, features, along); });
  if (tangent.total.has_value()) set_tangent(value, *tangent.total);
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
