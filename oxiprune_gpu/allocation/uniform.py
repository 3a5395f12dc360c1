"""Every weight loses its own fraction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from oxiprune_gpu.allocation.base import Allocation, Share


@dataclass(frozen=True)
class Uniform(Allocation):
    """Every weight loses the same fraction of its units, as if it were pruned alone; floor and ceiling limit each."""

    name: ClassVar[str] = "uniform"

    def counts(self, shares: Sequence[Share]) -> list[int]:
        """See `Allocation.counts`."""
        return [min(max(share.job.k, share.least), share.most) for share in shares]
