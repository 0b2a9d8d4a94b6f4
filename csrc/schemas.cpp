// The schemas of every operator, and nothing else. The functions of each device are registered by csrc/private_ops.cpp
// and csrc/public_ops.cpp; derivatives, shape functions and batching rules in Python. Equations: docs/math.md.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(roialign_ext, m) {
  // The public operators. Boxes are (batch index, x1, y1, x2, y2) in image pixels. Rotated boxes are (batch index, cx,
  // cy, w, h, angle). Boxes of crops are (y1, x1, y2, x2), in fractions of the map's size.
  m.def(
      "roi_align(Tensor input, Tensor boxes, SymInt[2] output_size, float spatial_scale=1.0, int sampling_ratio=-1, "
      "bool aligned=False, str mode=\"avg\") -> Tensor");
  m.def(
      "multiscale_roi_align(Tensor[] features, Tensor boxes, SymInt[2] output_size, float[] scales, "
      "int sampling_ratio=-1, bool aligned=False, str mode=\"avg\", float canonical_scale=224.0, "
      "float canonical_level=4.0) -> Tensor");
  m.def(
      "multiscale_roi_align_rotated(Tensor[] features, Tensor boxes, SymInt[2] output_size, float[] scales, "
      "int sampling_ratio=-1, bool aligned=True, bool clockwise=False, str angle_unit=\"degree\", "
      "float canonical_scale=224.0, float canonical_level=4.0) -> Tensor");
  m.def("prroi_pool(Tensor input, Tensor boxes, SymInt[2] output_size, float spatial_scale=1.0) -> Tensor");
  m.def(
      "roi_warp(Tensor input, Tensor boxes, SymInt[2] output_size, float spatial_scale=1.0, int sampling_ratio=-1, "
      "str mode=\"avg\") -> Tensor");
  m.def("roi_pool(Tensor input, Tensor boxes, SymInt[2] output_size, float spatial_scale=1.0) -> Tensor");
  m.def(
      "ps_roi_align(Tensor input, Tensor boxes, SymInt[2] output_size, float spatial_scale=1.0, "
      "int sampling_ratio=-1) -> Tensor");
  m.def("ps_roi_pool(Tensor input, Tensor boxes, SymInt[2] output_size, float spatial_scale=1.0) -> Tensor");
  m.def(
      "roi_align_rotated(Tensor input, Tensor boxes, SymInt[2] output_size, float spatial_scale=1.0, "
      "int sampling_ratio=-1, bool aligned=True, bool clockwise=False, str angle_unit=\"degree\") -> Tensor");
  m.def(
      "crop_and_resize(Tensor input, Tensor boxes, Tensor box_indices, SymInt[2] crop_size, str method=\"bilinear\", "
      "float extrapolation_value=0.0, int samples_per_bin=1, str mode=\"avg\") -> Tensor");

  // The four operators below are closed under differentiation.
  //   input                one map per level; scales are their scales
  //   rule_args            two numbers that some rules need. With several maps they are (canonical_scale,
  //                        canonical_level), which select the level of a box. Of position-sensitive rules they are
  //                        (PH, PW), the bins of a whole box, each with a box and an image of its own.
  //   u, v                 directions in the space of boxes: A(b) F with none of them, its derivative along those that
  //                        are defined
  //   argmax               selects one sample per output element (max pooling) instead of the mean over all samples
  //   input_size           (N, C, H, W), H and W once more for each further level
  //   extrapolation_value  of the samples of a crop outside the map; derivatives do not depend on it
  m.def(
      "_pool(Tensor[] input, Tensor boxes, Tensor? u, Tensor? v, Tensor? argmax, SymInt[2] output_size, "
      "float[] scales, float[]? rule_args, int sampling_ratio, str rule, float extrapolation_value=0.0) -> Tensor");
  m.def(
      "_max_pool(Tensor[] input, Tensor boxes, SymInt[2] output_size, float[] scales, float[]? rule_args, "
      "int sampling_ratio, str rule) -> (Tensor, Tensor)");
  m.def(
      "_pool_grad_input(Tensor grad, Tensor boxes, Tensor? u, Tensor? v, Tensor? argmax, SymInt[] input_size, "
      "bool channels_last, float[] scales, float[]? rule_args, int sampling_ratio, str rule) -> Tensor[]");
  m.def(
      "_pool_grad_boxes(Tensor grad, Tensor[] input, Tensor boxes, Tensor? v, Tensor? argmax, float[] scales, "
      "float[]? rule_args, int sampling_ratio, str rule) -> Tensor");
}
