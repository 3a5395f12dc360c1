"""Rows and columns of a matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from oxiprune_gpu.errors import NotTwoDimensional
from oxiprune_gpu.granularity.base import PruningGranularity, UnitView


@dataclass(frozen=True)
class StructuredRow(PruningGranularity):
    """Whole rows of a weight with exactly two axes."""

    name: ClassVar[str] = "row"

    def unit_view(self, shape: tuple[int, ...]) -> UnitView:
        """See `PruningGranularity.unit_view`."""
        rows, columns = _matrix(shape)
        return UnitView(1, 1, rows, columns)


@dataclass(frozen=True)
class StructuredColumn(PruningGranularity):
    """Whole columns of a weight with exactly two axes."""

    name: ClassVar[str] = "column"

    def unit_view(self, shape: tuple[int, ...]) -> UnitView:
        """See `PruningGranularity.unit_view`."""
        rows, columns = _matrix(shape)
        return UnitView(1, rows, columns, 1)


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) != 2:
        raise NotTwoDimensional(shape)
    return shape[0], shape[1]
