"""Importance scores and what can be asked of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.backends.unit_sums import array_sum


@dataclass(frozen=True)
class ScoreStats:
    """Statistics of scores, each a value of the score dtype. All are 0 when there are no scores.

    Mean and standard deviation (of the population) are summed in float64 and rounded once; `min` and `max` skip NaN.
    """

    min: float
    max: float
    mean: float
    median: float
    std_dev: float


@dataclass
class ImportanceScores:
    """Scores of the elements of one weight.

    Args:
        scores: the weight's shape, float32 (float64 for float64 weights). Larger = more important. A CuPy array
            when the weight lies on a GPU; its statistics and `top_k` are then computed from a copy on the host.
        threshold: `sparsity()` counts the scores at or below it.
    """

    scores: Any
    threshold: float = 0.0

    def sparsity(self) -> float:
        """Fraction of the scores at or below `threshold`, as float32; 0 for a NaN threshold or no scores."""
        if self.scores.size == 0:
            return 0.0
        threshold = self.scores.dtype.type(self.threshold)
        at_most = np.count_nonzero(self._on_host() <= threshold)  # CuPy's comparison flushes denormal scores
        return float(np.float32(at_most) / np.float32(self.scores.size))

    def top_k(self, k: int) -> NDArray[Any]:
        """Return the `k` largest scores, descending, equal ones in index order; all of them when there are fewer.

        A numpy array, wherever the scores lie.
        """
        flat = self._on_host()
        order = np.argsort(-flat, kind="stable")
        return flat[order[: max(k, 0)]]

    def stats(self) -> ScoreStats:
        """Return minimum, maximum, mean, median and standard deviation."""
        flat = self._on_host()
        if flat.size == 0:
            return ScoreStats(0.0, 0.0, 0.0, 0.0, 0.0)
        with np.errstate(all="ignore"):
            return _stats(flat)

    def _on_host(self) -> NDArray[Any]:
        """The scores as a flat numpy array."""
        host = self.scores if isinstance(self.scores, np.ndarray) else self.scores.get()
        return np.ascontiguousarray(host).reshape(-1)


def _stats(flat: NDArray[Any]) -> ScoreStats:
    scalar = flat.dtype.type
    mean = scalar(array_sum(flat) / flat.size)
    deviation = flat - mean
    variance = array_sum(deviation * deviation) / flat.size
    return ScoreStats(
        min=float(np.fmin.reduce(flat)),
        max=float(np.fmax.reduce(flat)),
        mean=float(mean),
        median=float(_median(flat)),
        std_dev=float(scalar(np.sqrt(variance))),
    )


def _median(flat: NDArray[Any]) -> Any:
    middle = flat.size // 2
    ordered = np.partition(flat, [max(middle - 1, 0), middle])
    if flat.size % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / flat.dtype.type(2)
