"""Backends: who does the work. `BACKENDS` is the table, `backend_of` the way in.

To add one: a class with the primitives of `Backend`, and a row here. The contract test then runs over it unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from oxiprune_gpu.backends.base import Backend, Plan, PlanMember, Statistics
from oxiprune_gpu.backends.choice import check_capability, resolve_backend, usable_cupy
from oxiprune_gpu.backends.deferred import deferred_checks
from oxiprune_gpu.backends.numpy_backend import NumpyBackend
from oxiprune_gpu.device_arrays import import_cupy

_BLOCKS_A_MULTIPROCESSOR = 8
"""Blocks of 256 threads that a multiprocessor holds at once."""


def backend_on_gpu() -> Backend:
    """The CUDA backend on CuPy.

    Raises:
        GpuUnavailable: CuPy is missing, or the current GPU is too old for the kernels.
    """
    from oxiprune_gpu.backends.cuda_backend import CudaBackend
    from oxiprune_gpu.backends.kernels import CupyKernels

    cupy = import_cupy()
    check_capability(cupy)
    blocks = cupy.cuda.Device().attributes["MultiProcessorCount"] * _BLOCKS_A_MULTIPROCESSOR
    return CudaBackend(cupy, CupyKernels(), blocks)


BACKENDS: dict[str, Callable[[], Backend]] = {"numpy": NumpyBackend, "cupy": backend_on_gpu}
"""Library of the arrays that a backend works on -> what makes it."""


def backend_of(array: Any) -> Backend:
    """Return the backend that works on arrays of this kind."""
    return _backend("numpy" if isinstance(array, np.ndarray) else "cupy")


@cache
def _backend(library: str) -> Backend:
    return BACKENDS[library]()


__all__ = [
    "BACKENDS",
    "Backend",
    "NumpyBackend",
    "Plan",
    "PlanMember",
    "Statistics",
    "backend_of",
    "backend_on_gpu",
    "deferred_checks",
    "resolve_backend",
    "usable_cupy",
]
