// The private operators on CUDA: tensors become the kernels' arguments (args.h). Launches go to the device of the
// features and its current stream. Nothing here waits for the device, except the checks of boxes that
// ROIALIGN_EXT_CHECK=1 requests.
#define USE_CUDA  // torch's headers then declare the stream functions
#include "../private_ops.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "../core/argmax.h"
#include "../public_ops.h"
#include "args.h"

namespace roialign_ext {
namespace {

using namespace cuda;

template <class Void>
View<Void> view_of(Void* data, const Tensor& tensor) {
  const auto strides = tensor.strides();
  return {data, strides[0], strides[1], strides[2], strides[3]};
}

// Constness ends here: the kernels' arguments do not distinguish tensors that are read from tensors that are written.
View<void> const_view(const Tensor& tensor) { return view_of(const_cast<void*>(tensor.const_data_ptr()), tensor); }
View<void> mutable_view(const Tensor& tensor) { return view_of(tensor.mutable_data_ptr(), tensor); }

void* current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return stream;
}

bool checks_boxes() {
  const char* request = std::getenv("ROIALIGN_EXT_CHECK");
  return request != nullptr && std::string_view(request) != "" && std::string_view(request) != "0";
}

// One call: its arguments, and the tensors that must live until the call is enqueued.
class Call {
 public:
  // `name` is the operator's name; `like` has the dtype and the number of channels of the features.
  Call(const char* name, const Tensor& like, int64_t images, const Tensor& boxes, const OptionalTensor& u,
       const OptionalTensor& v, int64_t bins_y, int64_t bins_x, const Geometry& geometry)
      : name_(name), rule_name_(geometry.name), coordinates_(coordinate_type(like, boxes)) {
    // Kernels number boxes and planes with 32-bit integers.
    const int64_t levels = static_cast<int64_t>(geometry.scales.size()), max_images = INT32_MAX / levels;
    ROI_CHECK_VALUE(boxes.size(0) <= INT32_MAX, "boxes: on CUDA at most ", INT32_MAX, ", got ", boxes.size(0));
    ROI_CHECK_VALUE(images <= max_images, "input: on CUDA at most ", max_images, " images at each of ", levels,
                    " levels, got ", images);
    args_.rule = geometry.rule;
    args_.sampling_ratio = geometry.sampling_ratio;
    args_.ps_bins = ps_bins_of(geometry);
    args_.images = images;
    args_.channels = like.size(1);
    args_.boxes = boxes.size(0);
    args_.bins_y = bins_y;
    args_.bins_x = bins_x;
    args_.boxes_are_double = coordinates_ == ScalarType::Double;
    args_.storage = storage_of(like);
    args_.level_rule = level_rule(geometry);
    args_.box_data = keep(boxes);
    for (const OptionalTensor& direction : {u, v}) {
      if (direction.has_value()) args_.directions[args_.direction_count++] = keep(*direction);
    }
    if (checks_boxes()) {
      const torch::stable::Device host(torch::headeronly::DeviceType::CPU);
      check_box_values(torch::stable::to(kept_.front(), host), args_.rule, images, args_.ps_bins);
    }
  }

  // Adds one level; the finest level comes first.
  void add_map(const View<void>& pixels, int64_t height, int64_t width, double scale) {
    args_.maps[args_.levels++] = {pixels, height, width, scale};
  }
  void add_maps(const Tensors& maps, const Geometry& geometry) {
    for (size_t i = 0; i < maps.size(); ++i) {
      add_map(const_view(maps[i]), maps[i].size(2), maps[i].size(3), geometry.scales[i]);
    }
  }
  void set_bins(const View<void>& bins) { args_.bins = bins; }
  void read_argmax(const Tensor& argmax) {
    args_.argmax = view_of(const_cast<int32_t*>(argmax.const_data_ptr<int32_t>()), argmax);
  }
  void write_argmax(const Tensor& argmax) { args_.argmax = view_of(argmax.mutable_data_ptr<int32_t>(), argmax); }
  void set_extrapolation_value(double value) { args_.extrapolation_value = value; }
  // The gradient w.r.t. the boxes, in the dtype of the coordinates.
  Tensor write_grad_boxes() {
    const Tensor grad_boxes = empty(kept_.front().sizes().vec(), coordinates_, kept_.front());
    args_.grad_boxes = grad_boxes.mutable_data_ptr();
    return grad_boxes;
  }

  void enqueue(Operation operation) const {
    check_sizes(uses_samples(operation));
    OptionalTensor scratch;
    void* memory = nullptr;
    if (const int64_t bytes = scratch_bytes(operation, args_); bytes > 0) {
      scratch = empty({bytes}, ScalarType::Byte, kept_.front());
      memory = scratch->mutable_data_ptr();
    }
    const std::string error = cuda::enqueue(operation, args_, memory, current_stream(kept_.front()));
    ROI_CHECK_RUNTIME(error.empty(), name_, " ('", rule_name_, "') on CUDA could not launch ", error);
  }

 private:
  void check_sizes(bool uses_samples) const {
    const int64_t bins = std::max(args_.bins_y, args_.bins_x);
    ROI_CHECK_VALUE(bins <= kMaxBins, "output_size: on CUDA at most ", kMaxBins, " bins along an axis, got ", bins);
    // Kernels number the bins of a box with 32-bit integers.
    ROI_CHECK_VALUE(args_.bins_y * args_.bins_x <= INT32_MAX, "output_size: on CUDA at most ", INT32_MAX, " bins, got ",
                    args_.bins_y * args_.bins_x);
    for (int i = 0; i < args_.levels; ++i) {
      const int64_t side = std::max(args_.maps[i].height, args_.maps[i].width);
      ROI_CHECK_VALUE(side <= kMaxPixels, "input: on CUDA at most ", kMaxPixels, " rows and columns, got ", side);
    }
    if (!uses_samples) return;
    ROI_CHECK_VALUE(max_samples_of_bin(args_) <= kMaxSamplesOfBin,
                    args_.rule == Rule::kRoiPool ? "roi_pool" : "mode 'max'", ": at most ", kMaxSamplesOfBin,
                    " samples of a bin may fall on the map along one axis");
  }

  const void* keep(const Tensor& boxes) {
    kept_.push_back(as_contiguous(boxes, coordinates_));
    return kept_.back().const_data_ptr();
  }

  const char* name_;
  std::string_view rule_name_;
  CallArgs args_ = {};
  ScalarType coordinates_;
  Tensors kept_;  // the boxes first
};

// Launches go to the device of the features.
torch::stable::accelerator::DeviceGuard on_device_of(const Tensor& tensor) {
  return torch::stable::accelerator::DeviceGuard(tensor.get_device_index());
}

}  // namespace

Tensor pool(const Tensors& input, const Tensor& boxes, const OptionalTensor& u, const OptionalTensor& v,
            const OptionalTensor& argmax, const Sizes& output_size, const Geometry& geometry,
            double extrapolation_value) {
  const auto guard = on_device_of(input[0]);
  Call call("_pool", input[0], input[0].size(0), boxes, u, v, output_size[0], output_size[1], geometry);
  const Tensor output = empty({boxes.size(0), input[0].size(1), output_size[0], output_size[1]}, input[0].scalar_type(),
                              input[0], is_channels_last(input[0]));
  if (output.numel() == 0) return output;
  call.add_maps(input, geometry);
  call.set_bins(mutable_view(output));
  call.set_extrapolation_value(extrapolation_value);
  if (argmax.has_value()) call.read_argmax(*argmax);
  call.enqueue(argmax.has_value() ? Operation::kArgmaxPool : Operation::kPool);
  return output;
}

std::tuple<Tensor, Tensor> max_pool(const Tensors& input, const Tensor& boxes, const Sizes& output_size,
                                    const Geometry& geometry) {
  const auto guard = on_device_of(input[0]);
  Call call("_max_pool", input[0], input[0].size(0), boxes, {}, {}, output_size[0], output_size[1], geometry);
  const Sizes sizes = {boxes.size(0), input[0].size(1), output_size[0], output_size[1]};
  const bool channels_last = is_channels_last(input[0]);
  const Tensor values = empty(sizes, input[0].scalar_type(), input[0], channels_last);
  const Tensor argmax = empty(sizes, ScalarType::Int, input[0], channels_last);
  if (values.numel() == 0) return {values, argmax};
  call.add_maps(input, geometry);
  call.set_bins(mutable_view(values));
  call.write_argmax(argmax);
  call.enqueue(Operation::kMaxPool);
  return {values, argmax};
}

Tensors pool_grad_input(const Tensor& grad, const Tensor& boxes, const OptionalTensor& u, const OptionalTensor& v,
                        const OptionalTensor& argmax, const Sizes& input_size, bool channels_last,
                        const Geometry& geometry) {
  const auto guard = on_device_of(grad);
  Call call("_pool_grad_input", grad, input_size[0], boxes, u, v, grad.size(2), grad.size(3), geometry);
  Tensors grad_input;
  bool is_empty = true;
  for (size_t i = 0; i < geometry.scales.size(); ++i) {
    const int64_t height = input_size[2 * i + 2], width = input_size[2 * i + 3];
    grad_input.push_back(empty({input_size[0], input_size[1], height, width}, grad.scalar_type(), grad, channels_last));
    call.add_map(mutable_view(grad_input.back()), height, width, geometry.scales[i]);
    is_empty = is_empty && grad_input.back().numel() == 0;
  }
  if (is_empty) return grad_input;
  call.set_bins(const_view(grad));
  if (argmax.has_value()) call.read_argmax(*argmax);
  call.enqueue(argmax.has_value() ? Operation::kArgmaxGradInput : Operation::kGradInput);
  return grad_input;
}

Tensor pool_grad_boxes(const Tensor& grad, const Tensors& input, const Tensor& boxes, const OptionalTensor& v,
                       const OptionalTensor& argmax, const Geometry& geometry) {
  const auto guard = on_device_of(input[0]);
  Call call("_pool_grad_boxes", input[0], input[0].size(0), boxes, v, {}, grad.size(2), grad.size(3), geometry);
  if (grad.numel() == 0) return zeros(boxes.sizes().vec(), boxes.scalar_type(), boxes);
  const Tensor grad_boxes = call.write_grad_boxes();
  call.add_maps(input, geometry);
  call.set_bins(const_view(grad));
  if (argmax.has_value()) call.read_argmax(*argmax);
  call.enqueue(argmax.has_value() ? Operation::kArgmaxGradBoxes : Operation::kGradBoxes);
  return as_dtype(grad_boxes, boxes.scalar_type());
}

STABLE_TORCH_LIBRARY_IMPL(roialign_ext, CUDA, m) {
  register_private_ops(m);
  register_public_ops(m);
}

}  // namespace roialign_ext
