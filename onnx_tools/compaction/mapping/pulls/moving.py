"""Operators that move elements: Transpose, Reshape and their like."""

from __future__ import annotations

from onnx_tools.compaction.mapping.adjustments import Follows
from onnx_tools.compaction.mapping.reshaping import reshaped
from onnx_tools.compaction.mapping.roles import Role
from onnx_tools.compaction.mapping.trace import Claim, Trace, said
from onnx_tools.graph_parts import Node


def same(trace: Trace, node: Node, claim: Claim, _: int) -> bool:
    """Element by element: the input has the channels of the result."""
    trace.meet(node, 0, claim.factor, claim.role)
    return True


def transpose(trace: Trace, node: Node, claim: Claim, _: int) -> bool:
    """Transpose: axes change places."""
    dims = trace.dims(node.inputs[0])
    if dims is None:
        return False
    order = node.ints_attribute("perm") or tuple(reversed(range(len(dims))))
    trace.meet(node, 0, claim.factor.moved(dict(enumerate(order))), claim.role)
    return True


def reshape(trace: Trace, node: Node, claim: Claim, _: int) -> bool:
    """Reshape, Flatten, Squeeze, Unsqueeze: the elements keep their order."""
    before, after = trace.dims(node.inputs[0]), trace.dims(node.outputs[0])
    listed = node.op_type == "Reshape"
    if before is None or after is None or (listed and node.input_ints(1) is None):
        return False
    reason = f"{said(node)} mixes it with axes that can't be followed"
    for factor in reshaped(trace.channels, (claim.factor,), after, before, reason):
        trace.meet(node, 0, factor, claim.role)
    if listed:
        follow(trace, node, 1)
    return True


def filled(trace: Trace, node: Node, claim: Claim, _: int) -> bool:
    """ConstantOfShape: one number everywhere."""
    if node.input_ints(0) is None or claim.role is Role.READS:
        return False
    follow(trace, node, 0)
    return True


def follow(trace: Trace, node: Node, index: int) -> None:
    """Input `index` of a node lists the sizes of its output."""
    output = node.outputs[0]
    if output is not None:
        trace.adjustments.append(Follows(node, index, output))
