"""Scores of different weights made comparable: raw, by root mean square, or LAMP.

All three are monotone: of two scores of one weight the lower one never gets the higher norm. Norms are float64, and
the same on every machine, since sums of squares are exact: a score is divided by the power of two above the weight's
highest one, its square is rounded to a multiple of 2**-(62 - bits of the number of scores), and the multiples are added
as 64-bit integers, so the order of addition does not matter.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.backends.joint_passes import Measure, over_weights
from oxiprune_gpu.backends.scored import ScoredWeight
from oxiprune_gpu.errors import InvalidOption

Array = NDArray[Any]
Norms = NDArray[np.float64]


class Normalised(ABC):
    """Gives the norms of the scores of one weight. `total` is the sum of all their squares, where the norms need it."""

    adds_squares: ClassVar[bool] = False
    """Whether the norm of a score depends on the squares of the scores above it."""

    def __init__(self, weight: ScoredWeight) -> None:
        self.weight = weight
        self.total = 0

    @classmethod
    def of(cls, weights: Sequence[ScoredWeight]) -> list[Self]:
        """Return what gives the norms of each weight. The weights may be read."""
        return [cls(weight) for weight in weights]

    @abstractmethod
    def norms(self, scores: Array, counts: Array, above: int) -> Norms:
        """Norms of `scores`, in any order, each of which stands for so many units.

        `above` is the sum of the squares of all scores that are higher than these.
        """

    def square_sum(self, scores: Array, counts: Array | int = 1) -> int:
        """Sum of the squares of scores, where the norms need it; else 0."""
        return 0


class Raw(Normalised):
    """The scores themselves."""

    def norms(self, scores: Array, counts: Array, above: int) -> Norms:
        """See `Normalised.norms`."""
        return scores.astype(np.float64)


class _Squared(Normalised):
    """What divides by sums of squares."""

    def __init__(self, weight: ScoredWeight, top: float = 1.0) -> None:
        super().__init__(weight)
        self.factor = 2.0 ** min(-math.frexp(top)[1], 1023)
        self.grid = 2.0 ** (62 - weight.size.bit_length())

    @classmethod
    def of(cls, weights: Sequence[ScoredWeight]) -> list[Self]:
        """See `Normalised.of`: the highest score is looked for, then the squares are added."""
        scales = [cls(*each) for each in zip(weights, _highest(weights), strict=True)]

        def make_measure() -> Measure[int]:
            return lambda number, scores: int(scales[number].squares(scores).sum())

        for scale, sums in zip(scales, over_weights(weights, make_measure), strict=True):
            scale.total = sum(sums)
        return scales

    def squares(self, scores: Array) -> NDArray[np.int64]:
        """Squares as multiples of the grid."""
        wide = self.relative(scores)
        np.multiply(wide, wide, out=wide)
        np.multiply(wide, self.grid, out=wide)
        return np.rint(wide, out=wide).astype(np.int64)

    def relative(self, scores: Array) -> Norms:
        """Scores divided by a power of two, so that none is above 1."""
        return np.multiply(scores, self.factor, dtype=np.float64)


class Rms(_Squared):
    """Scores divided by the root of the mean square of all scores of the weight; 0 where that is 0."""

    def norms(self, scores: Array, counts: Array, above: int) -> Norms:
        """See `Normalised.norms`."""
        rms = math.sqrt(self.total / (self.grid * self.weight.size))
        return self.relative(scores) / rms if rms else np.zeros(len(scores))


class Lamp(_Squared):
    """The square of a score divided by the sum of the squares of all scores of the weight that are not lower.

    Lee et al., 2021, "Layer-adaptive sparsity for the magnitude-based pruning". Equal scores have equal norms here;
    there each has another one, in the order of their sorting.
    """

    adds_squares: ClassVar[bool] = True

    def norms(self, scores: Array, counts: Array, above: int) -> Norms:
        """See `Normalised.norms`."""
        distinct, places = np.unique(scores, return_inverse=True)
        together = np.bincount(places, counts, len(distinct)).astype(counts.dtype)
        own = self.squares(distinct) * together
        # All squares add up to what they are, so errors of a sample show where little is left above; it has its own.
        not_lower = np.maximum(np.cumsum(own[::-1])[::-1] + above, own).astype(np.float64)
        square = self.relative(distinct) ** 2 * self.grid
        norms: Norms = np.divide(square, not_lower, out=np.zeros(len(distinct)), where=not_lower > 0)
        return norms[places]

    def square_sum(self, scores: Array, counts: Array | int = 1) -> int:
        """See `Normalised.square_sum`."""
        return int((self.squares(scores) * counts).sum())


NORMALISATIONS: dict[str, type[Normalised]] = {"none": Raw, "rms": Rms, "lamp": Lamp}
"""The normalisations by name."""


def _highest(weights: Sequence[ScoredWeight]) -> list[float]:
    """The highest score of each weight, none of them infinite."""
    tops = over_weights(weights, lambda: lambda number, scores: scores.view(weights[number].key_dtype).max())
    keys = [max(some) for some in tops]
    for weight, key in zip(weights, keys, strict=True):
        weight.raise_if_nan(key)
        if key == weight.infinity:
            raise InvalidOption(
                f"tensor '{weight.name}' has an infinite score, so its scores can't be normalised: compare them raw, "
                "as the allocation 'global' does, or use another metric"
            )
    return [float(weight.score_of(key)) for weight, key in zip(weights, keys, strict=True)]
