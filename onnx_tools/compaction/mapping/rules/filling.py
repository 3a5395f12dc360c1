"""ConstantOfShape: one number everywhere, in sizes that are computed."""

from __future__ import annotations

from collections import deque

from onnx_tools.compaction.mapping.adjustments import Follows
from onnx_tools.compaction.mapping.factors import Factor, factor_on
from onnx_tools.compaction.mapping.rules.sizes import MOST_BORN, born
from onnx_tools.compaction.mapping.trace import Said, Trace
from onnx_tools.graph_parts import Node, Value

_MOST_STEPS = 64
"""Values that are looked at, and readers of one."""


def filling(trace: Trace, node: Node) -> None:
    """An axis of the size of another has its channels.

    One whose size is stored gets channels of its own, if the number is for nothing else: any entry is like the others,
    so those leave that whoever reads the value wants to lose, as the first state of an LSTM.
    """
    sizes, output = trace.sizes_in(node.inputs[0]) or (), node.outputs[0]
    traced = born(trace, sizes)
    for axis, size in enumerate(sizes if output is not None else ()):
        if not isinstance(size, Said) or not 1 < size.number <= MOST_BORN or output is None:
            continue
        together = _filled_by(size.node.outputs[0])
        if together is not None:
            others = (factor_on(trace.of(other.outputs[0]), axis) for other in together)
            known = next((factor for factor in others if factor is not None), None)
            traced = (*traced, known or Factor((axis,), trace.channels.new(size.number)))
            trace.adjustments.append(Follows(size.node, size.index, output, axis - size.at))
    trace.give(node, traced)


def _filled_by(value: Value | None) -> list[Node] | None:
    """The nodes that fill a value in these sizes; None if somebody else gets the sizes too."""
    found: list[Node] = []
    waiting = deque([value])
    for _ in range(_MOST_STEPS):
        if not waiting:
            return found
        each = waiting.popleft()
        if each is None or each.output_of or each.handed_to or each.duplicated or len(each.readers) > _MOST_STEPS:
            return None
        for node, _ in each.readers:
            if node.local or node.domain or node.op_type not in ("Cast", "ConstantOfShape"):
                return None
            if node.op_type == "Cast":
                waiting.append(node.outputs[0])
            else:
                found.append(node)
    return None


RULES = {("", "ConstantOfShape"): filling}
