"""How channels pass each operator: a small function an operator, or a row that names one.

`RULES` is the table; rows are added in the file of their kind. An operator without a row holds what reaches it.
"""

from __future__ import annotations

from collections.abc import Callable

from onnx_tools.compaction.mapping.rules import (
    attention,
    branching,
    contrib,
    elementwise,
    filling,
    movement,
    normalisation,
    places,
    products,
    quantised,
    recurrent,
    reduction,
    resizing,
    rotary,
    selection,
    sizes,
)
from onnx_tools.compaction.mapping.trace import Trace
from onnx_tools.graph_parts import Node

Rule = Callable[[Trace, Node], None]

RULES: dict[tuple[str, str], Rule] = {
    **attention.RULES,
    **branching.RULES,
    **contrib.RULES,
    **elementwise.RULES,
    **filling.RULES,
    **movement.RULES,
    **normalisation.RULES,
    **places.RULES,
    **products.RULES,
    **quantised.RULES,
    **recurrent.RULES,
    **reduction.RULES,
    **resizing.RULES,
    **rotary.RULES,
    **selection.RULES,
    **sizes.RULES,
}
"""By (domain, op type)."""
