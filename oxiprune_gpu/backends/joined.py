"""Weights that compete with each other, end to end, on numpy: one selection over the scores of all of them."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.backends.base import Plan, PlanMember
from oxiprune_gpu.backends.bits import bits_dtype, count_nonzeros, multiply_bits
from oxiprune_gpu.backends.parallel import BLOCK, Span, blocks_of, over_spans, quietly, spans_of
from oxiprune_gpu.backends.scored import ScoredWeight
from oxiprune_gpu.backends.threshold import check_finite, find_lowest
from oxiprune_gpu.blocks import BlockSource
from oxiprune_gpu.errors import NonFiniteScore, NonFiniteWeight, PruningError
from oxiprune_gpu.metrics import ImportanceMetric
from oxiprune_gpu.metrics.given import GivenScores

Array = NDArray[Any]


class JoinedScores(BlockSource):
    """The scores of several weights, one after another, as if they were a weight.

    Each weight is scored by itself, in its own score dtype: a metric counts positions anew in each. Scores are float64
    when those of one weight are.
    """

    def __init__(self, weights: Sequence[ScoredWeight]) -> None:
        self._weights = weights
        self._starts = list(accumulate((weight.size for weight in weights), initial=0))
        self._dtype = np.result_type(*(weight.score_dtype for weight in weights))

    @property
    def shape(self) -> tuple[int, ...]:
        """All elements in one line."""
        return (self._starts[-1],)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the scores."""
        return self._dtype

    def load(self, start: int, stop: int, scratch: Array) -> Array:
        """See `BlockSource.load`."""
        for weight, first, last, offset in self._runs(start, stop):
            out = scratch[first + offset - start : last + offset - start]
            values = weight.source.load(first, last, np.empty(last - first, weight.dtype))
            values = values.astype(weight.score_dtype, copy=False)
            scores = out if out.dtype == weight.score_dtype else np.empty(len(out), weight.score_dtype)
            weight.score(values, slice(first, last), scores)
            if scores is not out:
                out[...] = scores
        return scratch[: stop - start]

    def store(self, start: int, block: Array) -> None:
        """Scores are not written."""
        raise NotImplementedError

    def take(self, places: NDArray[np.intp]) -> Array:
        """See `BlockSource.take`."""
        taken = np.empty(len(places), self._dtype)
        cuts = np.searchsorted(places, self._starts).tolist()
        for number, weight in enumerate(self._weights):
            first, last = cuts[number : number + 2]
            if first < last:
                keys = weight.keys_at(places[first:last] - self._starts[number])
                taken[first:last] = keys.view(weight.score_dtype)
        return taken

    def _runs(self, start: int, stop: int) -> Iterator[tuple[ScoredWeight, int, int, int]]:
        """The weights that hold elements start..stop: each with its own first and last, and where it begins."""
        number = bisect_right(self._starts, start) - 1
        while start < stop:
            offset, end = self._starts[number : number + 2]
            last = min(stop, end)
            yield self._weights[number], start - offset, last - offset, offset
            start = last
            number += 1


class JoinedPlan(Plan):
    """Prunes the k lowest elements of all weights together.

    Args:
        members: the weights, as `BlockSource`, and their masks.
        metric: scores them.
        k: how many elements fall.
        packed: makes bits of a mask.
    """

    def __init__(
        self, members: Sequence[PlanMember], metric: ImportanceMetric, k: int, packed: Callable[[Array], Array]
    ) -> None:
        self._packed = packed
        self.nonzero = np.zeros(len(members), np.int64)
        self._members = members
        self._metric = metric
        self._sizes = [math.prod(member.weight.shape) for member in members]
        self._k = k
        self._kept = np.empty(sum(self._sizes), np.bool_)
        self._error: PruningError | None = None

    def run(self) -> None:
        """See `Plan.run`."""
        self._error = None
        try:
            self._mark()
        except PruningError as error:
            self._error = error
            return
        start = 0
        for number, (member, size) in enumerate(zip(self._members, self._sizes, strict=True)):
            kept = self._kept[start : start + size]
            start += size
            self.nonzero[number] = _zero(member.weight, kept)
            member.write_mask(kept, self._packed)

    def check(self) -> None:
        """See `Plan.check`."""
        if self._error is not None:
            raise self._error

    @quietly
    def _mark(self) -> None:
        """Mark what is kept. Nothing has been written when a weight holds NaN: the first one is the error."""
        weights = [ScoredWeight(member.weight, self._metric, member.name) for member in self._members]
        together = ScoredWeight(JoinedScores(weights), GivenScores(), "all")
        try:
            if self._k:
                lowest = find_lowest(together, self._k, self._kept)
                over_spans(lowest.make_marker, lowest.spans)
            else:
                check_finite(together)
                self._kept[:] = True
        except (NonFiniteWeight, NonFiniteScore):
            for weight in weights:
                check_finite(weight)
            raise


def _zero(weight: BlockSource, kept: NDArray[np.bool_]) -> int:
    """Set the elements that are not kept to +0.0; return how many are not zero."""

    def make_worker() -> Callable[[Span], int]:
        scratch = np.empty(min(BLOCK, len(kept)), weight.dtype)
        factors = np.empty(len(scratch), bits_dtype(weight.dtype))

        def work(span: Span) -> int:
            left = 0
            for start, stop in blocks_of(span):
                block = weight.load(start, stop, scratch)
                multiply_bits(block, kept[start:stop], factors[: stop - start])
                weight.store(start, block)
                left += count_nonzeros(block)
            return left

        return work

    return sum(over_spans(make_worker, spans_of(len(kept))))
