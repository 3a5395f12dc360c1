"""Exact selection of the k lowest scores, without sorting them and without holding them.

A sample brackets the threshold. One pass over the blocks counts the keys below the bracket, marks those above it as
kept, and collects the few inside; the threshold is an exact order statistic of those, and only their marks are left
to set. Ties fall by index, the lowest first.

Values that are frequent enough to sit on the bracket's ends (constant, sparse or coarse data) are counted apart there
instead of collected, so what is collected stays small whatever the data; marking then takes a second pass. The sample
only decides how fast the answer is found: a bracket that misses still narrows what is left, and the next pass looks
there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.backends.parallel import BLOCK, Span, blocks_of, cut, over_spans, spans_of
from oxiprune_gpu.backends.scored import BlockReader, ScoredWeight
from oxiprune_gpu.errors import PruningError

Array = NDArray[Any]
Mask = NDArray[np.bool_]

_RUN = 32
"""Neighbours sampled together: they share two cache lines, which the processor fetches as a pair."""

_WORD = 8
"""Flags in a 64-bit word."""

_FLAGS = 1 << 20
"""Flags looked through at a time: what is allocated for them stays with the allocator and is not paged in anew."""

_COARSE = 64
"""One key in so many narrows the search among sampled and collected keys."""

_FEW = 4096
"""Keys that are sorted rather than partitioned."""

_SLACK = 2.8
"""Half width of a bracket, in standard errors of a sampled rank: 1 in 200 misses, and costs another pass."""

_TRUSTED = 3
"""Passes after which the sample is no longer asked."""

_FEW_LEFT = 1 << 20
"""Keys that are collected rather than narrowed further."""


class _Cut(NamedTuple):
    """Where the k lowest end: an element falls when its key is below `threshold`, or equal and not after `last_tie`."""

    threshold: Any
    last_tie: int

    def mark(self, keys: Array, start: int, kept: Mask) -> None:
        """Write to `kept` which of `keys`, the first of which is element `start`, do not fall."""
        ties_fall = min(max(self.last_tie + 1 - start, 0), len(keys))
        np.greater(keys[:ties_fall], self.threshold, out=kept[:ties_fall])
        np.greater_equal(keys[ties_fall:], self.threshold, out=kept[ties_fall:])

    def mark_inside(self, found: _Found, kept: Mask) -> None:
        """Set in `kept`, of the whole weight, those of the elements inside a bracket that do not fall."""
        stays = found.inside > self.threshold
        if len(found.places) and self.last_tie < found.places[-1]:
            stays |= (found.inside == self.threshold) & (found.places > self.last_tie)
        kept[found.places.compress(stays)] = True


class _Bracket(NamedTuple):
    """Keys low..high that hold the threshold, we hope. `crowded`: many keys equal low or high."""

    low: Any
    high: Any
    crowded: bool


class _Found(NamedTuple):
    """What one pass found: keys inside the bracket (its ends too, unless it is crowded) and where they are."""

    below: int
    at_low: int
    inside: Array
    places: NDArray[np.intp]
    at_high: int
    top: Any

    @classmethod
    def joined(cls, parts: list[_Found]) -> _Found:
        """What was found in several parts of a weight; the places are left to the parts."""
        below, at_low, inside, _, at_high, top = zip(*parts, strict=True)
        nowhere = np.empty(0, np.intp)
        return cls(sum(below), sum(at_low), np.concatenate(inside), nowhere, sum(at_high), max(top))


class Lowest(NamedTuple):
    """The k lowest elements of a weight, found but not yet all marked.

    `make_marker()` makes a function, one for each thread, that completes the marks of one of the `spans`.
    """

    spans: list[Span]
    make_marker: Callable[[], Callable[[Span], None]]


def find_lowest(weight: ScoredWeight, k: int, kept: Mask) -> Lowest:
    """Find the `k` lowest elements, 1 <= k <= weight.size; the marks in `kept` (flat) are complete once made.

    Raises:
        NonFiniteWeight, NonFiniteScore: see `Backend`.
    """
    if weight.size <= BLOCK:
        keys = _all_keys(weight)
        _cut_among(keys, _kth(weight, keys, k), k).mark(keys, 0, kept)
        return Lowest([(0, weight.size)], lambda: lambda span: None)
    spans = spans_of(weight.size)
    threshold, bracket, parts = _search(weight, k, spans, kept)
    cut = _cut(weight, threshold, bracket, spans, parts, k)
    if bracket.crowded:
        return Lowest(spans, lambda: _Marker(weight, cut, kept).mark)
    found = dict(zip(spans, parts, strict=True))
    return Lowest(spans, lambda: lambda span: cut.mark_inside(found[span], kept))


def order_statistic(weight: ScoredWeight, k: int) -> Any:
    """The `k`-th lowest score, from 1. Errors as in `find_lowest`."""
    if weight.size <= BLOCK:
        key = _kth(weight, _all_keys(weight), k)
    else:
        key = _search(weight, k, spans_of(weight.size), None)[0]
    return weight.score_of(key)


def check_finite(weight: ScoredWeight) -> None:
    """Raise as `find_lowest` does, when nothing is to be selected."""

    def make_worker() -> Any:
        reader = BlockReader(weight)
        return lambda span: max(reader.keys(*block).max() for block in blocks_of(span))

    weight.raise_if_nan(max(over_spans(make_worker, spans_of(weight.size))))


def _all_keys(weight: ScoredWeight) -> Array:
    return BlockReader(weight).keys(0, weight.size)


def _kth(weight: ScoredWeight, keys: Array, k: int) -> Any:
    weight.raise_if_nan(np.maximum.reduce(keys))
    # Few keys are sorted as fast as they are partitioned, and faster when many are equal.
    return (np.sort(keys) if len(keys) <= _FEW else np.partition(keys, k - 1))[k - 1]


def _cut_among(keys: Array, threshold: Any, k: int) -> _Cut:
    """The cut that lets the `k` lowest of all `keys` fall, when `threshold` is the k-th of them."""
    ties = k - int(np.count_nonzero(keys < threshold))
    return _Cut(threshold, int(np.flatnonzero(keys == threshold)[ties - 1]))


def _search(weight: ScoredWeight, k: int, spans: list[Span], kept: Mask | None) -> tuple[Any, _Bracket, list[_Found]]:
    """The k-th lowest key, the bracket that held it, and what the last pass found in each span."""
    sample = sample_keys(weight, int(1.5 * weight.size ** (2 / 3)))
    bracket = _bracket(sample, k / weight.size)
    known = _Known(0, int(np.iinfo(weight.key_dtype).max), 0, weight.size)
    longest = max(stop - start for start, stop in spans)
    attempt = 1
    while True:
        make_worker = partial(_make_search, weight, bracket, kept, longest)
        parts = over_spans(make_worker, spans)
        found = _Found.joined(parts)
        weight.raise_if_nan(found.top)
        threshold = _threshold(bracket, found, k)
        if threshold is not None:
            return threshold, bracket, parts
        known = known.narrowed(bracket, found, k)
        bracket = _next_bracket(sample.reshape(-1), known, k, attempt)
        attempt += 1


def _make_search(weight: ScoredWeight, bracket: _Bracket, kept: Mask | None, longest: int) -> Callable[[Span], _Found]:
    return _Searcher(weight, bracket, kept, longest).search


class _Known(NamedTuple):
    """The threshold is a key in low..high; `below` keys are less than low, `upto` are not greater than high."""

    low: int
    high: int
    below: int
    upto: int

    def narrowed(self, missed: _Bracket, found: _Found, k: int) -> _Known:
        """What is known after a pass whose bracket did not hold the threshold."""
        if k <= found.below:
            return self._replace(high=int(missed.low) - 1, upto=found.below)
        upto = found.below + found.at_low + len(found.inside) + found.at_high
        return self._replace(low=int(missed.high) + 1, below=upto)


def _next_bracket(sample: Array, known: _Known, k: int, attempt: int) -> _Bracket:
    """A bracket inside what is known: all of it when few keys are left, else what the sample says, else its middle.

    Halving ends any search, however misleading the sample: after one pass for each bit of a key at the latest.
    """
    scalar = sample.dtype.type
    if known.upto - known.below <= _FEW_LEFT or known.low == known.high:
        return _Bracket(scalar(known.low), scalar(known.high), False)
    inside = sample[(sample >= scalar(known.low)) & (sample <= scalar(known.high))]
    if attempt <= _TRUSTED and len(inside) >= _FEW:
        bracket = _bracket(
            inside[: len(inside) // _RUN * _RUN].reshape(-1, _RUN), (k - known.below) / (known.upto - known.below)
        )
        low, high = max(int(bracket.low), known.low), min(int(bracket.high), known.high)
        return _Bracket(scalar(low), scalar(high), bracket.crowded)
    middle = scalar((known.low + known.high) // 2)
    return _Bracket(middle, middle, True)


def sample_keys(weight: ScoredWeight, size: int, *, foreseeable: bool = True) -> Array:
    """About `size` keys, of at least that many: short runs, one at a random place in each of many equal strata.

    Where they may be `foreseeable`, the places are the same in every run. Returns (runs, length of a run).
    """
    # A multiple of n**(2/3) balances the cost of sampling against the n / sqrt(samples) keys the bracket collects.
    runs = size // _RUN + 1
    stratum = weight.size // (runs * _RUN)
    inside = np.random.default_rng(weight.size if foreseeable else None).integers(0, stratum, runs)
    return weight.keys_of_runs(np.arange(runs) * stratum + inside, _RUN)


def _bracket(sample: Array, fraction: float) -> _Bracket:
    """Keys between which the key at `fraction` of all lies, nearly always."""
    ranked = _Ranked(sample.reshape(-1), fraction)
    size = sample.size
    middle = fraction * size
    margin = _SLACK * _rank_error(sample, ranked.key(min(int(middle), size - 1)), fraction) + 1
    first, last = math.floor(middle - margin), math.ceil(middle + margin)
    low = ranked.key(first) if first >= 0 else sample.dtype.type(0)
    high = ranked.key(last) if last < size else sample.dtype.type(np.iinfo(sample.dtype).max)
    on_ends = np.count_nonzero(sample == low) + np.count_nonzero(sample == high)
    return _Bracket(low, high, bool(on_ends > (last - first) / 8 + 8))


def _rank_error(sample: Array, key: Any, fraction: float) -> float:
    """Standard error of the rank of a `key` in the sample.

    The keys of a run may be alike, as in rows of different scale: then it is the runs that count, not their keys.
    """
    runs, length = sample.shape
    below = np.add.reduce((sample < key).view(np.uint8), axis=1, dtype=np.uint8)
    spread = max(fraction * (1 - fraction), 1 / sample.size)
    return math.sqrt(runs * max(float(np.var(below)), length * spread))


class _Ranked:
    """Keys of which a few are wanted by rank, around a `fraction` of all.

    Every `_COARSE`-th key suggests a window of few keys that holds them, nearly always; only the window is sorted.
    """

    def __init__(self, keys: Array, fraction: float) -> None:
        self._keys = keys
        coarse = np.sort(keys[::_COARSE])
        middle, margin = fraction * len(coarse), 2 * math.sqrt(len(coarse)) + 1
        low = coarse[max(0, int(middle - margin))]
        high = coarse[min(len(coarse) - 1, int(middle + margin))]
        self._below = int(np.count_nonzero(keys < low))
        self._window = np.sort(keys[(keys >= low) & (keys <= high)])

    def key(self, rank: int) -> Any:
        """The key of `rank`, from 0."""
        if 0 <= rank - self._below < len(self._window):
            return self._window[rank - self._below]
        return np.partition(self._keys, rank)[rank]


class _Searcher:
    """Holds spans of a weight against a bracket; marks what is above it, unless it is crowded."""

    def __init__(self, weight: ScoredWeight, bracket: _Bracket, kept: Mask | None, longest: int) -> None:
        self._weight = weight
        self._reader = BlockReader(weight)
        self._bracket = bracket
        self._kept = kept
        rows = 2 if kept is None or bracket.crowded else 1
        self._flags = np.empty((rows, -(-longest // _WORD) * _WORD), np.bool_)

    def search(self, span: Span) -> _Found:
        """Search one span."""
        return self._search_crowded(span) if self._bracket.crowded else self._search_plain(span)

    def _search_plain(self, span: Span) -> _Found:
        start, stop = span
        # Scores are compared, not keys: NaN is then neither below nor above, and is found among what is inside.
        low, high = (self._weight.score_of(key) for key in self._bracket[:2])
        below = self._flags[0]
        above = self._flags[1] if self._kept is None else self._kept[start:stop]
        for first, last in blocks_of(span):
            scores = self._reader.scores(first, last)
            np.less(scores, low, out=below[first - start : last - start])
            np.greater(scores, high, out=above[first - start : last - start])
        count = int(np.count_nonzero(below[: stop - start]))
        np.equal(below[: stop - start], above[: stop - start], out=below[: stop - start])
        inside, places = self._collect(below, span)
        return _Found(count, 0, inside, places, 0, np.maximum.reduce(inside, initial=self._bracket.low))

    def _search_crowded(self, span: Span) -> _Found:
        start, _ = span
        low, high, _ = self._bracket
        inside, scratch = self._flags
        below = at_low = at_high = 0
        top = low
        for first, last in blocks_of(span):
            keys = self._reader.keys(first, last)
            part, other = inside[first - start : last - start], scratch[: last - first]
            fewer = int(np.count_nonzero(np.less(keys, low, out=other)))
            below += fewer
            at_low += int(np.count_nonzero(np.less_equal(keys, low, out=other))) - fewer
            fewer = int(np.count_nonzero(np.less(keys, high, out=part)))
            np.greater(part, other, out=part)
            if low != high:
                at_high += int(np.count_nonzero(np.less_equal(keys, high, out=other))) - fewer
            top = max(top, np.maximum.reduce(keys))
        return _Found(below, at_low, *self._collect(inside, span), at_high, top)

    def _collect(self, flags: Mask, span: Span) -> tuple[Array, NDArray[np.intp]]:
        """The flagged keys of a span, and their places."""
        start, stop = span
        whole = -(-(stop - start) // _WORD) * _WORD
        flags[stop - start : whole] = False
        pieces = [flagged(flags[first:last], start + first) for first, last in cut((0, whole), _FLAGS)]
        places = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return self._weight.keys_at(places), places


def flagged(flags: Mask, start: int) -> NDArray[np.intp]:
    """Places of the flags that are set, whole words of them, when the first flag is that of element `start`."""
    # Few are flagged: looking at a word of flags at once passes over most of them.
    words = flags.view(np.uint64)
    hit = (words != 0).nonzero()[0]
    inside = words.take(hit).view(np.bool_).nonzero()[0]
    hit *= _WORD
    hit += start
    offsets = inside % _WORD
    inside //= _WORD
    places: NDArray[np.intp] = hit.take(inside)
    places += offsets
    return places


def _threshold(bracket: _Bracket, found: _Found, k: int) -> Any | None:
    """The k-th lowest key, or None when the bracket does not hold it."""
    rank = k - found.below
    if rank <= 0:
        return None
    if rank <= found.at_low:
        return bracket.low
    rank -= found.at_low
    if rank <= len(found.inside):
        return _Ranked(found.inside, (rank - 1) / len(found.inside)).key(rank - 1)
    return bracket.high if rank <= len(found.inside) + found.at_high else None


class _Marker:
    """Marks spans of a weight by a cut."""

    def __init__(self, weight: ScoredWeight, cut: _Cut, kept: Mask) -> None:
        self._reader = BlockReader(weight)
        self._cut = cut
        self._kept = kept

    def mark(self, span: Span) -> None:
        """Mark one span."""
        for start, stop in blocks_of(span):
            self._cut.mark(self._reader.keys(start, stop), start, self._kept[start:stop])


def _cut(
    weight: ScoredWeight, threshold: Any, bracket: _Bracket, spans: list[Span], parts: list[_Found], k: int
) -> _Cut:
    """Find the last element that falls among those whose key is the threshold."""
    below, ties = zip(*(_below_and_ties(part, threshold, bracket) for part in parts), strict=True)
    wanted = k - sum(below)
    upto = list(accumulate(ties))
    span = next(index for index, total in enumerate(upto) if total >= wanted)
    if wanted == upto[-1]:
        return _Cut(threshold, weight.size - 1)
    return _Cut(threshold, _nth_tie(weight, spans[span], threshold, wanted - upto[span] + ties[span]))


def _below_and_ties(part: _Found, threshold: Any, bracket: _Bracket) -> tuple[int, int]:
    """How many keys of a part are below the threshold, and how many equal it."""
    if bracket.crowded and threshold == bracket.low:
        return part.below, part.at_low
    below = part.below + part.at_low + int(np.count_nonzero(part.inside < threshold))
    if bracket.crowded and threshold == bracket.high:
        return below, part.at_high
    return below, int(np.count_nonzero(part.inside == threshold))


def _nth_tie(weight: ScoredWeight, span: Span, threshold: Any, nth: int) -> int:
    """Index of the nth element (from 1) of a span whose key is `threshold`."""
    reader = BlockReader(weight)
    for start, stop in blocks_of(span):
        places = np.flatnonzero(reader.keys(start, stop) == threshold)
        if nth <= len(places):
            return start + int(places[nth - 1])
        nth -= len(places)
    raise PruningError(f"tensor '{weight.name}' changed while it was being pruned: nothing was written")
