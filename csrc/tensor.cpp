#include "tensor.h"

#include <dlfcn.h>

#include <algorithm>

namespace roialign_ext {
namespace {

// Torch's message for the allocation that just failed on this thread. The ABI reports it since torch 2.13. With older
// releases the message has the words that programs search for.
std::string allocation_error(bool is_cuda) {
  using GetMessage = const char* (*)();
  const auto message = reinterpret_cast<GetMessage>(dlsym(RTLD_DEFAULT, "torch_exception_get_what_without_backtrace"));
  if (message != nullptr) return message();
  return is_cuda ? "CUDA out of memory." : "out of memory.";
}

}  // namespace

std::string device_text(const Tensor& tensor) {
  return tensor.is_cpu() ? "cpu" : text(tensor.is_cuda() ? "cuda:" : "another device, ", tensor.get_device_index());
}

Storage storage_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
      return Storage::kDouble;
    case ScalarType::Half:
      return Storage::kHalf;
    case ScalarType::BFloat16:
      return Storage::kBFloat16;
    default:
      return Storage::kFloat;
  }
}

bool is_channels_last(const Tensor& tensor) {
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  if (strides[1] == 0) return false;
  int64_t least = 0;
  for (const size_t axis : {1, 3, 2, 0}) {
    if (sizes[axis] == 0 || strides[axis] < least) return false;
    // One pixel per image, or a view of one: NCHW, as contiguous tensors of that shape are.
    if (axis == 0 && least == strides[1]) return false;
    least = strides[axis] * std::max<int64_t>(sizes[axis], 1);
  }
  return true;
}

Sizes sizes_of(const Tensors& maps) {
  Sizes sizes = {maps[0].size(0), maps[0].size(1)};
  for (const Tensor& map : maps) sizes.insert(sizes.end(), {map.size(2), map.size(3)});
  return sizes;
}

Tensor empty(const Sizes& sizes, ScalarType dtype, const Tensor& like, bool channels_last) {
  // The strides that torch.empty gives, for empty tensors too.
  Sizes strides(sizes.size());
  int64_t stride = 1;
  if (channels_last) {
    for (const size_t axis : {1, 3, 2, 0}) {
      strides[axis] = stride;
      stride *= sizes[axis];
    }
  } else {
    for (size_t axis = sizes.size(); axis-- > 0; stride *= std::max<int64_t>(sizes[axis], 1)) strides[axis] = stride;
  }
  int32_t device_type = 0, device_index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  const auto number = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle result = nullptr;
  const AOTITorchError error = aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(),
                                                        strides.data(), number, device_type, device_index, &result);
  ROI_CHECK_RUNTIME(error == TORCH_SUCCESS, allocation_error(like.is_cuda()), " (a ",
                    torch::headeronly::toString(dtype), " tensor of shape ", list_text<int64_t>(sizes), " on ",
                    device_text(like), ")");
  return Tensor(result);
}

Tensor zeros(const Sizes& sizes, ScalarType dtype, const Tensor& like) {
  const Tensor result = empty(sizes, dtype, like);
  TORCH_ERROR_CODE_CHECK(aoti_torch_zero_(result.get()));
  return result;
}

Tensor as_dtype(const Tensor& tensor, ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype);
}

Tensor as_contiguous(const Tensor& tensor, ScalarType dtype) {
  const Tensor converted = as_dtype(tensor, dtype);
  return converted.is_contiguous() ? converted : torch::stable::contiguous(converted);
}

std::string take_text(StringHandle argument) {
  const char* characters = nullptr;
  size_t length = 0;
  TORCH_ERROR_CODE_CHECK(torch_string_c_str(argument, &characters));
  TORCH_ERROR_CODE_CHECK(torch_string_length(argument, &length));
  const std::string text(characters, length);
  TORCH_ERROR_CODE_CHECK(torch_delete_string(argument));
  return text;
}

}  // namespace roialign_ext
