#include "call.h"

namespace roialign_ext {
namespace {

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

Extents extents_of(const Tensor& tensor) {
  return {tensor.size(0),   tensor.size(1),   tensor.size(2),   tensor.size(3),
          tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)};
}

template <class T>
void find_planes(BoxCall& call, const RuleArgs& rule) {
  check_rows(call.rows, call.rule, call.images);
  const LevelRule levels = level_rule(rule);
  call.plane_of_box.resize(static_cast<size_t>(call.rows.size(0)));
  for (size_t k = 0; k < call.plane_of_box.size(); ++k) {
    const T* row = call.rows.const_data_ptr<T>() + call.rows.size(1) * static_cast<int64_t>(k);
    const int64_t level = call.levels.size() == 1 ? 0 : level_of_box(levels, row[1], row[2], row[3], row[4]);
    call.plane_of_box[k] = level * call.images + static_cast<int64_t>(row[0]);
  }
}

}  // namespace

BoxCall make_box_call(at::ScalarType features, at::IntArrayRef sizes, const Tensor& boxes, const OptionalTensor& u,
                      const OptionalTensor& v, const RuleArgs& rule) {
  BoxCall call;
  const bool wide = features == at::kDouble || boxes.scalar_type() == at::kDouble;
  call.coordinates = wide ? at::kDouble : at::kFloat;
  call.rows = boxes.to(call.coordinates).contiguous();
  for (const OptionalTensor& direction : {u, v}) {
    if (direction.has_value()) call.directions.push_back(direction->to(call.coordinates).contiguous());
  }
  call.rule = find_rule(rule.name);
  call.sampling_ratio = rule.sampling_ratio;
  call.images = sizes[0];
  for (size_t i = 0; i < rule.scales.size(); ++i) {
    call.levels.push_back({rule.scales[i], sizes[2 * i + 2], sizes[2 * i + 3]});
  }
  if (wide) {
    find_planes<double>(call, rule);
  } else {
    find_planes<float>(call, rule);
  }
  return call;
}

std::vector<int64_t> sizes_of(at::TensorList maps) {
  std::vector<int64_t> sizes = {maps[0].size(0), maps[0].size(1)};
  for (const Tensor& map : maps) sizes.insert(sizes.end(), {map.size(2), map.size(3)});
  return sizes;
}

Input input_view(const Tensor& tensor) { return {extents_of(tensor), tensor.const_data_ptr(), storage_of(tensor)}; }

Output output_view(const Tensor& tensor) { return {extents_of(tensor), tensor.mutable_data_ptr(), storage_of(tensor)}; }

WinnersView<const int32_t> winners_view(const Tensor& winners) {
  return {extents_of(winners), winners.const_data_ptr<int32_t>()};
}

WinnersView<int32_t> mutable_winners_view(const Tensor& winners) {
  return {extents_of(winners), winners.mutable_data_ptr<int32_t>()};
}

Pyramid<Input> input_pyramid(at::TensorList maps) {
  Pyramid<Input> pyramid = {{}, maps[0].size(0)};
  for (const Tensor& map : maps) pyramid.levels.push_back(input_view(map));
  return pyramid;
}

Pyramid<Output> output_pyramid(at::TensorList maps) {
  Pyramid<Output> pyramid = {{}, maps[0].size(0)};
  for (const Tensor& map : maps) pyramid.levels.push_back(output_view(map));
  return pyramid;
}

}  // namespace roialign_ext
