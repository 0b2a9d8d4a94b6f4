// Stands in for torch's header of that name where the device is the CPU.
#pragma once

#include <cstdint>

#include <torch/headeronly/macros/Macros.h>

HIDDEN_NAMESPACE_BEGIN(torch, stable, accelerator)

using DeviceIndex = int32_t;

struct DeviceGuard {
  explicit DeviceGuard(DeviceIndex) {}
  ~DeviceGuard() {}  // one that does something, so that a guard counts as used
};

HIDDEN_NAMESPACE_END(torch, stable, accelerator)
