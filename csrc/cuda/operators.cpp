// The private operators on CUDA: from tensors to the kernels' arguments (args.h), on the device of the features and its
// current stream. Nothing here waits for the device, unless ROIALIGN_EXT_CHECK=1 asks for the checks of the CPU.
#include <torch/library.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "../checks.h"
#include "args.h"

namespace roialign_ext::cuda {
namespace {

using at::Tensor;

Storage storage_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kDouble:
      return Storage::kDouble;
    case at::kHalf:
      return Storage::kHalf;
    case at::kBFloat16:
      return Storage::kBFloat16;
    default:
      return Storage::kFloat;
  }
}

template <class Void>
Elements<Void> elements_at(Void* data, const Tensor& tensor) {
  return {data, tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)};
}

// Tensors that are read stay const here; the kernels' arguments do not tell them from those that are written.
Elements<void> read(const Tensor& tensor) { return elements_at(const_cast<void*>(tensor.const_data_ptr()), tensor); }
Elements<void> written(const Tensor& tensor) { return elements_at(tensor.mutable_data_ptr(), tensor); }

bool checks_rows() {
  const char* request = std::getenv("ROIALIGN_EXT_CHECK");
  return request != nullptr && std::string_view(request) != "" && std::string_view(request) != "0";
}

// One call: its arguments, and the tensors made for it that have to live until it is enqueued.
class Call {
 public:
  // `name` is the operator's; `like` has the features' dtype and number of channels.
  Call(const char* name, const Tensor& like, int64_t images, const Tensor& boxes, const OptionalTensor& u,
       const OptionalTensor& v, int64_t bins_y, int64_t bins_x, const RuleArgs& rule)
      : name_(name), rule_name_(rule.name) {
    // Kernels number boxes and planes with 32 bits.
    const int64_t levels = static_cast<int64_t>(rule.scales.size()), most_images = INT32_MAX / levels;
    TORCH_CHECK_VALUE(boxes.size(0) <= INT32_MAX, "boxes: on CUDA at most ", INT32_MAX, ", got ", boxes.size(0));
    TORCH_CHECK_VALUE(images <= most_images, "input: on CUDA at most ", most_images, " images at each of ", levels,
                      " levels, got ", images);
    const bool wide = like.scalar_type() == at::kDouble || boxes.scalar_type() == at::kDouble;
    coordinates_ = wide ? at::kDouble : at::kFloat;
    args_.rule = find_rule(rule.name);
    args_.sampling_ratio = rule.sampling_ratio;
    args_.images = images;
    args_.channels = like.size(1);
    args_.boxes = boxes.size(0);
    args_.bins_y = bins_y;
    args_.bins_x = bins_x;
    args_.wide_boxes = wide;
    args_.storage = storage_of(like);
    args_.level_rule = level_rule(rule);
    args_.rows = keep(boxes);
    for (const OptionalTensor& direction : {u, v}) {
      if (direction.has_value()) args_.directions[args_.direction_count++] = keep(*direction);
    }
    if (checks_rows()) check_rows(kept_.front().cpu(), args_.rule, images);
  }

  // One level more, finest first.
  void add_map(const Elements<void>& pixels, int64_t height, int64_t width, double scale) {
    args_.maps[args_.levels++] = {pixels, height, width, scale};
  }
  void add_maps(at::TensorList maps, const RuleArgs& rule) {
    for (size_t i = 0; i < maps.size(); ++i) add_map(read(maps[i]), maps[i].size(2), maps[i].size(3), rule.scales[i]);
  }
  void set_bins(const Elements<void>& bins) { args_.bins = bins; }
  void read_winners(const Tensor& winners) {
    args_.winners = elements_at(const_cast<int32_t*>(winners.const_data_ptr<int32_t>()), winners);
  }
  void write_winners(const Tensor& winners) {
    args_.winners = elements_at(winners.mutable_data_ptr<int32_t>(), winners);
  }
  void set_extrapolation_value(double value) { args_.extrapolation_value = value; }
  // Gradients of the boxes as they are read: a tensor of their coordinates' type.
  Tensor write_grad_boxes() {
    const Tensor rows = at::empty(kept_.front().sizes(), kept_.front().options());
    args_.grad_boxes = rows.mutable_data_ptr();
    return rows;
  }

  void enqueue(Operation operation) const {
    check_sizes(operation != Operation::kPool && operation != Operation::kGradInput &&
                operation != Operation::kGradBoxes);
    Tensor scratch;
    void* memory = nullptr;
    if (const int64_t bytes = scratch_bytes(operation, args_); bytes > 0) {
      scratch = at::empty({bytes}, kept_.front().options().dtype(at::kByte));
      memory = scratch.mutable_data_ptr();
    }
    const std::string error = cuda::enqueue(operation, args_, memory, c10::cuda::getCurrentCUDAStream().stream());
    TORCH_CHECK(error.empty(), name_, " ('", rule_name_, "') on CUDA could not launch ", error);
  }

 private:
  void check_sizes(bool is_maximum) const {
    const int64_t bins = std::max(args_.bins_y, args_.bins_x);
    TORCH_CHECK_VALUE(bins <= kMostBins, "output_size: on CUDA at most ", kMostBins, " bins along an axis, got ", bins);
    // Kernels number the bins of a box with 32 bits.
    TORCH_CHECK_VALUE(args_.bins_y * args_.bins_x <= INT32_MAX, "output_size: on CUDA at most ", INT32_MAX,
                      " bins, got ", args_.bins_y * args_.bins_x);
    for (int i = 0; i < args_.levels; ++i) {
      const int64_t side = std::max(args_.maps[i].height, args_.maps[i].width);
      TORCH_CHECK_VALUE(side <= kMostPixels, "input: on CUDA at most ", kMostPixels, " rows and columns, got ", side);
    }
    if (!is_maximum) return;
    TORCH_CHECK_VALUE(most_samples(args_) <= kMaxSamples, args_.rule == Rule::kRoiPool ? "roi_pool" : "mode 'max'",
                      ": at most ", kMaxSamples, " samples of a bin may fall on the map along one axis");
  }

  const void* keep(const Tensor& rows) {
    kept_.push_back(rows.to(coordinates_).contiguous());
    return kept_.back().const_data_ptr();
  }

  const char* name_;
  std::string_view rule_name_;
  CallArgs args_ = {};
  at::ScalarType coordinates_;
  std::vector<Tensor> kept_;  // the boxes first
};

Tensor pool_cuda(at::TensorList input, const Tensor& boxes, const OptionalTensor& u, const OptionalTensor& v,
                 const OptionalTensor& winners, at::IntArrayRef output_size, at::ArrayRef<double> scales,
                 at::ArrayRef<double> canonical, int64_t sampling_ratio, std::string_view rule_name,
                 double extrapolation_value) {
  const RuleArgs rule = {scales, canonical, sampling_ratio, rule_name};
  check_pool_args(input, boxes, u, v, winners, c10::fromIntArrayRefSlow(output_size), rule, extrapolation_value);
  const c10::cuda::CUDAGuard guard(input[0].device());
  Call call("_pool", input[0], input[0].size(0), boxes, u, v, output_size[0], output_size[1], rule);
  const Tensor output = at::empty({boxes.size(0), input[0].size(1), output_size[0], output_size[1]},
                                  input[0].options().memory_format(input[0].suggest_memory_format()));
  if (output.numel() == 0) return output;
  call.add_maps(input, rule);
  call.set_bins(written(output));
  call.set_extrapolation_value(extrapolation_value);
  if (winners.has_value()) call.read_winners(*winners);
  call.enqueue(winners.has_value() ? Operation::kPoolWinners : Operation::kPool);
  return output;
}

std::tuple<Tensor, Tensor> pool_max_cuda(at::TensorList input, const Tensor& boxes, at::IntArrayRef output_size,
                                         at::ArrayRef<double> scales, at::ArrayRef<double> canonical,
                                         int64_t sampling_ratio, std::string_view rule_name) {
  const RuleArgs rule = {scales, canonical, sampling_ratio, rule_name};
  check_pool_max_args(input, boxes, c10::fromIntArrayRefSlow(output_size), rule);
  const c10::cuda::CUDAGuard guard(input[0].device());
  Call call("_pool_max", input[0], input[0].size(0), boxes, {}, {}, output_size[0], output_size[1], rule);
  const auto options = input[0].options().memory_format(input[0].suggest_memory_format());
  const Tensor values = at::empty({boxes.size(0), input[0].size(1), output_size[0], output_size[1]}, options);
  const Tensor winners = at::empty(values.sizes(), options.dtype(at::kInt));
  if (values.numel() == 0) return {values, winners};
  call.add_maps(input, rule);
  call.set_bins(written(values));
  call.write_winners(winners);
  call.enqueue(Operation::kMax);
  return {values, winners};
}

std::vector<Tensor> pool_grad_input_cuda(const Tensor& grad, const Tensor& boxes, const OptionalTensor& u,
                                         const OptionalTensor& v, const OptionalTensor& winners,
                                         at::IntArrayRef input_size, bool channels_last, at::ArrayRef<double> scales,
                                         at::ArrayRef<double> canonical, int64_t sampling_ratio,
                                         std::string_view rule_name) {
  const RuleArgs rule = {scales, canonical, sampling_ratio, rule_name};
  check_pool_grad_input_args(grad, boxes, u, v, winners, c10::fromIntArrayRefSlow(input_size), rule);
  const c10::cuda::CUDAGuard guard(grad.device());
  Call call("_pool_grad_input", grad, input_size[0], boxes, u, v, grad.size(2), grad.size(3), rule);
  const auto format = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  std::vector<Tensor> grad_input;
  bool empty = true;
  for (size_t i = 0; i < scales.size(); ++i) {
    const int64_t height = input_size[2 * i + 2], width = input_size[2 * i + 3];
    grad_input.push_back(
        at::empty({input_size[0], input_size[1], height, width}, grad.options().memory_format(format)));
    call.add_map(written(grad_input.back()), height, width, scales[i]);
    empty = empty && grad_input.back().numel() == 0;
  }
  if (empty) return grad_input;
  call.set_bins(read(grad));
  if (winners.has_value()) call.read_winners(*winners);
  call.enqueue(winners.has_value() ? Operation::kSpreadWinners : Operation::kGradInput);
  return grad_input;
}

Tensor pool_grad_boxes_cuda(const Tensor& grad, at::TensorList input, const Tensor& boxes, const OptionalTensor& v,
                            const OptionalTensor& winners, at::ArrayRef<double> scales, at::ArrayRef<double> canonical,
                            int64_t sampling_ratio, std::string_view rule_name) {
  const RuleArgs rule = {scales, canonical, sampling_ratio, rule_name};
  check_pool_grad_boxes_args(grad, input, boxes, v, winners, rule);
  const c10::cuda::CUDAGuard guard(input[0].device());
  Call call("_pool_grad_boxes", input[0], input[0].size(0), boxes, v, {}, grad.size(2), grad.size(3), rule);
  if (grad.numel() == 0) return at::zeros(boxes.sizes(), boxes.options());
  const Tensor rows = call.write_grad_boxes();
  call.add_maps(input, rule);
  call.set_bins(read(grad));
  if (winners.has_value()) call.read_winners(*winners);
  call.enqueue(winners.has_value() ? Operation::kGradBoxesWinners : Operation::kGradBoxes);
  return rows.to(boxes.scalar_type());
}

TORCH_LIBRARY_IMPL(roialign_ext, CUDA, m) {
  m.impl("_pool", pool_cuda);
  m.impl("_pool_max", pool_max_cuda);
  m.impl("_pool_grad_input", pool_grad_input_cuda);
  m.impl("_pool_grad_boxes", pool_grad_boxes_cuda);
}

}  // namespace
}  // namespace roialign_ext::cuda
