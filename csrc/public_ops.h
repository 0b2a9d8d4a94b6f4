// The public operators for programs without Python: each is a choice of rule and mode of the private operators. With
// Python, roialign_ext/_operators.py composes them of private operators that have derivatives.
#pragma once

#include "tensor.h"

namespace roialign_ext {

// Registers every public operator under the key of `library`.
void register_public_ops(torch::stable::detail::StableLibrary& library);

}  // namespace roialign_ext
