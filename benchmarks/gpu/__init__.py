"""Tests and benchmarks of the CUDA kernels on a GPU; `first_run.sh` runs them."""

import os

# Phases fork, and a process that has asked the CUDA runtime for its devices must not. Imported modules of torch do ask
# whether there are any: this has them ask the driver's management library.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
