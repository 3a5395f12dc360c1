"""Plans of N:M on CUDA: many weights pruned inside their groups, in a handful of launches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from oxiprune_gpu.backends.cuda_groups import GroupLaunches, GroupWork
from oxiprune_gpu.backends.cuda_plans import Checks, DevicePlan
from oxiprune_gpu.backends.cuda_selection import NO_NAN, KernelOf, Workspace
from oxiprune_gpu.backends.cuda_tables import Member, by_dtype
from oxiprune_gpu.granularity import GroupView
from oxiprune_gpu.metrics import ImportanceMetric


class GroupsPlan(DevicePlan):
    """Prunes inside the groups of each weight: one pass looks for NaN in all of them, unless `finite`, and one prunes.

    Args:
        xp: the array module.
        kernel_of: gives a kernel by family, name and defines.
        blocks: blocks of a launch at most; where groups are pruned, for each weight.
        rows: the weights with their masks.
        views: their groups, all with the same `keep` and `of`.
        metric: scores the elements.
        mask_kind: the form of all masks. Those of bits begin at multiples of four bytes, with room for whole words.
        checks: says what was wrong.
    """

    def __init__(
        self,
        xp: Any,
        kernel_of: KernelOf,
        blocks: int,
        rows: Sequence[Member],
        views: Sequence[GroupView],
        metric: ImportanceMetric,
        mask_kind: int,
        checks: Checks,
    ) -> None:
        self._space = Workspace(xp, [np.array([NO_NAN], np.uint64)], [len(rows)], restorable=True)
        header, nonzero = self._space.take(2)
        super().__init__(header, nonzero, checks)
        self._counts = nonzero
        self._mask_kind = mask_kind
        works = [GroupWork(row, view, number) for number, (row, view) in enumerate(zip(rows, views, strict=True))]
        parts = by_dtype(works, lambda work: work.member)
        self._parts = [GroupLaunches(xp, kernel_of, blocks, part, metric) for part in parts]

    def launch(self) -> None:
        """See `DevicePlan.launch`."""
        self._space.restore()
        for part in () if self.finite else self._parts:
            part.find_nan(self._header)
        for part in self._parts:
            part.prune(self._header, self._mask_kind, nonzero=self._counts, scanned=not self.finite)
