"""Weights in files and in memory that are pruned on a GPU: the same bytes as on the CPU. Runs over a CuPy that is none.

Where a GPU is present, the tests with the marker `gpu` go the same ways with the true CuPy.
"""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

import oxiprune_gpu as ox
from onnx_tools.file_blocks import FileBlocks
from oxiprune_gpu.backends import BACKENDS, choice, transfer
from tests import cuda_on_cpu, fake_cupy

HALF = ox.PruningConfig(0.5)
CONFIGS = [
    HALF,
    ox.PruningConfig(0.3, "random:7"),
    ox.PruningConfig(0.5, "l2", "row"),
    ox.PruningConfig(0.5, "l1", "axis:1"),
    ox.PruningConfig(granularity="2:4"),
    ox.PruningConfig(0.0),
]
DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64]


class CUDARuntimeError(RuntimeError):
    """As CuPy's."""


class CUDADriverError(RuntimeError):
    """As CuPy's."""


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A CuPy without a GPU, and pieces so short that a small weight is many."""
    if reason := cuda_on_cpu.available():
        pytest.skip(reason)
    monkeypatch.setattr(transfer, "PIECE_BYTES", 512)
    monkeypatch.setattr(choice, "WEIGHT_PAYS_FROM", 1024)
    monkeypatch.setattr(fake_cupy.Device, "compute_capability", "70", raising=False)
    fake = fake_cupy.installed(monkeypatch)
    monkeypatch.setattr(fake.cuda.runtime, "CUDARuntimeError", CUDARuntimeError, raising=False)
    monkeypatch.setattr(fake.cuda, "driver", SimpleNamespace(CUDADriverError=CUDADriverError), raising=False)
    return fake


class Stored(ox.BlockSource):
    """A weight that is neither a file nor an array, and notes what was asked of it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.stores = 0

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)

    def load(self, start, stop, scratch):
        scratch[: stop - start] = self.array.reshape(-1)[start:stop]
        return scratch[: stop - start]

    def store(self, start, block):
        self.stores += 1
        self.array.reshape(-1)[start : start + len(block)] = block


def normal(*shape: int, dtype: type = np.float32) -> np.ndarray:
    weight = np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)
    weight.reshape(-1)[3::7] = -0.0
    return weight


def check(weight: np.ndarray, config: ox.PruningConfig, tmp_path) -> None:
    """On the CPU and on the GPU, in an array, a file at an odd place, and a source of another kind."""
    expected = weight.copy()
    counts = ox.prune_blocks(ox.ArrayBlocks(expected), config)
    array, stored = weight.copy(), Stored(weight.copy())
    path = tmp_path / "weight.bin"
    path.write_bytes(b"abc" + weight.tobytes() + b"xyz")
    descriptor = os.open(path, os.O_RDWR)
    try:
        file = FileBlocks(descriptor, 3, weight.shape, weight.dtype)
        got = [ox.prune_blocks(s, config, backend="cuda") for s in (ox.ArrayBlocks(array), stored, file)]
    finally:
        os.close(descriptor)
    assert array.tobytes() == stored.array.tobytes() == expected.tobytes()
    assert path.read_bytes() == b"abc" + expected.tobytes() + b"xyz"
    assert got == 3 * [ox.PruneCounts(counts.total, counts.pruned, counts.nonzero_before, counts.nonzero_after, "cuda")]
    assert counts.backend == "cpu"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.metric.text} {config.granularity.text}")
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_the_same_bytes_and_counts(cupy, config, dtype, tmp_path):
    check(normal(23, 40, dtype=dtype), config, tmp_path)


@pytest.mark.parametrize("size", [1, 127, 128, 129, 256, 257])
def test_sizes_around_a_piece(cupy, size, tmp_path):
    check(normal(size), HALF, tmp_path)


def test_gradients(cupy, tmp_path):
    check(normal(300), ox.PruningConfig(0.5, ox.Taylor(normal(300)[::-1].copy())), tmp_path)


def test_unaligned_arrays(cupy):
    room = np.zeros(4 * 300 + 1, np.uint8)
    weight = room[1:].view(np.float32)
    weight[:] = normal(300)
    expected, _ = ox.prune_tensor(weight, HALF)
    ox.prune_blocks(ox.ArrayBlocks(weight), HALF, backend="cuda")
    assert weight.tobytes() == expected.tobytes()


@pytest.mark.parametrize("config", CONFIGS[:5], ids=lambda config: config.granularity.text)
def test_nan_is_refused_and_nothing_stored(cupy, config):
    source = Stored(normal(16, 40))
    source.array[5, 6] = np.nan
    with pytest.raises(ox.NonFiniteWeight, match="'layer'"), ox.deferred_checks():
        ox.prune_blocks(source, config, "layer", backend="cuda")
    assert source.stores == 0


def test_nothing_is_stored_where_nothing_falls(cupy):
    source = Stored(normal(300))
    ox.prune_blocks(source, CONFIGS[-1], backend="cuda")
    assert source.stores == 0


def test_a_source_that_fails_midway_leaves_no_copy_begun(cupy):
    class Ends(Stored):
        def load(self, start, stop, scratch):
            if start > 300:
                raise EOFError
            return super().load(start, stop, scratch)

    with pytest.raises(EOFError):
        ox.prune_blocks(Ends(normal(1000)), HALF, backend="cuda")
    assert fake_cupy._begun == []


def where(weight: np.ndarray, backend: str = "auto", config: ox.PruningConfig = HALF) -> str:
    return ox.prune_blocks(ox.ArrayBlocks(weight), config, backend=backend).backend


def test_auto_takes_the_gpu_for_large_weights_that_fit(cupy, monkeypatch):
    assert where(normal(255)) == "cpu"
    assert where(normal(256)) == "cuda"
    monkeypatch.setattr(cupy.cuda.runtime, "free_bytes", 256 * (4 + 2 * 4 + 8 + 1) - 1)
    assert where(normal(256)) == "cpu"
    assert where(normal(256), "cuda") == "cuda"

    def busy() -> None:
        raise RuntimeError("cudaErrorDevicesUnavailable")

    monkeypatch.setattr(cupy.cuda.runtime, "memGetInfo", busy)
    assert where(normal(256)) == "cpu"


def test_auto_stays_on_the_cpu_where_the_gpu_fails(cupy, monkeypatch):
    def fail(*_: object) -> None:
        raise error

    weight = normal(600)
    expected, _ = ox.prune_tensor(weight, HALF)
    monkeypatch.setattr(fake_cupy.FakeKernels, "kernel", fail)
    for error in (ox.GpuUnavailable("kernel x can't be compiled"), MemoryError("out of memory")):
        ours = weight.copy()
        assert where(ours) == "cpu"
        assert ours.tobytes() == expected.tobytes()
        refusal = ox.GpuUnavailable if isinstance(error, ox.GpuUnavailable) else ox.InvalidOption
        with pytest.raises(refusal, match=r"compiled|free memory: use the backend auto or cpu"):
            where(weight.copy(), "cuda")


@pytest.mark.parametrize("failure", [CUDARuntimeError, CUDADriverError, RuntimeError])
@pytest.mark.parametrize("what", ["alloc_pinned_memory", "Event", "a launch"])
def test_what_the_driver_says_becomes_gpu_unavailable(cupy, monkeypatch, what, failure):
    """`auto` leaves the weight to the CPU then; errors of other kinds are not the GPU's."""

    def fail(*_: object, **__: object) -> None:
        raise failure("out\nof memory")

    if what == "a launch":
        monkeypatch.setattr(fake_cupy.FakeKernels, "kernel", lambda *_: fail)
    else:
        monkeypatch.setattr(cupy.cuda, what, fail)
    stored, expected = Stored(normal(600)), ox.prune_tensor(normal(600), HALF)[0]
    if failure is RuntimeError:
        with pytest.raises(RuntimeError, match=r"^out\nof memory$"):
            ox.prune_blocks(stored, HALF, backend="auto")
        return
    with pytest.raises(
        ox.GpuUnavailable, match=f"the GPU has failed: {failure.__name__}: out of memory.*doctor"
    ) as told:
        ox.prune_blocks(stored, HALF, backend="cuda")
    assert "pip" not in str(told.value)
    assert stored.stores == 0
    assert ox.prune_blocks(stored, HALF, backend="auto").backend == "cpu"
    assert stored.array.tobytes() == expected.tobytes()


def test_a_gpu_before_volta_is_refused(cupy, monkeypatch):
    monkeypatch.setattr(fake_cupy.Device, "compute_capability", "61")
    assert where(normal(600)) == "cpu"
    assert ox.resolve_backend("auto", 1 << 50) == "cpu"
    for call in (lambda: where(normal(6), "cuda"), lambda: ox.resolve_backend("cuda", 0), BACKENDS["cupy"]):
        with pytest.raises(ox.GpuUnavailable, match=r"has compute capability 6\.1: the kernels need 7\.0 \(Volta\)"):
            call()


def test_no_device_is_said_with_what_to_do(cupy, monkeypatch):
    monkeypatch.setattr(cupy.cuda.runtime, "devices", 0)
    assert where(normal(600)) == "cpu"
    for call in (lambda: where(normal(6), "cuda"), lambda: ox.resolve_backend("cuda", 0)):
        with pytest.raises(ox.GpuUnavailable, match=r"no GPU can be used: there is none.*doctor"):
            call()

    def no_driver() -> int:
        raise RuntimeError("cudaErrorInsufficientDriver")

    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", no_driver)
    with pytest.raises(ox.GpuUnavailable, match="cudaErrorInsufficientDriver"):
        ox.resolve_backend("cuda", 0)
    assert ox.resolve_backend("auto", 1 << 50) == "cpu"


def test_metrics_without_kernels(cupy):
    class Mine(ox.L1Magnitude):
        """No row in the table of kernels."""

    config = ox.PruningConfig(0.5, Mine())
    assert where(normal(600), "auto", config) == "cpu"
    with pytest.raises(ox.InvalidOption, match="no kernels"):
        where(normal(600), "cuda", config)


def test_a_job_that_does_not_pay_is_for_the_cpu(cupy, monkeypatch):
    assert ox.resolve_backend("auto", 1023) == "cpu"
    assert ox.resolve_backend("auto", 1024) == "auto"  # CuPy is imported already
    assert (ox.resolve_backend("cpu", 1 << 50), ox.resolve_backend("cuda", 0)) == ("cpu", "cuda")


@pytest.mark.parametrize("call", [lambda name: ox.resolve_backend(name, 0), lambda name: where(normal(6), name)])
def test_other_names_are_refused(call):
    with pytest.raises(ox.InvalidOption, match="unknown backend 'gpu': use auto, cpu or cuda"):
        call("gpu")


@pytest.mark.parametrize("backend", ["auto", "cpu"])
def test_small_jobs_do_not_import_cupy(backend):
    code = f"""
import sys, numpy, oxiprune_gpu as ox
assert ox.resolve_backend("{backend}", 1 << 31) == "cpu"
ox.prune_blocks(ox.ArrayBlocks(numpy.ones(1 << 20)), ox.PruningConfig(0.5), backend="{backend}")
sys.exit("cupy" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.gpu
def test_on_a_gpu(monkeypatch, tmp_path):
    for piece in (transfer.PIECE_BYTES, 512):
        monkeypatch.setattr(transfer, "PIECE_BYTES", piece)
        for config in CONFIGS:
            for dtype in DTYPES:
                check(normal(23, 400, dtype=dtype), config, tmp_path)
    monkeypatch.setattr(transfer, "PIECE_BYTES", 1 << 20)
    check(normal(3000, 1001), HALF, tmp_path)
