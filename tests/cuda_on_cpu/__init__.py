"""CUDA kernels on the CPU, for tests on machines without a GPU. `CpuKernels` compiles and calls them."""

from tests.cuda_on_cpu.loader import CpuKernels, CudaShimError, available, current_seed

__all__ = ["CpuKernels", "CudaShimError", "available", "current_seed"]
