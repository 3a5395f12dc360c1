"""Granularities: what falls together. One small file each; `GRANULARITIES` is the table.

To add one: a file with a subclass of `PruningGranularity`, a row here, and an oracle in the tests.
"""

from __future__ import annotations

from oxiprune_gpu.errors import InvalidOption
from oxiprune_gpu.granularity.axis import Axis
from oxiprune_gpu.granularity.base import PruningGranularity, UnitView
from oxiprune_gpu.granularity.structured import StructuredColumn, StructuredRow
from oxiprune_gpu.granularity.unstructured import Unstructured

GRANULARITIES: dict[str, type[PruningGranularity]] = {
    "unstructured": Unstructured,
    "row": StructuredRow,
    "column": StructuredColumn,
    "axis": Axis,
}
"""Text of a granularity -> its class."""


def parse_granularity(granularity: str | PruningGranularity) -> PruningGranularity:
    """Return the granularity that `granularity` names: `unstructured`, `row`, `column`, `axis:N`.

    Raises:
        InvalidOption: there is no such granularity, or its argument is wrong.
    """
    if isinstance(granularity, PruningGranularity):
        return granularity
    if not isinstance(granularity, str):
        raise InvalidOption(f"granularity must be text or a PruningGranularity, not {type(granularity).__name__}")
    name, colon, argument = granularity.partition(":")
    if name not in GRANULARITIES:
        raise InvalidOption(f"unknown granularity '{granularity}': use one of unstructured, row, column, axis:N")
    return GRANULARITIES[name].from_text(argument if colon else None)


__all__ = [
    "GRANULARITIES",
    "Axis",
    "PruningGranularity",
    "StructuredColumn",
    "StructuredRow",
    "UnitView",
    "Unstructured",
    "parse_granularity",
]
