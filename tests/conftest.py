"""Options and fixtures that all tests share."""

from __future__ import annotations

import importlib.util
import os
import types
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from oxiprune_gpu import backends
from oxiprune_gpu.backends import Backend
from oxiprune_gpu.backends.cuda_backend import CudaBackend
from tests import cuda_on_cpu, fake_cupy, golden
from tests.backends import BACKENDS, CountingKernels, why_not
from tests.cuda_on_cpu.loader import current_seed

if importlib.util.find_spec("hypothesis"):
    from hypothesis import settings

    settings.register_profile("local", deadline=None, max_examples=60)
    settings.register_profile("ci", deadline=None, max_examples=60, derandomize=True)
    settings.load_profile("ci" if os.environ.get("CI") else "local")

# Machines with a GPU are often bare: tests of what is not installed are left out there, and the header says so.
_MISSING = [
    line
    for package, line in {"hypothesis": "from hypothesis import", "onnx": "from onnx_tools"}.items()
    if not importlib.util.find_spec(package)
]
collect_ignore = [
    str(file)
    for file in (sorted(Path(__file__).parent.rglob("test_*.py")) if _MISSING else ())
    if any(f"\n{line}" in file.read_text(encoding="utf-8") for line in _MISSING)
]

NEEDS_GPU = {"cuda"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-gpu", action="store_true", help="fail, instead of skip, tests that find no GPU")


def pytest_runtest_setup(item: pytest.Item) -> None:
    why_not = item.get_closest_marker("gpu") and why_no_gpu()
    if why_not and item.config.getoption("--require-gpu"):
        pytest.fail(f"--require-gpu: {why_not}", pytrace=False)
    if why_not:
        pytest.skip(why_not)


def why_no_gpu() -> str:
    """Why tests with the marker `gpu` can't run; nothing when they can."""
    try:
        import cupy
    except ImportError as error:
        return f"no GPU tests: CuPy can't be imported ({error})"
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"no GPU tests: {error}"
    return "" if devices else "no GPU tests: no device"


def _backend_param(name: str) -> object:
    return pytest.param(name, marks=pytest.mark.gpu) if name in NEEDS_GPU else name


@cache
def _backend_called(name: str) -> Backend:
    return BACKENDS[name]()


every_backend = pytest.fixture(params=[_backend_param(name) for name in BACKENDS])


@every_backend
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend in turn, for arrays on the host."""
    if reason := why_not(request.param):
        pytest.skip(reason)
    return _backend_called(request.param)


@pytest.fixture
def verbs_backend(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Every backend in turn, and the verbs prune numpy arrays by it."""
    monkeypatch.setattr(backends, "_backend", lambda library: backend)
    return backend


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each kernel is launched while the verbs prune numpy arrays by the CUDA backend on the CPU."""
    if reason := cuda_on_cpu.available():
        pytest.skip(reason)
    kernels = CountingKernels()
    monkeypatch.setattr(backends, "_backend", lambda library: CudaBackend(np, kernels, blocks=7))
    return kernels.launches


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A CuPy whose device is the CPU."""
    if reason := cuda_on_cpu.available():
        pytest.skip(reason)
    return fake_cupy.installed(monkeypatch)


def pytest_report_header() -> str:
    """What to set to see the same schedules of CUDA threads again; what is left out."""
    without = ", ".join(Path(file).name for file in collect_ignore)
    left_out = f"\nleft out, since hypothesis or onnx is not installed: {without}" if without else ""
    return f"OXIPRUNE_SHIM_SEED={current_seed()}{left_out}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The number of threads of this machine means nothing to a CUDA backend: once is enough."""

    def is_needed(item: pytest.Item) -> bool:
        chosen = getattr(item, "callspec", None)
        return chosen is None or chosen.params.get("backend", "numpy") == "numpy" or chosen.params.get("threads") != 2

    needless = [item for item in items if not is_needed(item)]
    config.hook.pytest_deselected(items=needless)
    items[:] = [item for item in items if is_needed(item)]


@pytest.fixture(params=["subset", "full"])
def golden_set(request: pytest.FixtureRequest) -> golden.GoldenSet:
    """The committed part of the golden data, then all of it."""
    for candidate in golden.SETS:
        if candidate.name == request.param:
            return candidate
    pytest.skip("OXIPRUNE_CORPUS is not set: only the committed subset of the golden data")


@pytest.fixture(params=[1, 2], ids=lambda count: f"{count}-threads")
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """One thread, then two."""
    monkeypatch.setenv("OXIPRUNE_NUM_THREADS", str(request.param))
    return request.param
