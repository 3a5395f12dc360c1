"""Every element for itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from oxiprune_gpu.granularity.base import PruningGranularity, UnitView


@dataclass(frozen=True)
class Unstructured(PruningGranularity):
    """Every element for itself; any shape."""

    name: ClassVar[str] = "unstructured"

    def unit_view(self, shape: tuple[int, ...]) -> UnitView | None:
        """See `PruningGranularity.unit_view`."""
        return None
