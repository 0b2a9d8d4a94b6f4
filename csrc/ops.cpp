// The schemas of every operator, and nothing else. Kernels register themselves where they are written: csrc/meta.cpp
// (shapes), csrc/autograd*.cpp (derivatives), csrc/cpu/*.cpp (numbers). Equations: docs/math.md.

#include <torch/library.h>

TORCH_LIBRARY(roialign_ext, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};

  // The public operator: boxes are [K, 5] rows (batch index, x1, y1, x2, y2) in image pixels.
  m.def(
      "roi_align(Tensor input, Tensor boxes, SymInt[2] output_size, float spatial_scale=1.0, int sampling_ratio=-1, "
      "bool aligned=False, str mode=\"avg\") -> Tensor",
      tags);

  // The four operators below are closed under differentiation. u and v are directions in the space of boxes: A(b) F
  // with none of them, its derivative along u with one, along u and v with two. winners selects one sample per output
  // element (max pooling) instead of the mean over all samples.
  m.def(
      "_pool(Tensor input, Tensor boxes, Tensor? u, Tensor? v, Tensor? winners, SymInt[2] output_size, "
      "float spatial_scale, int sampling_ratio, str rule) -> Tensor",
      tags);
  m.def(
      "_pool_max(Tensor input, Tensor boxes, SymInt[2] output_size, float spatial_scale, int sampling_ratio, str rule) "
      "-> (Tensor, Tensor)",
      tags);
  m.def(
      "_pool_grad_input(Tensor grad, Tensor boxes, Tensor? u, Tensor? v, Tensor? winners, SymInt[4] input_size, "
      "bool channels_last, float spatial_scale, int sampling_ratio, str rule) -> Tensor",
      tags);
  m.def(
      "_pool_grad_boxes(Tensor grad, Tensor input, Tensor boxes, Tensor? v, Tensor? winners, float spatial_scale, "
      "int sampling_ratio, str rule) -> Tensor",
      tags);
}
