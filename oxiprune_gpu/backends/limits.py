"""Where the k lowest of several weights end, when of each weight at least and at most so many fall."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Counts = NDArray[np.int64]


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

    @classmethod
    def joined(cls, norms: list[NDArray[np.float64]], counts: list[Array]) -> Norms:
        """Those of all weights, one after another."""
        owners = np.repeat(np.arange(len(norms)), [len(some) for some in norms])
        return cls(np.concatenate(norms), owners, np.concatenate(counts))

    def chosen(self, flags: NDArray[np.bool_], weights: int) -> Array:
        """How many units of each weight are flagged."""
        sums = np.bincount(self.owners[flags], self.counts[flags], weights)  # of float64, exact to 2**53
        return sums.astype(self.counts.dtype)

    def end_of_lowest(self, below: Array, limits: Limits, k: float) -> float:
        """The lowest norm up to which, with the `below` units of each weight, at least `k` fall; there is one."""
        some = self._replace(norms=self.norms.view(np.uint64))  # no norm is negative: bits have their order
        low, high = int(some.norms.min()), int(some.norms.max())
        while low < high:
            middle = (low + high) // 2
            under = some.norms <= middle
            upto = below + some.chosen(under, len(below))
            if limits.total(upto) >= k:
                high = middle
            else:
                low, below, under = middle + 1, upto, ~under
            some = Norms(some.norms[under], some.owners[under], some.counts[under])
        return float(np.array(low, np.uint64).view(np.float64))
