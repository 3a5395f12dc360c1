"""CPU or GPU: who prunes a weight that lies in this machine's memory or in a file. The result is the same."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from oxiprune_gpu.blocks import BlockSource
from oxiprune_gpu.device_arrays import import_cupy
from oxiprune_gpu.errors import GpuUnavailable, InvalidOption
from oxiprune_gpu.metrics import ImportanceMetric

BACKEND_NAMES = ("auto", "cpu", "cuda")

WEIGHT_PAYS_FROM = 16 << 20
"""Bytes from which a weight pays for its way to the GPU. A weight in a cached file takes the CPU about 0.6 s a GB on
two threads (three memory copies and the reading); the GPU 0.15 s, nearly all of it the way there and back over PCIe at
20 GB/s beside the reading and writing. At 16 MiB that saves 7 ms, against about 1 ms to begin with."""

OLDEST_CAPABILITY = 70
"""Compute capability 7.0, Volta. Older GPUs have no `__nanosleep`, and do not promise that a warp goes on which others
wait for, as the tiles that look back for ties do."""

START_PAYS_FROM = 4 << 30
"""Bytes of all weights from which it pays to start CuPy at all: its import, a context on the GPU and the loading of
compiled kernels take a second and a half."""


def resolve_backend(backend: str, nbytes: int) -> str:
    """Say once, before the work, which `backend` to give to `prune_blocks` for weights of `nbytes` bytes together.

    Args:
        backend: "cpu", "cuda", or "auto": the GPU where one is present and it pays.
        nbytes: bytes of all weights of the job. Below a few gigabytes "auto" is "cpu", and CuPy is not imported,
            unless the program has done so.

    Returns:
        "cpu", "cuda", or "auto": the GPU for each weight that is large enough and fits into its free memory.

    Raises:
        InvalidOption: there is no such backend.
        GpuUnavailable: "cuda", and no GPU can be used.
    """
    _check_name(backend)
    if backend == "cuda":
        usable_cupy()
    pays_from = WEIGHT_PAYS_FROM if "cupy" in sys.modules else START_PAYS_FROM
    if backend == "auto" and (nbytes < pays_from or _cupy_or_none() is None):
        return "cpu"
    return backend


def goes_to_gpu(backend: str, source: BlockSource, metric: ImportanceMetric) -> bool:
    """Whether a weight is pruned on the GPU. Imports CuPy only for a weight that is large enough.

    Raises:
        InvalidOption: there is no such backend, or no kernel for this metric.
        GpuUnavailable: "cuda", and no GPU can be used.
    """
    _check_name(backend)
    if backend == "cpu":
        return False
    if backend == "auto":
        nbytes = math.prod(source.shape) * source.dtype.itemsize
        return nbytes >= WEIGHT_PAYS_FROM and _has_kernels(metric) and _fits(source)
    if not _has_kernels(metric):
        raise InvalidOption(f"metric {metric.text} has no kernels for a GPU: use the backend cpu")
    usable_cupy()
    return True


def usable_cupy() -> Any:
    """The module `cupy`, where there is a GPU that runs the kernels.

    Raises:
        GpuUnavailable: there is none, it is too old, or CuPy or the driver is missing.
    """
    cupy = import_cupy()
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except RuntimeError as error:
        raise GpuUnavailable(f"no GPU can be used: {error}", missing=False) from error
    if not devices:
        raise GpuUnavailable("no GPU can be used: there is none", missing=False)
    check_capability(cupy)
    return cupy


def check_capability(cupy: Any) -> None:
    """Look whether the current GPU runs the kernels.

    Raises:
        GpuUnavailable: it is older than `OLDEST_CAPABILITY`, or can't be asked.
    """
    try:
        capability = int(cupy.cuda.Device().compute_capability)  # "61" for 6.1
    except RuntimeError as error:
        raise GpuUnavailable(f"no GPU can be used: {error}", missing=False) from error
    if capability < OLDEST_CAPABILITY:
        has, needed = (f"{number // 10}.{number % 10}" for number in (capability, OLDEST_CAPABILITY))
        raise GpuUnavailable(
            f"this GPU has compute capability {has}: the kernels need {needed} (Volta) or newer", missing=False
        )


@contextmanager
def failures_told() -> Iterator[None]:
    """Turn what CuPy raises for the driver inside the block (launches, events, page-locked memory) into our error.

    Raises:
        GpuUnavailable: the driver, or CUDA's runtime, has failed.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, _driver_failures()):
            raise
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise GpuUnavailable(f"the GPU has failed: {said}", missing=False) from error


def _driver_failures() -> tuple[type[RuntimeError], ...]:
    """CuPy's errors of CUDA's runtime and of the driver; none where nobody has imported CuPy."""
    cupy = sys.modules.get("cupy")
    if cupy is None:
        return ()
    return cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError


def _check_name(backend: str) -> None:
    if backend not in BACKEND_NAMES:
        raise InvalidOption(f"unknown backend '{backend}': use {', '.join(BACKEND_NAMES[:-1])} or {BACKEND_NAMES[-1]}")


def _has_kernels(metric: ImportanceMetric) -> bool:
    from oxiprune_gpu.backends.cuda_tables import METRIC_FUNCTORS  # takes 5 ms, which a small model would notice

    return type(metric) in METRIC_FUNCTORS


def _cupy_or_none() -> Any:
    try:
        return usable_cupy()
    except GpuUnavailable:
        return None


def _fits(source: BlockSource) -> bool:
    """Whether there is a GPU with room for the weight, a gradient and, at worst, as many units: sums, scores, marks."""
    cupy = _cupy_or_none()
    if cupy is None:
        return False
    score_bytes = 8 if source.dtype == np.float64 else 4
    needed = math.prod(source.shape) * (source.dtype.itemsize + 2 * score_bytes + 8 + 1)
    try:
        free = cupy.cuda.runtime.memGetInfo()[0] + cupy.get_default_memory_pool().free_bytes()
    except RuntimeError:  # another program has the GPU, or all of its memory
        return False
    return bool(needed <= free)
