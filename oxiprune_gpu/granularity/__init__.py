"""Granularities: what falls together. One small file each; `GRANULARITIES` is the table.

To add one: a file with a subclass of `PruningGranularity`, a row here, and an oracle in the tests.
"""

from __future__ import annotations

from oxiprune_gpu.errors import InvalidOption
from oxiprune_gpu.granularity.axis import Axis
from oxiprune_gpu.granularity.base import GroupView, PruningGranularity, UnitView
from oxiprune_gpu.granularity.block import Block
from oxiprune_gpu.granularity.kernel import Kernel
from oxiprune_gpu.granularity.nm import NM
from oxiprune_gpu.granularity.structured import StructuredColumn, StructuredRow
from oxiprune_gpu.granularity.unstructured import Unstructured

GRANULARITIES: dict[str, type[PruningGranularity]] = {
    "unstructured": Unstructured,
    "row": StructuredRow,
    "column": StructuredColumn,
    "axis": Axis,
    "block": Block,
    "kernel": Kernel,
    "N:M": NM,
}
"""Name of a granularity -> its class. A text is `name` or `name:argument`, but for `N:M`: that is all numbers."""


def parse_granularity(granularity: str | PruningGranularity) -> PruningGranularity:
    """Return the granularity that `granularity` names.

    Texts are `unstructured`, `row`, `column`, `axis:N`, `block:HxW`, `kernel`, and `N:M` as in `2:4` or, along axis 0,
    `2:4@0`; `2:4+pad` and `2:4@0+pad` fill the last group of a line with zeros.

    Raises:
        InvalidOption: there is no such granularity, or its argument is wrong.
    """
    if isinstance(granularity, PruningGranularity):
        return granularity
    if not isinstance(granularity, str):
        raise InvalidOption(f"granularity must be text or a PruningGranularity, not {type(granularity).__name__}")
    name, argument = _parts(granularity)
    if name not in GRANULARITIES:
        raise InvalidOption(
            f"unknown granularity '{granularity}': use one of unstructured, row, column, axis:N, block:HxW, "
            "kernel, or N:M as in 2:4"
        )
    return GRANULARITIES[name].from_text(argument)


def _parts(text: str) -> tuple[str, str | None]:
    """Name and argument: `axis:1` is ("axis", "1"), `row` ("row", None), `2:4` ("N:M", "2:4")."""
    if text[:1].isdigit():
        return NM.name, text
    name, colon, argument = text.partition(":")
    return name, argument if colon else None


__all__ = [
    "GRANULARITIES",
    "NM",
    "Axis",
    "Block",
    "GroupView",
    "Kernel",
    "PruningGranularity",
    "StructuredColumn",
    "StructuredRow",
    "UnitView",
    "Unstructured",
    "parse_granularity",
]
