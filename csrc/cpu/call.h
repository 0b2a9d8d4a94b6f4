// Converts the tensors of one operator call, checked before (checks.h), to the views and arguments of the kernels.
#pragma once

#include <vector>

#include "../checks.h"
#include "kernels.h"

namespace roialign_ext {

// The boxes of one call, read as float64 if they or the features are, else as float32.
struct Call {
  Tensor boxes;        // [K, columns], contiguous
  Tensors directions;  // those of u and v that are defined
  Rule rule;
  PsBins ps_bins;
  int64_t sampling_ratio;
  int64_t images;
  std::vector<MapLevel> levels;
  std::vector<int64_t> plane_of_box;

  // Valid as long as the call.
  template <class T>
  CallArgs<T> args(int64_t bins_y, int64_t bins_x) const {
    return {rule,   ps_bins,      sampling_ratio,           boxes.size(0), boxes.size(1), bins_y, bins_x, images,
            levels, plane_of_box, boxes.const_data_ptr<T>()};
  }

  template <class T>
  std::vector<const T*> direction_pointers() const {
    std::vector<const T*> pointers;
    for (const Tensor& direction : directions) pointers.push_back(direction.const_data_ptr<T>());
    return pointers;
  }
};

// `sizes` are (N, C, H, W), H and W once more for each further level. Raises the errors of check_box_values().
Call make_call(ScalarType coordinates, const Sizes& sizes, const Tensor& boxes, const OptionalTensor& u,
               const OptionalTensor& v, const Geometry& geometry);

ConstView const_view(const Tensor& tensor);
MutableView mutable_view(const Tensor& tensor);
ArgmaxView<const int32_t> const_argmax_view(const Tensor& argmax);
ArgmaxView<int32_t> mutable_argmax_view(const Tensor& argmax);
Pyramid<ConstView> const_pyramid(const Tensors& maps);
Pyramid<MutableView> mutable_pyramid(const Tensors& maps);

// Calls run(W(), T()), where W is the arithmetic type of the features and T the type of the coordinates. Float64
// features always have float64 coordinates.
template <class Run>
void dispatch_types(ScalarType features, ScalarType coordinates, Run&& run) {
  if (features == ScalarType::Double) return run(double(), double());
  if (coordinates == ScalarType::Double) return run(float(), double());
  run(float(), float());
}

}  // namespace roialign_ext
