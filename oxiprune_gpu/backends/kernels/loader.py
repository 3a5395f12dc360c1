"""Finds a kernel's source, compiles it when it is first asked for, and keeps it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Protocol

import numpy as np

from oxiprune_gpu.errors import GpuUnavailable

_INCLUDE = re.compile(r'^#include "([\w.]+)"\n', re.MULTILINE)
_ONCE = "#pragma once\n"
_NAMES_WHAT_IS_MISSING = re.compile(r"nvrtc|(cannot|could not) open source file|\bheaders?\b", re.IGNORECASE)
_NULL = np.uint64(0)
_MOST_SAID = 600
"""Characters of a compiler's complaint that an error text repeats."""


class Kernel(Protocol):
    """Something that can be launched; `cupy.RawKernel` is one."""

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], *, shared_mem: int = 0
    ) -> None:
        """Launch on the current stream. Arguments are arrays, None (null) and numpy scalars of the exact width."""


class KernelLoader(Protocol):
    """Where kernels come from."""

    def kernel(self, family: str, name: str, defines: Mapping[str, str]) -> Kernel:
        """Return the kernel `name` of `kernels/<family>.cu`, compiled with `defines`."""


@cache
def source_of(family: str) -> str:
    """Text of `kernels/<family>.cu`, every local include in its place, each once."""
    included: set[str] = set()

    def expanded(file: str) -> str:
        included.add(file)
        text = files(__package__).joinpath(file).read_text(encoding="utf-8").replace(_ONCE, "")
        return _INCLUDE.sub(lambda match: "" if match[1] in included else expanded(match[1]), text)

    return expanded(f"{family}.cu")


class CupyKernels:
    """Kernels compiled by CuPy (NVRTC) and cached by it, on disk too; here each is kept once for every device."""

    def __init__(self) -> None:
        self._kernels: dict[tuple[object, ...], Kernel] = {}

    def kernel(self, family: str, name: str, defines: Mapping[str, str]) -> Kernel:
        """See `KernelLoader.kernel`. The kernel is for the current device.

        Raises:
            GpuUnavailable: it can't be compiled or loaded; NVRTC is missing, or the driver too old.
        """
        import cupy

        key = (cupy.cuda.runtime.getDevice(), family, name, *sorted(defines.items()))
        kernel = self._kernels.get(key)
        if kernel is None:
            kernel = self._kernels[key] = _NullForNone(_compiled(cupy, family, name, defines))
        return kernel


class _NullForNone:
    """A `cupy.RawKernel` that takes None for a null pointer; CuPy itself passes an undefined address for it.

    See https://github.com/cupy/cupy/issues/9046.
    """

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], *, shared_mem: int = 0
    ) -> None:
        """See `Kernel`."""
        self.kernel(grid, block, tuple(_NULL if arg is None else arg for arg in args), shared_mem=shared_mem)


def _compiled(cupy: Any, family: str, name: str, defines: Mapping[str, str]) -> Any:
    """One kernel for the current device; CuPy compiles the whole family once and remembers it."""
    options = ("-std=c++17", *(f"-D{key}={value}" for key, value in sorted(defines.items())))
    failures = (ImportError, OSError, RuntimeError, AssertionError, cupy.cuda.compiler.CompileException)
    try:
        return cupy.RawModule(code=source_of(family), options=options).get_function(name)
    except failures as error:  # no NVRTC: RuntimeError from CuPy or cuda-pathfinder; no headers: CompileException
        said = " ".join(str(error).split())
        what = f"{family} ({' '.join(value for _, value in sorted(defines.items()))})"
        raise GpuUnavailable(
            f"kernel {name} of {what} can't be compiled or loaded: {type(error).__name__}: {said[:_MOST_SAID]}",
            missing=isinstance(error, ImportError | OSError) or bool(_NAMES_WHAT_IS_MISSING.search(said)),
        ) from error
