"""The benchmark for GPUs without one: the arithmetic of its floors, its options, and its work done by numpy."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest

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


def test_a_wrong_result_is_noticed(bench, gpu):
    source = np.array([1, 2, 3, 4], np.float32)
    for wrong in ([0, 2, 0, 4], [0, 2, 3, 4], [0, 0, 3, 5]):
        with pytest.raises(AssertionError):
            bench.check(gpu(), source, np.array(wrong, np.float32), 2)
    bench.check(gpu(), source, np.array([0, 0, 3, 4], np.float32), 2)


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


def test_time_is_kept(bench, gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "Gpu", lambda rounds, deadline: gpu(rounds, time.monotonic() - 1))
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "--results", str(tmp_path)])
    bench.main()
    assert "out of time" in next(tmp_path.iterdir()).read_text()
