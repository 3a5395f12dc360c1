"""Launches of the work on units: their scores, pruning them, and the sums and extremes that statistics need.

Nothing here waits for the device: results are device arrays. Sums and scores come with `nan`, one uint64 on the device:
not 0 where a score that went into them is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from oxiprune_gpu.backends.cuda_shares import THREADS
from oxiprune_gpu.backends.cuda_tables import DeviceWeight, Member, defines, tensor_table
from oxiprune_gpu.backends.cuda_unit_sums import UnitSums, UnitWork, merged
from oxiprune_gpu.backends.kernels import Kernel
from oxiprune_gpu.granularity import UnitView
from oxiprune_gpu.metrics import ImportanceMetric, L1Magnitude, Random

_VECTOR = 16
"""Bytes that a thread loads or stores at once."""


class Units:
    """Work on the units of a weight, in the documented order of addition.

    Args:
        xp: the array module.
        kernel_of: gives a kernel by family, name and defines.
        blocks: blocks of a launch at most.
    """

    def __init__(self, xp: Any, kernel_of: Callable[[str, str, dict[str, str]], Kernel], blocks: int) -> None:
        self._xp = xp
        self._kernel_of = kernel_of
        self._blocks = blocks

    def unit_scores(self, member: Member, view: UnitView, metric: ImportanceMetric) -> tuple[Any, Any]:
        """Scores of all units, in the score dtype, and `nan`."""
        scores, nan = self._xp.zeros(view.count, member.weight.score_dtype), self._xp.zeros(1, np.uint64)
        if not member.weight.size:
            return scores, nan
        if isinstance(metric, Random):
            self._score_randomly(member, scores, nan)
        else:
            self._add(member, view, metric, scores=scores, nan=nan)
        return scores, nan

    def unit_sums(self, member: Member, view: UnitView, metric: ImportanceMetric) -> tuple[Any, Any]:
        """Float64 sums of the scores of the elements of each unit, and `nan`."""
        sums, nan = self._xp.zeros(view.count, np.float64), self._xp.zeros(1, np.uint64)
        if member.weight.size:
            self._add(member, view, metric, sums=sums, nan=nan)
        return sums, nan

    def ordered_sum(self, member: Member, metric: ImportanceMetric) -> tuple[Any, Any]:
        """Float64 sum of the scores of all elements as one unit, shape (1,), and `nan`."""
        return self.unit_sums(member, UnitView(1, 1, 1, member.weight.size), metric)

    def squared_deviation_sum(self, member: Member, metric: ImportanceMetric, mean: Any) -> Any:
        """Float64 sum, shape (1,), of (score - mean) ** 2, each rounded to the score dtype; `mean` has that dtype."""
        sums = self._xp.zeros(1, np.float64)
        weight = member.weight
        if weight.size:
            key = np.asarray(mean, weight.score_dtype).reshape(1).view(weight.key_dtype)[0]
            view = UnitView(1, 1, 1, weight.size)
            self._add(member, view, metric, sums=sums, mean=int(key))
        return sums

    def extremes(self, member: Member, metric: ImportanceMetric) -> tuple[Any, Any]:
        """Lowest and highest key of all elements, shape (2,) uint64, and `nan`, here the number of NaN scores.

        A NaN has a key above that of infinity. Without elements the lowest key is all ones and the highest 0.
        """
        extremes, nan = self._xp.asarray(np.array([2**64 - 1, 0], np.uint64)), self._xp.zeros(1, np.uint64)
        kernel = self._kernel_of("elements", "find_extremes", defines(member.weight.dtype, metric))
        self._launch(kernel, -(-member.weight.size // THREADS), (self._table(member), extremes, nan))
        return extremes, nan

    def prune_units(
        self, weight: DeviceWeight, view: UnitView, kept: Any, *, mask: Any = None, write: bool = True
    ) -> None:
        """Set the elements of units that are not `kept` (bool, shape (view.count,)) to +0.0.

        The mask goes to `mask` (bool, C-contiguous, the weight's size) when one is given. With `write=False` the
        weight stays as it is.
        """
        if not weight.size or not (write or mask is not None):
            return
        groups, outer, units, inner = merged(view).shape
        threads = self._blocks * THREADS
        width = _VECTOR // weight.dtype.itemsize
        # Few units: several threads share the elements of each one.
        shares = max(1, min(outer, threads * width // (groups * units * inner)))
        kernel = self._kernel_of("units", "prune_units", defines(weight.dtype, L1Magnitude()))
        arguments = weight.bits if write else None, None if mask is None else mask.reshape(-1), kept
        sizes = (groups, outer, units, inner, shares)
        self._launch(kernel, -(-groups * shares * units * inner // THREADS), (*arguments, *map(np.uint64, sizes)))

    def _score_randomly(self, member: Member, scores: Any, nan: Any) -> None:
        """Random scores do not depend on the weight; NaN in it is looked for apart."""
        weight = member.weight
        count_nan = self._kernel_of("elements", "count_nan", defines(weight.dtype, L1Magnitude()))
        self._launch(count_nan, -(-weight.size // THREADS), (weight.bits, np.uint64(weight.size), nan))
        self.write_random_scores(member, scores, nan)

    def write_random_scores(self, member: Member, scores: Any, nan: Any) -> None:
        """Write the random scores of units; NaN where the word `nan` is not 0."""
        kernel = self._kernel_of("units", "random_unit_scores", defines(member.weight.dtype, L1Magnitude()))
        arguments = np.uint64(member.seed), np.uint64(scores.size), scores, nan
        self._launch(kernel, -(-scores.size // THREADS), arguments)

    def _add(
        self,
        member: Member,
        view: UnitView,
        metric: ImportanceMetric,
        *,
        sums: Any = None,
        scores: Any = None,
        nan: Any = None,
        mean: int | None = None,
    ) -> None:
        """Add up the terms of every unit: the scores, or with a mean (a key) the squared deviations from it.

        What comes of it goes to `sums` or to `scores`, whichever is given.
        """
        options = defines(member.weight.dtype, metric) | ({} if mean is None else {"TERM": "Deviation"})
        work = UnitWork(member, merged(view), sums, scores, nan, mean or 0)
        UnitSums(self._xp, lambda name: self._kernel_of("units", name, options), self._blocks, [work]).launch()

    def _table(self, member: Member) -> Any:
        return self._xp.asarray(tensor_table([member]))

    def _launch(self, kernel: Kernel, blocks: int, arguments: tuple[Any, ...]) -> None:
        """Launch as many blocks as there is work for, or fewer that take several shares."""
        kernel((max(1, min(self._blocks, blocks)),), (THREADS,), arguments)
