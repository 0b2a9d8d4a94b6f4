"""Tests and benchmarks of the CUDA kernels on a GPU; `first_run.sh` runs them."""

import os

# Phases fork, which a process must not do after a device query through the CUDA runtime. Modules of torch make such a
# query when imported; this setting redirects it to the driver's management library.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
