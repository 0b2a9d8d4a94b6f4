"""Tests and benchmarks of the CUDA kernels on a GPU; `first_run.sh` runs them."""
