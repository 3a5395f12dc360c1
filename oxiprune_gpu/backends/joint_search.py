"""One pass over several weights, each of which is held against a bracket of its scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.backends.joint_passes import over_weights
from oxiprune_gpu.backends.normalised import Normalised
from oxiprune_gpu.backends.parallel import BLOCK
from oxiprune_gpu.backends.threshold import flagged

Array = NDArray[Any]

_MANY = 1 << 15
"""Scores inside a bracket, of one block, of which equal ones are counted together."""

_WORD = 8
"""Flags in a 64-bit word."""


class Bracket(NamedTuple):
    """Scores between, but not equal to, `low` and `high`; NaN where there is no end."""

    low: Any
    high: Any


class Found(NamedTuple):
    """What lies inside the bracket of a weight, how much below, and the norms of its ends.

    None below has a norm above `low`, and none that is left has one under `high`.
    """

    below: int
    norms: NDArray[np.float64]
    counts: NDArray[np.int64]
    low: float
    high: float


class _Part(NamedTuple):
    """What was found in a part of a weight: the scores inside, how often each, and the squares above."""

    below: int
    scores: Array
    counts: NDArray[np.int64]
    above: int

    @classmethod
    def joined(cls, parts: list[_Part]) -> _Part:
        below, scores, counts, above = zip(*parts, strict=True)
        return cls(sum(below), np.concatenate(scores), np.concatenate(counts), sum(above))


def search(scales: Sequence[Normalised], brackets: Sequence[Bracket]) -> list[Found]:
    """Hold all weights against their brackets.

    Raises:
        NonFiniteWeight, NonFiniteScore: those of the first weight that holds NaN.
    """
    parts = over_weights([scale.weight for scale in scales], lambda: _Searcher(scales, brackets).part)
    return [_found(*each) for each in zip(scales, brackets, parts, strict=True)]


class _Searcher:
    """Searches blocks of weights. It owns scratch memory: one for each thread."""

    def __init__(self, scales: Sequence[Normalised], brackets: Sequence[Bracket]) -> None:
        self._scales = scales
        self._brackets = brackets
        self._flags = np.empty((2, BLOCK), np.bool_)

    def part(self, number: int, scores: Array) -> _Part:
        """What is in a block of weight `number`."""
        scale, bracket, size = self._scales[number], self._brackets[number], len(scores)
        below, above = self._flags[:, :size]
        # Scores are compared, not keys: NaN is then neither below nor above, and is found among what is inside.
        np.less_equal(scores, bracket.low, out=below)
        np.greater_equal(scores, bracket.high, out=above)
        fewer, squares = int(np.count_nonzero(below)), scale.square_sum(scores, above)
        np.equal(below, above, out=below)
        whole = -(-size // _WORD) * _WORD
        self._flags[0, size:whole] = False
        return _Part(fewer, *_counted(scores.take(flagged(self._flags[0, :whole], 0))), squares)


def _counted(scores: Array) -> tuple[Array, NDArray[np.int64]]:
    """Scores, and how often each stands there."""
    if len(scores) < _MANY:
        return scores, np.ones(len(scores), np.int64)
    return np.unique(scores, return_counts=True)


def _found(scale: Normalised, bracket: Bracket, parts: list[_Part]) -> Found:
    weight, (below, scores, counts, above) = scale.weight, _Part.joined(parts)
    weight.raise_if_nan(np.maximum.reduce(scores.view(weight.key_dtype), initial=weight.key_dtype.type(0)))
    inside = scale.square_sum(scores, counts)
    # A score that is not above `low` has at least its own square and all that lies above it to be divided by.
    low = _norm_of(scale, bracket.low, 1, above + inside) if bracket.low == bracket.low else -1.0
    high = _norm_of(scale, bracket.high, 0, above) if bracket.high == bracket.high else math.inf
    return Found(below, scale.norms(scores, counts, above), counts, low, high)


def _norm_of(scale: Normalised, score: Any, count: int, above: int) -> float:
    return float(scale.norms(np.array([score], scale.weight.score_dtype), np.array([count]), above)[0])
