"""How kernels are asked of CuPy: once for every device, null pointers as it takes them, its failures as ours."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from oxiprune_gpu.backends.kernels import CupyKernels, source_of
from oxiprune_gpu.errors import GpuUnavailable

F32_L1 = {"METRIC": "L1", "DTYPE": "F32"}


class CompileException(Exception):
    """As CuPy's, it derives from nothing more special."""


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What the loader touches of CuPy: modules that note what is asked of them."""
    fake = ModuleType("cupy")
    fake.made, fake.calls, fake.device, fake.failure = [], [], 0, None

    class RawModule:
        def __init__(self, *, code: str, options: tuple[str, ...]) -> None:
            self.what = code, options

        def get_function(self, name: str) -> Any:
            if fake.failure is not None:
                raise fake.failure
            fake.made.append((fake.device, *self.what, name))
            return lambda grid, block, args, **options: fake.calls.append((grid, block, args, options))

    runtime = SimpleNamespace(getDevice=lambda: fake.device)
    fake.RawModule = RawModule
    fake.cuda = SimpleNamespace(runtime=runtime, compiler=SimpleNamespace(CompileException=CompileException))
    monkeypatch.setitem(sys.modules, "cupy", fake)
    return fake


def test_a_kernel_is_made_once_for_every_device(cupy):
    kernels = CupyKernels()
    for device in (0, 1, 0, 1):
        cupy.device = device
        kernels.kernel("select", "sample_keys", F32_L1)
    options = ("-std=c++17", "-DDTYPE=F32", "-DMETRIC=L1")
    assert cupy.made == [(device, source_of("select"), options, "sample_keys") for device in (0, 1)]


def test_null_pointers_are_numbers(cupy):
    """CuPy passes an undefined address for None."""
    arguments = (None, np.uint32(3), "array", None)
    CupyKernels().kernel("apply", "apply", F32_L1)((2,), (256,), arguments, shared_mem=8)
    [(grid, block, args, options)] = cupy.calls
    assert (grid, block, options) == ((2,), (256,), {"shared_mem": 8})
    assert args == (0, 3, "array", 0)
    assert [type(args[place]) for place in (0, 3)] == [np.uint64] * 2


@pytest.mark.parametrize(
    ("failure", "missing"),
    [
        (RuntimeError('Failure finding "libnvrtc.so.12"'), True),
        (ImportError("libcudart.so.12"), True),
        (OSError("cache"), True),
        (CompileException('cannot open\n  source file "cuda_fp16.h"'), True),
        (RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"), False),
        (RuntimeError("cudaErrorInsufficientDriver"), False),
        (AssertionError("not supported"), False),
        (CompileException('x.cu(3): error: identifier "y" is undefined'), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cupy_says_becomes_gpu_unavailable(cupy, failure, missing):
    """What to install is said only where that mends it."""
    cupy.failure = failure
    with pytest.raises(GpuUnavailable) as caught:
        CupyKernels().kernel("units", "prune_units", F32_L1)
    text = str(caught.value)
    assert text.startswith(
        f"kernel prune_units of units (F32 L1) can't be compiled or loaded: {type(failure).__name__}: "
    )
    assert " ".join(str(failure).split()) in text
    assert ("pip install 'oxiprune-gpu[gpu]'" in text) == missing
    assert "`oxiprune doctor`" in text


def test_long_complaints_are_cut(cupy):
    cupy.failure = CompileException("x" * 10_000)
    with pytest.raises(GpuUnavailable) as caught:
        CupyKernels().kernel("units", "prune_units", F32_L1)
    assert len(str(caught.value)) < 1_000
