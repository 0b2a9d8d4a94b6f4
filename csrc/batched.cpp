// The private operators under torch's older vmap, which batched gradients (is_grads_batched), the vectorised functions
// of torch.autograd.functional and gradcheck still use. Its fallback, a loop over the batch, knows no lists of tensors;
// this is the same loop with lists. torch.func has batching rules of its own (roialign_ext/vmap.py).
#include <ATen/LegacyVmapTransforms.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/stack.h>
#include <torch/library.h>

#include <vector>

namespace roialign_ext {
namespace {

using at::Tensor;

// Calls see(tensor) on every tensor of a list of arguments, also on those in lists, and stores what it returns.
template <class See>
void replace_tensors(std::vector<c10::IValue>& values, See&& see) {
  for (c10::IValue& value : values) {
    if (value.isTensor() && value.toTensor().defined()) {
      value = see(value.toTensor());
    } else if (value.isTensorList()) {
      std::vector<Tensor> tensors = value.toTensorVector();
      for (Tensor& tensor : tensors) tensor = see(tensor);
      value = std::move(tensors);
    }
  }
}

void call_for_each_element(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  std::vector<c10::IValue> arguments = torch::jit::pop(*stack, op.schema().arguments().size());
  std::vector<Tensor> logical;
  replace_tensors(arguments, [&](const Tensor& tensor) {
    logical.push_back(tensor);
    return tensor;
  });
  const auto views = at::MultiBatchVmapTransform::logicalToPhysical(logical);
  const int64_t batch_dims = views.front().numBatchDims();
  const auto batch_sizes = views.front().tensor().sizes().slice(0, batch_dims).vec();
  std::vector<Tensor> physical;
  for (const auto& view : views) physical.push_back(view.tensor().flatten(0, batch_dims - 1));
  const int64_t batch = physical.front().size(0);
  TORCH_CHECK_VALUE(batch > 0, op.operator_name(), ": expected a batch of one call or more, got an empty one");

  std::vector<std::vector<Tensor>> results;  // by output, then by element
  std::vector<c10::IValue> outputs;
  for (int64_t element = 0; element < batch; ++element) {
    torch::jit::Stack call = arguments;
    size_t next = 0;
    replace_tensors(call, [&](const Tensor&) { return physical[next++].select(0, element); });
    op.callBoxed(&call);
    size_t output = 0;
    replace_tensors(call, [&](const Tensor& tensor) {
      if (output == results.size()) results.emplace_back();
      results[output++].push_back(tensor);
      return tensor;
    });
    outputs = std::move(call);
  }
  size_t next = 0;
  const auto to_logical = views.front().getPhysicalToLogicalMap();
  replace_tensors(
      outputs, [&](const Tensor&) { return to_logical.apply(at::stack(results[next++]).unflatten(0, batch_sizes)); });
  for (c10::IValue& output : outputs) stack->push_back(std::move(output));
}

TORCH_LIBRARY_IMPL(roialign_ext, Batched, m) {
  for (const char* name : {"_pool", "_pool_max", "_pool_grad_input", "_pool_grad_boxes"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&call_for_each_element>());
  }
}

}  // namespace
}  // namespace roialign_ext
