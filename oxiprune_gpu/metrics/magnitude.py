"""Magnitude metrics: |w| and w*w (Han et al., 2015, "Learning both weights and connections")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.metrics.base import ImportanceMetric, Positions


@dataclass(frozen=True)
class L1Magnitude(ImportanceMetric):
    """Element score |w|; unit score sum |w|."""

    name: ClassVar[str] = "l1"

    def score(self, values: NDArray[Any], positions: Positions, out: NDArray[Any]) -> None:
        """See `ImportanceMetric.score`."""
        np.absolute(values, out=out)


@dataclass(frozen=True)
class L2Magnitude(ImportanceMetric):
    """Element score w*w; unit score sqrt(sum w*w).

    The square is rounded to the score dtype: it underflows to 0 for float32 |w| <= 2**-75 and overflows to infinity
    above 1.8e19, and there ties fall by index. The square root of a unit merges neighbouring sums into ties.
    """

    name: ClassVar[str] = "l2"

    def score(self, values: NDArray[Any], positions: Positions, out: NDArray[Any]) -> None:
        """See `ImportanceMetric.score`."""
        np.multiply(values, values, out=out)

    def unit_scores(self, units: int, sum_scores: Callable[[], NDArray[np.float64]]) -> NDArray[np.float64]:
        """See `ImportanceMetric.unit_scores`."""
        return np.sqrt(sum_scores())
