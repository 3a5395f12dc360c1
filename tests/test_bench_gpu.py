"""The benchmark for GPUs without one: the arithmetic of its floors, its options, and its work done by numpy."""

from __future__ import annotations

import importlib
import json
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import oxiprune_gpu as ox
from oxiprune_gpu import backends
from oxiprune_gpu.backends.cuda_backend import CudaBackend
from oxiprune_gpu.backends.kernels.loader import _NULL, _NullForNone
from tests import cuda_on_cpu
from tests.backends import source_of
from tests.cuda_on_cpu.loader import CpuKernels

FOLDER = Path(__file__).parents[1] / "benchmarks"
if not FOLDER.exists():
    pytest.skip("the benchmarks are not here", allow_module_level=True)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import bench_gpu

    yield bench_gpu
    for name in ("bench_gpu", "gpu_floors", "common"):
        sys.modules.pop(name, None)


@pytest.fixture
def gpu(bench):
    class HostGpu(bench.Gpu):
        """Does the work by numpy, on the host's clock."""

        name = "Some GPU"

        def __init__(self, rounds=3, deadline=None):
            self.xp, self.rounds, self.bandwidth = np, rounds, 1e9
            self._deadline = deadline or time.monotonic() + 60

        def timed(self, candidate):
            if candidate.prepare is not None:
                candidate.prepare()
            candidate.run()
            return 1.0

        def free_memory(self):
            return 1 << 40

        def free(self):
            pass

    return HostGpu


def test_floors(bench):
    floors = bench.gpu_floors
    assert floors.copy_bandwidth(1000, 4, 2.0) == 4000
    assert [floors.mask_bytes(1001, mask) for mask in ("bool", "bits", None)] == [1001, 126, 0]
    assert floors.unstructured(1000, 4, "bool").bytes == 13_000
    assert floors.unstructured(1000, 2, "bits").bytes == 6_125
    assert floors.groups(1000, 4).bytes == 8_000
    assert floors.rows(1000, 4, 0.5).bytes == 6_000
    assert floors.columns(1000, 4).bytes == 8_000
    assert floors.groups(1000, 4).seconds(16_000) == 0.5


@pytest.mark.parametrize(("free", "size"), [(1 << 40, 1 << 30), (1 << 33, 1 << 29), (1, 1 << 16)])
def test_sizes_shrink(bench, free, size):
    assert bench.gpu_floors.largest(1 << 30, 12, free) == size


def test_sizes(bench):
    assert bench.sizes_for(None, False, 1 << 40) == (1 << 28, 1 << 30)
    assert bench.sizes_for(None, True, 1 << 40) == bench.QUICK_SIZES
    assert bench.sizes_for(5000, False, 1 << 40) == (5000,)
    assert bench.sizes_for(None, False, 1 << 30) == (1 << 26,)


def test_over_floor(bench):
    figure = bench.over_floor("w", [1.0, None, 3.0, 2.0], bench.gpu_floors.groups(1000, 4, 1.5), 8000)
    assert (figure.value, figure.best, figure.verdict) == (2.0, 1.0, "<= 1.5: MISSED")


def test_work(bench, gpu):
    """What needs no kernel: the checks pass on right results, and every figure is there."""
    host, result = gpu(), bench.Result("gpu", {})
    for piece in (
        lambda: bench.unstructured(host, 1 << 12, "float32", ("bool", "bits"), 1.15, result),
        lambda: bench.unstructured(host, 1 << 12, "float16", ("bool",), 1.2, result),
        lambda: bench.hard_data(host, 1 << 12, result),
        lambda: bench.rows_and_columns(host, 64, result),
        lambda: bench.global_scope(host, 1 << 14, result),
    ):
        piece()
    assert len(result.figures) == 3 + 4 + 2 + 2


class Kernels(CpuKernels):
    """Kernels compiled for the CPU, wrapped as CuPy's are, so that launches are counted as there."""

    def kernel(self, family, name, defines):
        inner = super().kernel(family, name, defines)

        def launch(grid, block, args, **options):
            inner(grid, block, tuple(None if arg is _NULL else arg for arg in args), **options)

        return _NullForNone(launch)


class Stream:
    """A stream, and the graph captured from it: the newest plan, which `device` notes."""

    plan: Any = None

    def __init__(self, **options: bool) -> None:
        pass

    def launch(self, stream: Stream) -> None:
        self.plan.run(check=False)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass

    def begin_capture(self) -> None:
        pass

    def end_capture(self):
        return self

    def synchronize(self) -> None:
        pass


def noted(prepare, *arguments, **options):
    Stream.plan = prepare(*arguments, **options)
    return Stream.plan


@pytest.fixture
def device(gpu, monkeypatch):
    """The kernels on the CPU, over arrays of numpy, one round of everything."""
    if reason := cuda_on_cpu.available():
        pytest.skip(reason)
    kernels = Kernels(source_of)
    monkeypatch.setattr(backends, "_backend", lambda library: CudaBackend(np, kernels, blocks=7))
    monkeypatch.setattr(ox, "prepare", partial(noted, ox.prepare))
    host = gpu(rounds=1, deadline=time.monotonic() + 600)
    host.xp = SimpleNamespace(**vars(np), cuda=SimpleNamespace(Device=Stream, Stream=Stream))
    host.interleaved = lambda candidates, rounds=1: type(host).interleaved(host, candidates, 1)
    return host


SMALL, LARGE = 1 << 12, 1 << 13
ROWS = {
    **{
        f"unstructured {dtype} {size}, mask {mask}": f"<= {limit}"
        for dtype, limit in (("float32", 1.15), ("float16", 1.2), ("bfloat16", 1.2))
        for size in (SMALL, LARGE)
        for mask in ("bool", "bits")
    },
    **{f"{kind} / normal": "<= 1.3" for kind in ("constant", "90 % zeros", "sorted", "16 values")},
    "2:4, known to be finite": "<= 1.08",
    "row l2, 64 x 64, error check included": "<= 1.1",
    "column l2, 64 x 64, error check included": "<= 1.15",
    "global, 293 tensors, 8192": "<= 1.2",
    "global, launches": "<= 11",
    "300 small, a run": "<= 100",
    "300 small, graph": "<= 40",
    "best peer / ours": ">= 3",
}
"""What has a target, and which."""


def test_every_piece(bench, device, monkeypatch):
    """All of the benchmark, by the kernels: results are right, and each line of targets has its figure."""
    monkeypatch.setattr(bench, "weight_of", lambda gpu, data, dtype: data.view(getattr(ml_dtypes, dtype, dtype)))
    with_torch = bench.common.installed("torch")
    result = bench.Result("gpu", {})
    for piece in bench.pieces(device, (SMALL, LARGE), result):
        piece()
    assert {figure.what: str(figure.target) for figure in result.figures if figure.target is not None} == ROWS
    [launches] = [figure.value for figure in result.figures if figure.what == "global, launches"]
    assert 0 < launches < 12
    assert result.notes == ([] if with_torch else ["torch is not installed: not compared with it"])


def test_a_wrong_result_is_noticed(bench, gpu):
    source = np.array([1, 2, 3, 4], np.float32)
    for wrong in ([0, 2, 0, 4], [0, 2, 3, 4], [0, 0, 3, 5]):
        with pytest.raises(AssertionError):
            bench.check(gpu(), source, np.array(wrong, np.float32), 2)
    bench.check(gpu(), source, np.array([0, 0, 3, 4], np.float32), 2)


@pytest.mark.parametrize("flags", [[1, 0, 1, 1], [1, 1, 1, 0], [0, 0, 0, 1]])
def test_a_wrong_mask_is_noticed(bench, gpu, flags):
    work = np.array([0, 2, 0, 4], np.float32)
    for kind, mask in (("bool", np.array(flags, bool)), ("bits", np.packbits(flags, bitorder="little"))):
        with pytest.raises(AssertionError):
            bench.check_mask(gpu(), work, mask, kind, 2)


@pytest.mark.parametrize("wrong", [[0, 0, 3, 0], [0, 2, 0, 4], [0, 0, 3, 5]])
def test_a_wrong_group_is_noticed(bench, gpu, wrong):
    source = np.array([1, 2, 3, 4], np.float32)
    with pytest.raises(AssertionError):
        bench.check_two_of_four(gpu(), source, np.array(wrong, np.float32), "2:4")
    bench.check_two_of_four(gpu(), source, np.array([0, 0, 3, 4], np.float32), "2:4")


def test_results_are_written(bench, gpu, monkeypatch, tmp_path, capsys):
    def broken() -> None:
        raise RuntimeError("no\nmemory")

    monkeypatch.setattr(bench, "Gpu", gpu)
    monkeypatch.setattr(bench, "pieces", lambda gpu, sizes, result: [broken])
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "--results", str(tmp_path)])
    bench.main()
    [path] = tmp_path.iterdir()
    assert path.name.startswith("gpu-some-gpu-20")
    written = json.loads(path.read_text())
    assert written["settings"]["gpu"] == "Some GPU"
    assert [note.partition(": ")[2] for note in written["notes"]] == ["RuntimeError: no memory"]


def test_results_stand_on_the_page(bench, gpu, monkeypatch, tmp_path):
    def counts(result) -> None:
        result.figures.append(bench.Figure("global, launches", 9, "", target=bench.Target(11)))

    monkeypatch.syspath_prepend(str(FOLDER.parent / "scripts"))
    tables = importlib.import_module("benchmark_tables")
    assert "300 tensors that compete" in tables.speed({})
    monkeypatch.setattr(bench, "Gpu", gpu)
    monkeypatch.setattr(bench, "pieces", lambda gpu, sizes, result: [partial(counts, result)])
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "--results", str(tmp_path)])
    bench.main()
    page = tables.speed(tables.newest_results(tmp_path))
    assert page.partition("\n")[0].endswith(", Some GPU:")
    assert "| global, launches | 9  | <= 11 | met |" in page
    assert "300 tensors that compete" not in page


def test_time_is_kept(bench, gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "Gpu", lambda rounds, deadline: gpu(rounds, time.monotonic() - 1))
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "--results", str(tmp_path)])
    bench.main()
    assert "out of time" in next(tmp_path.iterdir()).read_text()
