"""Exact selection of the k lowest scores, without sorting them and without holding them.

A sample brackets the threshold. One pass over the blocks counts the keys below the bracket and collects the few keys
inside it; the threshold is an exact order statistic of those. Ties are cut by index: `Cut.index` is the last element
that falls among those whose key equals the threshold.

Values that are frequent enough to sit on the bracket's ends (constant, sparse or coarse data) are counted apart
there instead of collected, so the collected part stays small whatever the data. The sample only decides how fast the
answer is found: a bracket that misses is widened and the pass repeated.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.backends.parallel import BLOCK, Span, blocks_of, over_spans, spans_of
from oxiprune_gpu.backends.scored import BlockReader, ScoredWeight
from oxiprune_gpu.errors import PruningError

Array = NDArray[Any]

_RUN = 16
"""Neighbours sampled together: they share a cache line, so they cost one read."""

_SLACK = 4.5
"""Half width of the first bracket, in standard deviations of a sampled rank: it misses 1 time in 100,000."""


class Cut(NamedTuple):
    """Where the k lowest end: an element falls when its key is below `threshold`, or equal and not after `index`."""

    threshold: Any
    index: int

    def mask(self, keys: Array, start: int, out: NDArray[np.bool_]) -> None:
        """Write to `out` which of `keys`, the first of which is element `start`, are kept."""
        ties_fall = min(max(self.index + 1 - start, 0), len(keys))
        np.greater(keys[:ties_fall], self.threshold, out=out[:ties_fall])
        np.greater_equal(keys[ties_fall:], self.threshold, out=out[ties_fall:])


class _Bracket(NamedTuple):
    """Keys low..high that hold the threshold, we hope. `crowded`: many keys equal low or high."""

    low: Any
    high: Any
    crowded: bool


class _SpanCount(NamedTuple):
    """What one pass found in one span."""

    below: int
    at_low: int
    inside: Array
    at_high: int
    top: Any


def find_cut(weight: ScoredWeight, k: int) -> Cut:
    """Return where the `k` lowest of a weight's keys end, 1 <= k <= weight.size.

    Raises:
        NonFiniteWeight, NonFiniteScore: see `Backend`.
    """
    if weight.size <= BLOCK:
        return _cut_among(_all_keys(weight), k, weight)
    sample = _sample(weight)
    slack = _SLACK
    while True:
        bracket = _bracket(sample, k / weight.size, slack)
        spans = spans_of(weight.size)
        counts = over_spans(lambda bracket=bracket: _SpanCounter(weight, bracket).count, spans)  # type: ignore[misc]
        weight.raise_if_nan(max(count.top for count in counts))
        threshold = _threshold(bracket, counts, k)
        if threshold is not None:
            return _cut_at(weight, threshold, bracket, spans, counts, k)
        slack *= 8


def check_finite(weight: ScoredWeight) -> None:
    """Raise as `find_cut` does, when nothing is to be selected."""

    def make_worker() -> Any:
        reader = BlockReader(weight)
        return lambda span: max(reader.keys(*block).max() for block in blocks_of(span))

    weight.raise_if_nan(max(over_spans(make_worker, spans_of(weight.size))))


def _all_keys(weight: ScoredWeight) -> Array:
    with np.errstate(all="ignore"):
        return BlockReader(weight).keys(0, weight.size)


def _cut_among(keys: Array, k: int, weight: ScoredWeight) -> Cut:
    weight.raise_if_nan(keys.max())
    threshold = np.partition(keys, k - 1)[k - 1]
    ties = k - int(np.count_nonzero(keys < threshold))
    return Cut(threshold, int(np.flatnonzero(keys == threshold)[ties - 1]))


def _sample(weight: ScoredWeight) -> Array:
    """Keys of short runs, one at a random place in each of many equal strata."""
    # n**(2/3) samples balance the cost of sampling against the n / sqrt(samples) keys that the bracket collects.
    runs = int(weight.size ** (2 / 3)) // _RUN + 1
    stratum = weight.size // runs
    inside = np.random.default_rng(weight.size).integers(0, stratum - _RUN + 1, runs)
    return weight.sample_keys(np.arange(runs) * stratum + inside, _RUN)


def _bracket(sample: Array, fraction: float, slack: float) -> _Bracket:
    size = len(sample)
    middle = fraction * size
    margin = slack * math.sqrt(size * max(fraction * (1 - fraction), 1 / size)) + 1
    first, last = math.floor(middle - margin), math.ceil(middle + margin)
    places = [place for place in (first, last) if 0 <= place < size]
    ordered = np.partition(sample, places) if places else sample
    low = ordered[first] if first >= 0 else sample.dtype.type(0)
    high = ordered[last] if last < size else np.iinfo(sample.dtype).max
    on_ends = np.count_nonzero(sample == low) + np.count_nonzero(sample == high)
    return _Bracket(low, sample.dtype.type(high), bool(on_ends > (last - first) / 8 + 8))


class _SpanCounter:
    """Counts spans against a bracket."""

    def __init__(self, weight: ScoredWeight, bracket: _Bracket) -> None:
        self._reader = BlockReader(weight)
        self._bracket = bracket
        self._flags = np.empty((2, BLOCK), np.bool_)

    def count(self, span: Span) -> _SpanCount:
        """Count one span."""
        count = self._count_crowded if self._bracket.crowded else self._count_plain
        found = [count(self._reader.keys(*block)) for block in blocks_of(span)]
        return _SpanCount(
            below=sum(part.below for part in found),
            at_low=sum(part.at_low for part in found),
            inside=np.concatenate([part.inside for part in found]),
            at_high=sum(part.at_high for part in found),
            top=max(part.top for part in found),
        )

    def _count_plain(self, keys: Array) -> _SpanCount:
        """Both ends of the bracket belong to what is collected."""
        below, inside = self._flags[:, : len(keys)]
        np.less(keys, self._bracket.low, out=below)
        np.less_equal(keys, self._bracket.high, out=inside)
        np.not_equal(inside, below, out=inside)
        return _SpanCount(int(np.count_nonzero(below)), 0, keys.compress(inside), 0, keys.max())

    def _count_crowded(self, keys: Array) -> _SpanCount:
        """Keys that equal an end of the bracket are only counted."""
        low, high, _ = self._bracket
        flags, inside = self._flags[:, : len(keys)]
        below = int(np.count_nonzero(np.less(keys, low, out=flags)))
        upto_low = int(np.count_nonzero(np.less_equal(keys, low, out=flags)))
        if low == high:
            return _SpanCount(below, upto_low - below, keys[:0], 0, keys.max())
        below_high = int(np.count_nonzero(np.less(keys, high, out=inside)))
        np.not_equal(inside, flags, out=inside)
        collected = keys.compress(inside)
        upto_high = int(np.count_nonzero(np.less_equal(keys, high, out=flags)))
        return _SpanCount(below, upto_low - below, collected, upto_high - below_high, keys.max())


def _threshold(bracket: _Bracket, counts: list[_SpanCount], k: int) -> Any | None:
    """The k-th lowest key, or None when the bracket does not hold it."""
    rank = k - sum(count.below for count in counts)
    if rank <= 0:
        return None
    at_low = sum(count.at_low for count in counts)
    if rank <= at_low:
        return bracket.low
    rank -= at_low
    inside = np.concatenate([count.inside for count in counts])
    if rank <= len(inside):
        inside.partition(rank - 1)
        return inside[rank - 1]
    return bracket.high if rank <= len(inside) + sum(count.at_high for count in counts) else None


def _cut_at(
    weight: ScoredWeight, threshold: Any, bracket: _Bracket, spans: list[Span], counts: list[_SpanCount], k: int
) -> Cut:
    """Find the last element that falls among those with the threshold as key."""
    ties = [_ties_in(count, threshold, bracket) for count in counts]
    below = sum(_below_in(count, threshold, bracket) for count in counts)
    wanted = k - below
    if wanted == sum(ties):
        return Cut(threshold, weight.size - 1)
    upto = list(accumulate(ties))
    span = next(index for index, total in enumerate(upto) if total >= wanted)
    return Cut(threshold, _nth_tie(weight, spans[span], threshold, wanted - upto[span] + ties[span]))


def _ties_in(count: _SpanCount, threshold: Any, bracket: _Bracket) -> int:
    if bracket.crowded and threshold == bracket.low:
        return count.at_low
    if bracket.crowded and threshold == bracket.high:
        return count.at_high
    return int(np.count_nonzero(count.inside == threshold))


def _below_in(count: _SpanCount, threshold: Any, bracket: _Bracket) -> int:
    if bracket.crowded and threshold == bracket.low:
        return count.below
    return count.below + count.at_low + int(np.count_nonzero(count.inside < threshold))


def _nth_tie(weight: ScoredWeight, span: Span, threshold: Any, nth: int) -> int:
    """Index of the nth element (from 1) of a span whose key is `threshold`."""
    reader = BlockReader(weight)
    for start, stop in blocks_of(span):
        with np.errstate(all="ignore"):
            places = np.flatnonzero(reader.keys(start, stop) == threshold)
        if nth <= len(places):
            return start + int(places[nth - 1])
        nth -= len(places)
    raise PruningError(f"tensor '{weight.name}' changed while it was being pruned: nothing was written")
