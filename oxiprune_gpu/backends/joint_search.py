"""One pass over several weights, each of which is held against a bracket of its scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.backends.normalised import Normalised
from oxiprune_gpu.backends.parallel import BLOCK, Span, blocks_of, over_spans, spans_of
from oxiprune_gpu.backends.scored import BlockReader
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


def search(scales: Sequence[Normalised], brackets: Sequence[Bracket]) -> list[Found]:
    """Hold all weights against their brackets.

    Raises:
        NonFiniteWeight, NonFiniteScore: those of the first weight that holds NaN.
    """
    tasks = [(number, span) for number, scale in enumerate(scales) for span in spans_of(scale.weight.size)]

    def make_worker() -> Callable[[Span], _Part]:
        worker = _Worker(scales, brackets)
        return lambda index: worker.search(*tasks[index[0]])

    parts: list[list[_Part]] = [[] for _ in scales]
    found = over_spans(make_worker, [(index, index + 1) for index in range(len(tasks))])
    for (number, _), part in zip(tasks, found, strict=True):
        parts[number].append(part)
    return [_joined(*each) for each in zip(scales, brackets, parts, strict=True)]


class _Worker:
    """Searches spans of weights. It owns scratch memory: one for each thread."""

    def __init__(self, scales: Sequence[Normalised], brackets: Sequence[Bracket]) -> None:
        self._scales = scales
        self._brackets = brackets
        self._flags = np.empty((2, BLOCK), np.bool_)
        self._number = -1
        self._reader: BlockReader

    def search(self, number: int, span: Span) -> _Part:
        """Search a span of weight `number`."""
        if number != self._number:
            self._number, self._reader = number, BlockReader(self._scales[number].weight)
        parts = [self._search_block(*block) for block in blocks_of(span)]
        below, scores, counts, above = zip(*parts, strict=True)
        return _Part(sum(below), np.concatenate(scores), np.concatenate(counts), sum(above))

    def _search_block(self, start: int, stop: int) -> _Part:
        scale, bracket, size = self._scales[self._number], self._brackets[self._number], stop - start
        scores = self._reader.scores(start, stop)
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


def _joined(scale: Normalised, bracket: Bracket, parts: list[_Part]) -> Found:
    weight = scale.weight
    below, some_scores, some_counts, some_above = zip(*parts, strict=True)
    scores, counts, above = np.concatenate(some_scores), np.concatenate(some_counts), sum(some_above)
    weight.raise_if_nan(np.maximum.reduce(scores.view(weight.key_dtype), initial=weight.key_dtype.type(0)))
    inside = scale.square_sum(scores, counts)
    # A score that is not above `low` has at least its own square and all that lies above it to be divided by.
    low = _norm_of(scale, bracket.low, 1, above + inside) if bracket.low == bracket.low else -1.0
    high = _norm_of(scale, bracket.high, 0, above) if bracket.high == bracket.high else math.inf
    return Found(sum(below), scale.norms(scores, counts, above), counts, low, high)


def _norm_of(scale: Normalised, score: Any, count: int, above: int) -> float:
    return float(scale.norms(np.array([score], scale.weight.score_dtype), np.array([count]), above)[0])
