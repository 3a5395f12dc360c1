"""The reference backend: numpy, block by block, on several threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.backends.base import Backend, Statistics
from oxiprune_gpu.backends.parallel import BLOCK, Span, blocks_of, over_spans, spans_of
from oxiprune_gpu.backends.scored import BlockReader, ScoredWeight
from oxiprune_gpu.backends.threshold import Cut, check_finite, find_cut
from oxiprune_gpu.backends.unit_sums import ordered_sum, unit_sums
from oxiprune_gpu.blocks import ArrayBlocks, BlockSource
from oxiprune_gpu.granularity import UnitView
from oxiprune_gpu.metrics import ImportanceMetric
from oxiprune_gpu.metrics.given import GivenScores

Array = NDArray[Any]
Mask = NDArray[np.bool_]

_SHORT_RUN = 256
"""Units shorter than this are zeroed block by block, longer ones one by one."""


class NumpyBackend(Backend):
    """Works on any `BlockSource`; arrays are wrapped as `ArrayBlocks`."""

    name: ClassVar[str] = "numpy"

    def adopt(self, array: Array) -> BlockSource:
        """See `Backend.adopt`."""
        return ArrayBlocks(array)

    def element_scores(self, weight: BlockSource, metric: ImportanceMetric, name: str) -> Array:
        """See `Backend.element_scores`."""
        scored = ScoredWeight(weight, metric, name)
        scores = np.empty(scored.size, scored.score_dtype)

        def make_worker() -> Callable[[Span], Any]:
            reader = BlockReader(scored)

            def work(span: Span) -> Any:
                for start, stop in blocks_of(span):
                    scores[start:stop] = reader.scores(start, stop)
                return scores[slice(*span)].view(scored.key_dtype).max(initial=scored.key_dtype.type(0))

            return work

        scored.raise_if_nan(max(over_spans(make_worker, spans_of(scored.size))))
        return scores.reshape(weight.shape)

    def unit_scores(self, weight: BlockSource, view: UnitView, metric: ImportanceMetric, name: str) -> Array:
        """See `Backend.unit_scores`."""
        scored = ScoredWeight(weight, metric, name)
        if not metric.reads_weight:
            check_finite(scored)
        exact = metric.unit_scores(view.count, lambda: unit_sums(scored, view))
        with np.errstate(over="ignore"):
            scores = exact.astype(scored.score_dtype)
        if np.isnan(scores).any():
            check_finite(scored)
        return scores

    def kept_units(self, scores: Array, k: int) -> Mask:
        """See `Backend.kept_units`."""
        kept = np.ones(scores.size, np.bool_)
        if k:
            self.prune_elements(ArrayBlocks(scores), GivenScores(), k, "unit scores", mask=kept, write=False)
        return kept

    def prune_elements(
        self,
        weight: BlockSource,
        metric: ImportanceMetric,
        k: int,
        name: str,
        *,
        mask: Mask | None = None,
        write: bool = True,
    ) -> None:
        """See `Backend.prune_elements`."""
        scored = ScoredWeight(weight, metric, name)
        if k > 0:
            cut = find_cut(scored, k)
            over_spans(lambda: _CutWriter(scored, cut, mask, write).apply, spans_of(scored.size))
            return
        if scored.size:
            check_finite(scored)
        if mask is not None:
            mask[...] = True

    def prune_units(
        self, weight: BlockSource, view: UnitView, kept: Mask, *, mask: Mask | None = None, write: bool = True
    ) -> None:
        """See `Backend.prune_units`."""
        if mask is not None:
            mask.reshape(view.shape)[...] = kept.reshape(view.groups, 1, view.units, 1)
        if write and not kept.all():
            if view.outer > 1:
                _zero_scattered(weight, view, kept)
            elif view.inner < _SHORT_RUN:
                _zero_short_runs(weight, view.inner, kept)
            else:
                _zero_runs(weight, view.inner, kept)

    def apply_mask(self, weight: Array, mask: Mask) -> None:
        """See `Backend.apply_mask`."""
        bits = weight.view(_bits_dtype(weight.dtype))
        np.multiply(bits, mask, out=bits, casting="unsafe")

    def count_nonzero(self, weight: BlockSource) -> int:
        """See `Backend.count_nonzero`."""
        size = ScoredWeight(weight, GivenScores(), "").size

        def make_worker() -> Callable[[Span], int]:
            scratch = np.empty(min(BLOCK, size), weight.dtype)
            return lambda span: sum(_nonzeros(weight.load(*block, scratch)) for block in blocks_of(span))

        return sum(over_spans(make_worker, spans_of(size)))

    def statistics(self, weight: BlockSource, metric: ImportanceMetric, name: str) -> Statistics:
        """See `Backend.statistics`."""
        scored = ScoredWeight(weight, metric, name)
        if scored.size == 0:
            return Statistics(0.0, 0.0, 0.0, 0.0, 0.0)
        with np.errstate(all="ignore"):
            return _statistics(scored)


class _CutWriter:
    """Applies a cut to spans of a weight."""

    def __init__(self, weight: ScoredWeight, cut: Cut, mask: Mask | None, write: bool) -> None:
        self._weight = weight
        self._reader = BlockReader(weight)
        self._cut = cut
        self._mask = None if mask is None else mask.reshape(-1)
        self._write = write
        block = min(BLOCK, weight.size)
        self._kept = np.empty(block, np.bool_)
        self._factors = np.empty(block, _bits_dtype(weight.dtype))

    def apply(self, span: Span) -> None:
        """Apply the cut to one span."""
        for start, stop in blocks_of(span):
            values = self._reader.load(start, stop)
            kept = self._kept[: stop - start] if self._mask is None else self._mask[start:stop]
            self._cut.mask(self._reader.keys_of(values, start), start, kept)
            if self._write:
                self._zero_fallen(values, kept)
                self._weight.source.store(start, values)

    def _zero_fallen(self, values: Array, kept: Mask) -> None:
        # The bits times 0 or 1: no branch, kept bits stay, and neither -0.0 nor NaN can come of infinity.
        factors = self._factors[: len(values)]
        np.copyto(factors, kept)
        bits = values.view(factors.dtype)
        np.multiply(bits, factors, out=bits)


def _bits_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(f"u{dtype.itemsize}")


def _nonzeros(values: Array) -> int:
    """Values that are not zero: the sign bit is shifted out, what is left is 0 only for +0.0 and -0.0."""
    bits = values.view(_bits_dtype(values.dtype))
    return int(np.count_nonzero(bits + bits))


def _zero_runs(weight: BlockSource, length: int, kept: Mask) -> None:
    """Zero units that lie in one piece of `length` elements each; only what falls is touched."""
    fallen = np.flatnonzero(~kept)

    def make_worker() -> Callable[[Span], None]:
        scratch = np.empty(min(length, BLOCK), weight.dtype)

        def work(span: Span) -> None:
            for unit in fallen[slice(*span)].tolist():
                for start, stop in blocks_of((unit * length, (unit + 1) * length)):
                    block = weight.load(start, stop, scratch)
                    block.view(np.uint8)[:] = 0
                    weight.store(start, block)

        return work

    over_spans(make_worker, _pieces(len(fallen), max(1, BLOCK // length)))


def _zero_short_runs(weight: BlockSource, length: int, kept: Mask) -> None:
    """The same for many short units: whole blocks of them are multiplied with their mask."""
    factors = kept.astype(_bits_dtype(weight.dtype))
    at_once = max(1, BLOCK // length)

    def make_worker() -> Callable[[Span], None]:
        scratch = np.empty(at_once * length, weight.dtype)

        def work(span: Span) -> None:
            first, stop = span
            block = weight.load(first * length, stop * length, scratch)
            bits = block.view(factors.dtype).reshape(stop - first, length)
            np.multiply(bits, factors[first:stop, None], out=bits)
            weight.store(first * length, block)

        return work

    over_spans(make_worker, _pieces(len(factors), at_once))


def _zero_scattered(weight: BlockSource, view: UnitView, kept: Mask) -> None:
    """Zero units whose elements lie apart: every (units, inner) slab is multiplied with the mask of its units."""
    slab = view.units * view.inner
    factors = np.repeat(kept.reshape(view.groups, view.units), view.inner, axis=1).astype(_bits_dtype(weight.dtype))
    slabs_at_once = max(1, BLOCK // slab)

    def make_worker() -> Callable[[Span], None]:
        scratch = np.empty(min(slabs_at_once * slab, max(BLOCK, slab)), weight.dtype)

        def work(span: Span) -> None:
            first, stop = span
            block = weight.load(first * slab, stop * slab, scratch)
            bits = block.view(factors.dtype).reshape(stop - first, slab)
            np.multiply(bits, factors[first // view.outer], out=bits)
            weight.store(first * slab, block)

        return work

    groups = range(view.groups)
    pieces = [
        (group * view.outer + a, group * view.outer + b) for group in groups for a, b in _pieces(view.outer, slabs_at_once)
    ]
    over_spans(make_worker, pieces)


def _pieces(size: int, at_once: int) -> list[Span]:
    return [(start, min(start + at_once, size)) for start in range(0, size, at_once)]


def _statistics(scored: ScoredWeight) -> Statistics:
    low, high = _extremes(scored)
    scalar = scored.score_dtype.type

    def scores() -> Callable[[int, int], Array]:
        return BlockReader(scored).scores

    mean = scalar(ordered_sum(scored.size, scores) / scored.size)

    def squared_deviations() -> Callable[[int, int], Array]:
        reader = BlockReader(scored)

        def read(start: int, stop: int) -> Array:
            deviation = reader.scores(start, stop) - mean
            return deviation * deviation

        return read

    variance = ordered_sum(scored.size, squared_deviations) / scored.size
    return Statistics(float(low), float(high), float(mean), float(_median(scored)), float(scalar(np.sqrt(variance))))


def _extremes(scored: ScoredWeight) -> tuple[Any, Any]:
    def make_worker() -> Callable[[Span], tuple[Any, Any, Any]]:
        reader = BlockReader(scored)

        def work(span: Span) -> tuple[Any, Any, Any]:
            lows, highs, tops = [], [], []
            for block in blocks_of(span):
                scores = reader.scores(*block)
                lows.append(scores.min())
                highs.append(scores.max())
                tops.append(scores.view(scored.key_dtype).max())
            return min(lows), max(highs), max(tops)

        return work

    lows, highs, tops = zip(*over_spans(make_worker, spans_of(scored.size)), strict=True)
    scored.raise_if_nan(max(tops))
    return min(lows), max(highs)


def _median(scored: ScoredWeight) -> Any:
    upper = _order_statistic(scored, scored.size // 2 + 1)
    if scored.size % 2:
        return upper
    return (_order_statistic(scored, scored.size // 2) + upper) / scored.score_dtype.type(2)


def _order_statistic(scored: ScoredWeight, k: int) -> Any:
    """The k-th lowest score, from 1."""
    key = find_cut(scored, k).threshold
    return np.array(key, scored.key_dtype).view(scored.score_dtype)[()]
