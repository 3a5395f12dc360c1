"""What methods with data take at their peak beside what they are given, as docs/design.md says it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from oxiprune_gpu import PruningConfig, prune_sparsegpt, refit
from tests.layers import layer


def peak(work: Callable[[], object]) -> int:
    """Bytes that numpy holds at most."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def repaired(weight: Any, hessian: Any) -> object:
    kept = np.random.default_rng(0).random(weight.shape) < 0.5
    return refit(weight, kept, hessian)


METHODS = {
    "sparsegpt": (lambda w, h: prune_sparsegpt(w, h, PruningConfig(0.5)), 1.3, 4),
    "2:4": (lambda w, h: prune_sparsegpt(w, h, PruningConfig(granularity="2:4")), 1.3, 4),
    "repair": (repaired, 3.6, 24),
}


@pytest.mark.parametrize("shape", [(64, 1024), (1024, 1024)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_memory_is_bounded(method: str, shape: tuple[int, int]) -> None:
    work, hessians, weights = METHODS[method]
    weight, inputs = layer(*shape)
    hessian = inputs.T.astype(np.float64) @ inputs
    taken = peak(lambda: work(weight, hessian))
    assert taken <= hessians * hessian.nbytes + weights * weight.nbytes
