"""Plans of units on CUDA: rows, columns, slices and blocks of many weights, pruned in a handful of launches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from oxiprune_gpu.backends.cuda_plans import Checks, DevicePlan
from oxiprune_gpu.backends.cuda_selection import BOOLS, KernelOf, Selection
from oxiprune_gpu.backends.cuda_tables import DeviceWeight, Member, by_dtype, defines, nan_defines
from oxiprune_gpu.backends.cuda_unit_sums import UnitSums, UnitWork, merged
from oxiprune_gpu.backends.cuda_units import Units
from oxiprune_gpu.granularity import UnitView
from oxiprune_gpu.metrics import ImportanceMetric, L1Magnitude, Random

_APART = 16
"""Bytes of which every array that is cut from one begins at a multiple: the selection then loads vectors."""


class UnitsPlan(DevicePlan):
    """Prunes the lowest units of each weight: scores of all units, one selection among them, one pass that prunes.

    Args:
        xp: the array module.
        kernel_of: gives a kernel by family, name and defines.
        blocks: blocks of a launch at most; where units are added up, for each weight.
        rows: the weights with their masks, each a scope of its own.
        views: their units.
        counts: how many units of each fall.
        metric: scores them.
        mask_kind: the form of all masks.
        checks: says what was wrong.
    """

    def __init__(
        self,
        xp: Any,
        kernel_of: KernelOf,
        blocks: int,
        rows: Sequence[Member],
        views: Sequence[UnitView],
        counts: Sequence[int],
        metric: ImportanceMetric,
        mask_kind: int,
        checks: Checks,
    ) -> None:
        works = _works(xp, rows, views)
        ranked = [Member(_as_weight(work.scores), work.number, mask=work.kept) for work in works]
        self._selection = Selection(xp, kernel_of, blocks, ranked, counts, L1Magnitude(), repeatable=True)
        super().__init__(self._selection.header, self._selection.nonzero, checks)
        parts = by_dtype(works, lambda work: work.member)
        self._parts = [_Part(xp, kernel_of, blocks, part, metric) for part in parts]
        self._mask_kind = np.uint32(mask_kind)

    def launch(self) -> None:
        """See `DevicePlan.launch`."""
        selection = self._selection
        selection.restore()
        for part in self._parts:
            part.score(selection.header)
        selection.find()
        selection.apply(BOOLS, write=False)
        for part in self._parts:
            part.prune(selection.nonzero, self._mask_kind, selection.header)


class _Part:
    """The launches for the weights of one dtype.

    Random scores of units do not depend on the weights: they are made once, and a run only looks for NaN.
    """

    def __init__(
        self, xp: Any, kernel_of: KernelOf, blocks: int, works: Sequence[UnitWork], metric: ImportanceMetric
    ) -> None:
        dtype = works[0].member.weight.dtype
        options = defines(dtype, metric)
        self._sums = UnitSums(xp, lambda name: kernel_of("units", name, options), blocks, works)
        self._prune = self._sums.shares.over_tiles(kernel_of("units", "apply_units", options))
        self._find_nan = self._sums.shares.over_tiles(kernel_of("elements", "find_nan", nan_defines(dtype, metric)))
        self._is_random = isinstance(metric, Random)
        if self._is_random:
            units, none = Units(xp, kernel_of, blocks), xp.zeros(1, np.uint64)
            for work in works:
                units.write_random_scores(work.member, work.scores, none)

    def score(self, header: Any) -> None:
        """Score all units. A NaN is in the scores, or else in the header."""
        if self._is_random:
            self._find_nan(header)
        else:
            self._sums.launch()

    def prune(self, nonzero: Any, mask_kind: np.uint32, header: Any) -> None:
        """Zero the units that are not kept, before the first weight that holds NaN; write masks and counts."""
        self._prune(self._sums.shares.table, nonzero, mask_kind, header)


def _works(xp: Any, rows: Sequence[Member], views: Sequence[UnitView]) -> list[UnitWork]:
    """What is to be added up, each with room for its scores and for what is kept."""
    counts = [view.count for view in views]
    kept = _cut(xp, counts, [np.dtype(np.bool_)] * len(rows))
    scores = _cut(xp, counts, [row.weight.score_dtype for row in rows])
    return [
        UnitWork(row, merged(view), scores=own_scores, kept=own_kept, number=number)
        for number, (row, view, own_scores, own_kept) in enumerate(zip(rows, views, scores, kept, strict=True))
    ]


def _cut(xp: Any, counts: Sequence[int], dtypes: Sequence[np.dtype[Any]]) -> list[Any]:
    """Arrays of these lengths, cut from one."""
    sizes = [count * dtype.itemsize for count, dtype in zip(counts, dtypes, strict=True)]
    firsts = list(accumulate((-(-size // _APART) * _APART for size in sizes), initial=0))
    room = xp.empty(firsts[-1], np.uint8)
    return [room[first : first + size].view(dtype) for first, size, dtype in zip(firsts, sizes, dtypes, strict=False)]


def _as_weight(scores: Any) -> DeviceWeight:
    """Scores as the selection takes weights: it ranks them by their bits."""
    return DeviceWeight(scores.view(f"u{scores.dtype.itemsize}"), tuple(scores.shape), np.dtype(scores.dtype))
