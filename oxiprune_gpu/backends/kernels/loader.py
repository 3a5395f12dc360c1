"""Finds a kernel's source, compiles it when it is first asked for, and keeps it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Protocol

_INCLUDE = re.compile(r'^#include "([\w.]+)"\n', re.MULTILINE)
_ONCE = "#pragma once\n"


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
    """Kernels compiled by CuPy (NVRTC) and cached by it, on disk too."""

    def __init__(self) -> None:
        self._modules: dict[tuple[str, tuple[str, ...]], Any] = {}

    def kernel(self, family: str, name: str, defines: Mapping[str, str]) -> Kernel:
        """See `KernelLoader.kernel`."""
        options = ("-std=c++17", *(f"-D{key}={value}" for key, value in sorted(defines.items())))
        module = self._modules.get((family, options))
        if module is None:
            import cupy

            module = self._modules[family, options] = cupy.RawModule(code=source_of(family), options=options)
        kernel: Kernel = module.get_function(name)
        return kernel
