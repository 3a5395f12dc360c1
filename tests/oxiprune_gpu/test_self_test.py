"""The self-test of `oxiprune doctor`, on kernels that run on the CPU: right ones pass, broken ones are told of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from oxiprune_gpu.backends import cuda_tables, self_test
from oxiprune_gpu.backends.cuda_backend import CudaBackend
from oxiprune_gpu.backends.kernels import source_of
from oxiprune_gpu.backends.self_test import Outcome
from tests import cuda_on_cpu

pytestmark = pytest.mark.skipif(bool(cuda_on_cpu.available()), reason=cuda_on_cpu.available() or "it can run")

LARGE = 6_000


@pytest.fixture(autouse=True)
def smaller_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few thousand elements take the way of a million."""
    monkeypatch.setattr(cuda_tables, "_SAMPLE_FROM", 5_000)
    monkeypatch.setattr(cuda_tables, "_SAMPLES", 1 << 10)


def trial(source: Callable[[str], str], dtype: type) -> list[Outcome]:
    backend = CudaBackend(np, cuda_on_cpu.CpuKernels(source), blocks=5)
    return list(self_test.run(backend, np, dtypes=[dtype], large=LARGE))


@pytest.mark.parametrize("dtype", self_test.DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_kernels_pass(dtype):
    outcomes = trial(source_of, dtype)
    assert [outcome for outcome in outcomes if not outcome.ok] == []
    assert len(outcomes) == len(self_test.METRICS) * 6
    assert {outcome.dtype for outcome in outcomes} == {np.dtype(dtype).name}


BROKEN = {
    "the mask turned round": ("elements", "if (!kept[i])", "if (kept[i])", {("elements", "l1")}),
    "ties from the end": ("groups", "keys[i] <= keys[j]", "keys[i] < keys[j]", {("groups", "l1"), ("plans", "l1")}),
    "a unit without its root": ("units", "D::rounded(unflushed_sqrt(sum))", "D::rounded(sum)", {("units", "l2")}),
    "one too many": (
        "apply",
        "key < threshold",
        "key <= threshold",
        {("select and apply", "l1"), ("plans", "l1")},
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_kernel_is_told_of(case, monkeypatch):
    family, right, wrong, failures = BROKEN[case]
    chosen = {metric for _, metric in failures}
    monkeypatch.setattr(
        self_test, "METRICS", {name: kind for name, kind in self_test.METRICS.items() if name in chosen}
    )
    assert right in source_of(family), "the kernel has changed: break it otherwise"
    outcomes = trial(
        lambda name: source_of(name).replace(right, wrong) if name == family else source_of(name), np.float32
    )
    told = {(outcome.family, outcome.metric): outcome.problem for outcome in outcomes if not outcome.ok}
    assert told.keys() == failures
    assert " differ; number " in next(iter(told.values()))


def test_a_kernel_that_does_not_compile_is_told_of():
    first, *_ = trial(lambda family: "no kernel", np.float32)
    assert "does not compile" in first.problem
    assert "\n" not in first.problem


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", self_test.DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_kernels_pass_on_a_gpu(dtype):
    import cupy

    from oxiprune_gpu.backends import backend_on_gpu

    outcomes = list(self_test.run(backend_on_gpu(), cupy, dtypes=[dtype]))
    assert [outcome for outcome in outcomes if not outcome.ok] == []
