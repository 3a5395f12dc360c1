"""Rows and columns of a matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from oxiprune_gpu.errors import NotTwoDimensional
from oxiprune_gpu.granularity.axis import Axis
from oxiprune_gpu.granularity.base import PruningGranularity, UnitView


@dataclass(frozen=True)
class StructuredRow(PruningGranularity):
    """Whole rows of a weight with exactly two axes."""

    name: ClassVar[str] = "row"

    def unit_view(self, shape: tuple[int, ...]) -> UnitView:
        """See `PruningGranularity.unit_view`."""
        return _matrix_axis(0, shape)


@dataclass(frozen=True)
class StructuredColumn(PruningGranularity):
    """Whole columns of a weight with exactly two axes."""

    name: ClassVar[str] = "column"

    def unit_view(self, shape: tuple[int, ...]) -> UnitView:
        """See `PruningGranularity.unit_view`."""
        return _matrix_axis(1, shape)


def _matrix_axis(axis: int, shape: tuple[int, ...]) -> UnitView:
    if len(shape) != 2:
        raise NotTwoDimensional(shape)
    return Axis(axis).unit_view(shape)
