#include "call.h"

namespace roialign_ext {
namespace {

Extents extents_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  return {sizes[0], sizes[1], sizes[2], sizes[3], strides[0], strides[1], strides[2], strides[3]};
}

template <class T>
void find_planes(Call& call, const Geometry& geometry) {
  check_box_values(call.boxes, call.rule, call.images, call.ps_bins);
  const LevelRule levels = level_rule(geometry);
  const int64_t boxes = call.boxes.size(0), columns = call.boxes.size(1);
  call.plane_of_box.reserve(static_cast<size_t>(boxes));
  const T* box = call.boxes.const_data_ptr<T>();
  for (int64_t k = 0; k < boxes; ++k, box += columns) {
    const int64_t level = call.levels.size() == 1 ? 0 : level_of_box(levels, is_rotated(call.rule), box);
    call.plane_of_box.push_back(level * call.images + call.ps_bins.image(static_cast<int64_t>(box[0]), k));
  }
}

template <class MapView, class View>
Pyramid<MapView> pyramid(const Tensors& maps, View&& view) {
  Pyramid<MapView> result = {{}, maps[0].size(0)};
  for (const Tensor& map : maps) result.levels.push_back(view(map));
  return result;
}

}  // namespace

Call make_call(ScalarType coordinates, const Sizes& sizes, const Tensor& boxes, const OptionalTensor& u,
               const OptionalTensor& v, const Geometry& geometry) {
  Call call = {as_contiguous(boxes, coordinates),
               {},
               geometry.rule,
               ps_bins_of(geometry),
               geometry.sampling_ratio,
               sizes[0],
               {},
               {}};
  for (const OptionalTensor& direction : {u, v}) {
    if (direction.has_value()) call.directions.push_back(as_contiguous(*direction, coordinates));
  }
  for (size_t i = 0; i < geometry.scales.size(); ++i) {
    call.levels.push_back({geometry.scales[i], sizes[2 * i + 2], sizes[2 * i + 3]});
  }
  if (coordinates == ScalarType::Double) {
    find_planes<double>(call, geometry);
  } else {
    find_planes<float>(call, geometry);
  }
  return call;
}

ConstView const_view(const Tensor& tensor) { return {extents_of(tensor), tensor.const_data_ptr(), storage_of(tensor)}; }

MutableView mutable_view(const Tensor& tensor) {
  return {extents_of(tensor), tensor.mutable_data_ptr(), storage_of(tensor)};
}

ArgmaxView<const int32_t> const_argmax_view(const Tensor& argmax) {
  return {extents_of(argmax), argmax.const_data_ptr<int32_t>()};
}

ArgmaxView<int32_t> mutable_argmax_view(const Tensor& argmax) {
  return {extents_of(argmax), argmax.mutable_data_ptr<int32_t>()};
}

Pyramid<ConstView> const_pyramid(const Tensors& maps) { return pyramid<ConstView>(maps, const_view); }

Pyramid<MutableView> mutable_pyramid(const Tensors& maps) { return pyramid<MutableView>(maps, mutable_view); }

}  // namespace roialign_ext
