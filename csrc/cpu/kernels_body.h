// Every loop of one instruction set, and the table of them. Included inside the namespace and target region of each
// kernels_*.cpp, after the macro ROI_VECTOR_BYTES is defined.

#include "vector_body.h"
// The loops, which use it.
#include "average_body.h"
#include "average_grad_boxes_body.h"
#include "max_pool_body.h"
#include "rotated_body.h"

template <class W>
Kernels<W> kernels() {
  return {VectorType<W>::lanes, average_pool_units<W>, average_grad_input_units<W>, average_grad_boxes_units<W>,
          max_pool_units<W>,    rotated_pool_units<W>, rotated_grad_input_units<W>, rotated_grad_boxes_units<W>};
}
