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
  return {VectorType<W>::lanes, average_pool<W>, average_grad_input<W>, average_grad_boxes<W>,
          max_pool<W>,          rotated_pool<W>, rotated_grad_input<W>, rotated_grad_boxes<W>};
}
