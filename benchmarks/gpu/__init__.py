"""Benchmarks of the CUDA kernels; `run_all.sh` runs them."""
