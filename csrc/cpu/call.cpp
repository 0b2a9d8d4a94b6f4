#include "call.h"

#include <cmath>

namespace roialign_ext {
namespace {

template <class T>
void check_batch_indices(const Tensor& rows, int64_t images) {
  const T* row = rows.const_data_ptr<T>();
  for (int64_t k = 0; k < rows.size(0); ++k) {
    const T index = row[5 * k];
    TORCH_CHECK_INDEX(index >= T(0) && index < static_cast<T>(images) && index == std::floor(index),
                      "boxes: the batch index in row ", k, " must be a whole number in [0, ", images, "), got ", index);
  }
}

}  // namespace

BoxCall make_box_call(const Tensor& features, int64_t images, const Tensor& boxes, const OptionalTensor& u,
                      const OptionalTensor& v, double spatial_scale, int64_t sampling_ratio, std::string_view rule) {
  BoxCall call;
  const bool wide = features.scalar_type() == at::kDouble || boxes.scalar_type() == at::kDouble;
  call.coordinates = wide ? at::kDouble : at::kFloat;
  call.rows = boxes.to(call.coordinates).contiguous();
  for (const OptionalTensor& direction : {u, v}) {
    if (direction.has_value()) call.directions.push_back(direction->to(call.coordinates).contiguous());
  }
  call.rule = rule == kHalfPixelRule ? Rule::kRoiAlignHalfPixel : Rule::kRoiAlignLegacy;
  call.spatial_scale = spatial_scale;
  call.sampling_ratio = sampling_ratio;
  if (wide) {
    check_batch_indices<double>(call.rows, images);
  } else {
    check_batch_indices<float>(call.rows, images);
  }
  return call;
}

}  // namespace roialign_ext
