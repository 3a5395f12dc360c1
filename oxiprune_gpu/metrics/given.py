"""The metric of arrays that are scores already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.metrics.base import ImportanceMetric, Positions


@dataclass(frozen=True)
class GivenScores(ImportanceMetric):
    """Takes an array of scores, none of them negative, as it is. Internal: ranks and describes unit scores."""

    name: ClassVar[str] = "given"

    def score(self, values: NDArray[Any], positions: Positions, out: NDArray[Any]) -> None:
        """See `ImportanceMetric.score`."""
        np.copyto(out, values)
