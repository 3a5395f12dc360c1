"""The reference backend: numpy, block by block, on several threads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.backends.base import Backend, PlanMember, Statistics
from oxiprune_gpu.backends.bits import bits_dtype, count_nonzeros, multiply_bits
from oxiprune_gpu.backends.groups import prune_groups
from oxiprune_gpu.backends.joined import JoinedPlan
from oxiprune_gpu.backends.losses import spread_losses
from oxiprune_gpu.backends.one_by_one import OneByOne
from oxiprune_gpu.backends.parallel import BLOCK, SPAN, Span, blocks_of, cut, over_spans, quietly, spans_of
from oxiprune_gpu.backends.scored import BlockReader, ScoredWeight
from oxiprune_gpu.backends.threshold import Lowest, check_finite, find_lowest, order_statistic
from oxiprune_gpu.backends.unit_sums import ordered_sum, unit_sums
from oxiprune_gpu.blocks import ArrayBlocks, BlockSource
from oxiprune_gpu.granularity import GroupView, UnitView
from oxiprune_gpu.metrics import ImportanceMetric, L1Magnitude
from oxiprune_gpu.metrics.given import GivenScores

Array = NDArray[Any]
Mask = NDArray[np.bool_]

_FEW_UNITS = 4096
"""So many units are sorted: selecting without sorting costs more before it begins."""


class NumpyBackend(Backend):
    """Works on any `BlockSource`; arrays are wrapped as `ArrayBlocks`."""

    name: ClassVar[str] = "numpy"
    few_features: ClassVar[int] = 4

    def adopt(self, array: Array, dtype: np.dtype[Any] | None = None) -> BlockSource:
        """See `Backend.adopt`."""
        return ArrayBlocks(array if dtype is None else array.view(dtype))

    def empty_mask(self, shape: tuple[int, ...]) -> Mask:
        """See `Backend.empty_mask`."""
        return np.empty(shape, np.bool_)

    def empty_array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """See `Backend.empty_array`."""
        return np.empty(shape, dtype)

    def own_mask(self, mask: Mask) -> Mask:
        """See `Backend.own_mask`."""
        return mask

    def packed_mask(self, mask: Mask) -> Array:
        """See `Backend.packed_mask`."""
        return np.packbits(mask.reshape(-1), bitorder="little")

    @quietly
    def element_scores(self, weight: BlockSource, metric: ImportanceMetric, name: str) -> Array:
        """See `Backend.element_scores`."""
        scored = ScoredWeight(weight, metric, name)
        scores = np.empty(scored.size, scored.score_dtype)
        if not scored.size:
            return scores.reshape(weight.shape)

        def make_worker() -> Callable[[Span], Any]:
            reader = BlockReader(scored)

            def work(span: Span) -> Any:
                for start, stop in blocks_of(span):
                    scores[start:stop] = reader.scores(start, stop)
                return scores[slice(*span)].view(scored.key_dtype).max(initial=scored.key_dtype.type(0))

            return work

        scored.raise_if_nan(max(over_spans(make_worker, spans_of(scored.size))))
        return scores.reshape(weight.shape)

    @quietly
    def unit_scores(self, weight: BlockSource, view: UnitView, metric: ImportanceMetric, name: str) -> Array:
        """See `Backend.unit_scores`."""
        scored = ScoredWeight(weight, metric, name)
        if not metric.reads_weight:
            check_finite(scored)
        scores = metric.unit_scores(view.count, lambda: unit_sums(scored, view)).astype(scored.score_dtype)
        if np.isnan(np.add.reduce(scores)):  # scores are not negative: their sum is NaN where one of them is
            check_finite(scored)
        return scores

    def kept_units(self, scores: Array, k: int) -> Mask:
        """See `Backend.kept_units`."""
        kept = np.ones(scores.size, np.bool_)
        if scores.size <= _FEW_UNITS:
            kept[np.argsort(scores.view(bits_dtype(scores.dtype)), kind="stable")[:k]] = False
        elif k:
            self.prune_elements(ArrayBlocks(scores), GivenScores(), k, "unit scores", mask=kept, write=False)
        return kept

    @quietly
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
            kept = np.empty(scored.size, np.bool_) if mask is None else mask.reshape(-1)
            _mark_and_zero(weight, find_lowest(scored, k, kept), kept, write=write)
            return
        if scored.size:
            check_finite(scored)
        if mask is not None:
            mask[...] = True

    def plan(
        self, members: Sequence[PlanMember], metric: ImportanceMetric, k: int | None = None
    ) -> OneByOne | JoinedPlan:
        """See `Backend.plan`."""
        return OneByOne(self, members, metric) if k is None else JoinedPlan(members, metric, k, self.packed_mask)

    def prune_units(
        self, weight: BlockSource, view: UnitView, kept: Mask, *, mask: Mask | None = None, write: bool = True
    ) -> None:
        """See `Backend.prune_units`."""
        flags = None if mask is None else mask.reshape(-1)
        if not math.prod(weight.shape) or (flags is None and (not write or kept.all())):
            return
        if view.outer > 1:
            _prune_scattered(weight, view, kept, flags, write)
        elif view.inner <= SPAN:
            _prune_runs(weight, view.inner, kept, flags, write)
        else:
            _prune_long_runs(weight, view.inner, kept, flags, write)

    @quietly
    def prune_groups(
        self,
        weight: BlockSource,
        view: GroupView,
        metric: ImportanceMetric,
        name: str,
        *,
        mask: Mask | None = None,
        write: bool = True,
    ) -> None:
        """See `Backend.prune_groups`."""
        prune_groups(ScoredWeight(weight, metric, name), view, mask, write=write)

    def spread_losses(
        self,
        left: Array,
        fallen: Mask,
        lost: Array,
        shares: Array,
        diagonal: Array,
        groups: GroupView | None,
        name: str,
    ) -> None:
        """See `Backend.spread_losses`."""

        def kept_in_groups(scores: Array, view: GroupView) -> Mask:
            kept = np.empty(scores.shape, np.bool_)
            self.prune_groups(self.adopt(scores), view, L1Magnitude(), name, mask=kept, write=False)
            return kept

        spread_losses(left, fallen, lost, shares, diagonal, groups, kept_in_groups)

    def apply_mask(self, weight: Array, mask: Mask) -> None:
        """See `Backend.apply_mask`."""
        multiply_bits(weight, mask, np.empty(weight.shape, bits_dtype(weight.dtype)))

    def count_nonzero(self, weight: BlockSource) -> int:
        """See `Backend.count_nonzero`."""
        size = math.prod(weight.shape)

        def make_worker() -> Callable[[Span], int]:
            scratch = np.empty(min(BLOCK, size), weight.dtype)
            return lambda span: sum(count_nonzeros(weight.load(*block, scratch)) for block in blocks_of(span))

        return sum(over_spans(make_worker, spans_of(size)))

    @quietly
    def statistics(self, weight: BlockSource, metric: ImportanceMetric, name: str) -> Statistics:
        """See `Backend.statistics`."""
        scored = ScoredWeight(weight, metric, name)
        if scored.size == 0:
            return Statistics(0.0, 0.0, 0.0, 0.0, 0.0)
        return _statistics(scored)


def _mark_and_zero(weight: BlockSource, lowest: Lowest, kept: Mask, *, write: bool) -> None:
    """Complete the marks of a weight, and set the elements that are not kept to +0.0."""
    block_size = min(BLOCK, len(kept)) if write else 0

    def make_worker() -> Callable[[Span], None]:
        mark = lowest.make_marker()
        scratch = np.empty(block_size, weight.dtype)
        factors = np.empty(block_size, bits_dtype(weight.dtype))

        def work(span: Span) -> None:
            mark(span)
            if not write:
                return
            for start, stop in blocks_of(span):
                block = weight.load(start, stop, scratch)
                multiply_bits(block, kept[start:stop], factors[: stop - start])
                weight.store(start, block)

        return work

    over_spans(make_worker, lowest.spans)


def _prune_runs(weight: BlockSource, length: int, kept: Mask, flags: Mask | None, write: bool) -> None:
    """Mark and zero units that lie in one piece of `length` elements each, many units at a time."""
    at_once = max(1, SPAN // length)

    def make_worker() -> Callable[[Span], None]:
        scratch = np.empty(at_once * length if write else 0, weight.dtype)

        def work(span: Span) -> None:
            first, stop = span
            if flags is not None:
                flags[first * length : stop * length].reshape(-1, length)[...] = kept[first:stop, None]
            if write and not kept[first:stop].all():
                block = weight.load(first * length, stop * length, scratch)
                block.view(bits_dtype(weight.dtype)).reshape(-1, length)[~kept[first:stop]] = 0
                weight.store(first * length, block)

        return work

    over_spans(make_worker, cut((0, len(kept)), at_once))


def _prune_long_runs(weight: BlockSource, length: int, kept: Mask, flags: Mask | None, write: bool) -> None:
    """The same for units so long that one alone is many blocks."""

    def make_worker() -> Callable[[Span], None]:
        scratch = np.empty(BLOCK if write else 0, weight.dtype)

        def work(span: Span) -> None:
            stays = kept[span[0] // length]
            if flags is not None:
                flags[slice(*span)] = stays
            for start, stop in blocks_of(span) if write and not stays else ():
                block = weight.load(start, stop, scratch)
                block.view(bits_dtype(weight.dtype))[:] = 0
                weight.store(start, block)

        return work

    units = [(unit * length, (unit + 1) * length) for unit in range(len(kept))]
    over_spans(make_worker, [piece for unit in units for piece in cut(unit, SPAN)])


def _prune_scattered(weight: BlockSource, view: UnitView, kept: Mask, flags: Mask | None, write: bool) -> None:
    """The same for units whose elements lie apart: (units, inner) slabs are multiplied with the mask of their units."""
    slab = view.units * view.inner
    stays = np.repeat(kept.reshape(view.groups, view.units), view.inner, axis=1)
    factors = stays.astype(bits_dtype(weight.dtype))
    at_once = max(1, BLOCK // slab)

    def make_worker() -> Callable[[Span], None]:
        scratch = np.empty(at_once * slab if write else 0, weight.dtype)

        def work(span: Span) -> None:
            group = span[0] // view.outer
            if flags is not None:
                flags[span[0] * slab : span[1] * slab].reshape(-1, slab)[...] = stays[group]
            for first, stop in cut(span, at_once) if write else ():
                block = weight.load(first * slab, stop * slab, scratch)
                bits = block.view(factors.dtype).reshape(-1, slab)
                np.multiply(bits, factors[group], out=bits)
                weight.store(first * slab, block)

        return work

    groups = cut((0, view.groups * view.outer), view.outer)
    over_spans(make_worker, [piece for group in groups for piece in cut(group, max(1, SPAN // slab))])


def _statistics(scored: ScoredWeight) -> Statistics:
    low, high = _extremes(scored)
    scalar: Callable[[float], Any] = scored.score_dtype.type

    def scores() -> Callable[[int, int], Array]:
        return BlockReader(scored).scores

    mean = scalar(ordered_sum(scored.size, scores) / scored.size)

    def squared_deviations() -> Callable[[int, int], Array]:
        reader = BlockReader(scored)

        def read(start: int, stop: int) -> Array:
            deviation: Array = reader.scores(start, stop) - mean
            return np.multiply(deviation, deviation, out=deviation)

        return read

    variance = ordered_sum(scored.size, squared_deviations) / scored.size
    return Statistics(float(low), float(high), float(mean), _median(scored), float(scalar(np.sqrt(variance))))


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


def _median(scored: ScoredWeight) -> float:
    upper = order_statistic(scored, scored.size // 2 + 1)
    if scored.size % 2:
        return float(upper)
    return float((order_statistic(scored, scored.size // 2) + upper) / scored.score_dtype.type(2))
