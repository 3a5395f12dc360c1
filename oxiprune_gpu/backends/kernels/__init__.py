"""CUDA kernels, header-free, and the loader that compiles them.

One file a family: `select.cu` finds thresholds, `apply.cu` prunes by them, and so on; `*.cuh` is what they share. A
family is compiled for one dtype and one metric at a time, the first time it is needed.
"""

from __future__ import annotations

from oxiprune_gpu.backends.kernels.loader import CupyKernels, Kernel, KernelLoader, source_of

__all__ = ["CupyKernels", "Kernel", "KernelLoader", "source_of"]
