"""What a metric is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.errors import InvalidOption

Positions = slice | NDArray[np.intp]
"""Which elements of the flattened weight a block holds: a run, or an array of places."""


class ImportanceMetric(ABC):
    """Scores the elements of a weight; larger = more important. Scores are never negative.

    Scores have the *score dtype*: float64 for float64 weights, float32 for all others.
    """

    name: ClassVar[str]
    """The text that names this metric, as in `PruningConfig(0.5, "l1")`."""

    reads_weight: ClassVar[bool] = True
    """False when the score does not depend on the weight's values: NaN must then be looked for apart."""

    @abstractmethod
    def score(self, values: NDArray[Any], positions: Positions, out: NDArray[Any]) -> None:
        """Write the scores of `values`, which stand at `positions` of the flattened weight, to `out`.

        `values` and `out` have the score dtype and one shape.
        """

    def unit_scores(self, units: int, sum_scores: Callable[[], NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return the score of each of `units` units.

        `sum_scores()` gives the float64 sum of the element scores of each unit, in the order of addition that
        docs/design.md, section 3, lays down.
        """
        return sum_scores()

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise when this metric can't score a weight called `name` of `shape`."""

    def count_nan(self) -> int:
        """NaN in what the metric brings along besides the weight, like a gradient."""
        return 0

    @classmethod
    def from_text(cls, argument: str | None) -> Self:
        """Return the metric for the text `name` or `name:argument`."""
        if argument is not None:
            raise InvalidOption(f"metric '{cls.name}' takes no argument, got '{argument}'")
        return cls()

    @property
    def text(self) -> str:
        """The metric as text, with its arguments."""
        return self.name
