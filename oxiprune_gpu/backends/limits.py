"""Where the k lowest of several weights end, when of each weight at least and at most so many fall."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Counts = NDArray[np.int64]

_FEW = 1 << 14
"""So many norms are sorted."""

_COARSE = 61
"""Of more, one in so many suggests where to look."""


class Limits(NamedTuple):
    """At least and at most so many units of each weight fall; int64, (weights,)."""

    least: Counts
    most: Counts

    def within(self, counts: Array) -> Array:
        """How many units of each weight fall, when the lowest `counts` would."""
        limited: Array = np.clip(counts, self.least, self.most)
        return limited

    def total(self, counts: Array) -> Any:
        """How many that is of all weights together."""
        return self.within(counts).sum()


class Norms(NamedTuple):
    """Norms of units, in any order: norm i is that of counts[i] units of weight owners[i]."""

    norms: NDArray[np.float64]
    owners: NDArray[np.intp]
    counts: Array
    weights: int

    @classmethod
    def joined(cls, norms: list[NDArray[np.float64]], counts: list[Array]) -> Norms:
        """Those of all weights, one after another."""
        owners = np.repeat(np.arange(len(norms)), [len(some) for some in norms])
        return cls(np.concatenate(norms), owners, np.concatenate(counts), len(norms))

    def units(self, flags: NDArray[np.bool_] | None = None) -> Array:
        """How many units of each weight the norms stand for, or those that are flagged."""
        counts = self.counts if flags is None else self.counts * flags  # takes less than choosing them
        return np.bincount(self.owners, counts, self.weights).astype(counts.dtype)  # float64 is exact to 2**53

    def end_of_lowest(self, below: Array, limits: Limits, k: float) -> float:
        """The lowest norm up to which, with the `below` units of each weight, at least `k` fall; there is one.

        A few of the norms suggest a window of them that holds it, nearly always; only the window is sorted.
        """
        window = self
        if len(self.norms) > _FEW:
            low, high = self._window(below, limits, k)
            under, upto = self.norms < low, self.norms <= high
            first = below + self.units(under)
            if limits.total(first) < k <= limits.total(below + self.units(upto)):
                window, below = self._chosen(upto & ~under), first
        window = window._chosen(np.argsort(window.norms))
        return float(window.norms[window._end(below, limits, k)])

    def _window(self, below: Array, limits: Limits, k: float) -> tuple[float, float]:
        few = self._chosen(slice(None, None, _COARSE))
        few = few._chosen(np.argsort(few.norms))._replace(counts=few.counts * _COARSE)
        middle, margin = few._end(below, limits, k), int(2 * math.sqrt(len(few.norms))) + 1
        low, high = max(0, middle - margin), min(len(few.norms) - 1, middle + margin)
        return float(few.norms[low]), float(few.norms[high])

    def _end(self, below: Array, limits: Limits, k: float) -> int:
        """Of ascending norms the first up to which `k` fall, or the last."""
        low, high = 0, len(self.norms) - 1
        while low < high:
            middle = (low + high) // 2
            upto = below + self._chosen(slice(low, middle + 1)).units()
            if limits.total(upto) >= k:
                high = middle
            else:
                low, below = middle + 1, upto
        return low

    def _chosen(self, where: Any) -> Norms:
        return Norms(self.norms[where], self.owners[where], self.counts[where], self.weights)
