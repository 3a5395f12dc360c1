"""Operators that compute: sums, products, quantisation, and Expand, which repeats."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_tools.compaction.mapping.factors import narrowed
from onnx_tools.compaction.mapping.pulls.moving import follow
from onnx_tools.compaction.mapping.roles import Role
from onnx_tools.compaction.mapping.rules.quantised import parameters
from onnx_tools.compaction.mapping.trace import Claim, Trace, said
from onnx_tools.graph_parts import Node


def summed(trace: Trace, node: Node, claim: Claim, _: int) -> bool:
    """Add, Sub: zero where all operands are."""
    return _operands(trace, node, claim, [claim.role] * len(node.inputs))


def multiplied(trace: Trace, node: Node, claim: Claim, _: int) -> bool:
    """Mul, Div: zero where the operand with the most axes of more than one entry is; that is the weight."""
    extents = [sum(size != 1 for size in trace.dims(value) or ()) for value in node.inputs]
    weight = 0 if node.op_type == "Div" else extents.index(max(extents))
    roles = [claim.role if index == weight else Role.DESCRIBES for index in range(len(node.inputs))]
    return _operands(trace, node, claim, roles)


def dequantized(trace: Trace, node: Node, claim: Claim, _: int) -> bool:
    """QuantizeLinear, DequantizeLinear: the weight; scales and zero points where there is one for each entry."""
    for factor in parameters(trace, node, (claim.factor,)):
        trace.meet(node, 0, factor, claim.role)
    return True


def expanded(trace: Trace, node: Node, claim: Claim, _: int) -> bool:
    """Expand to stored sizes."""
    if node.input_ints(1) is None or trace.dims(node.inputs[0]) is None:
        return False
    _meet_broadcast(trace, node, 0, claim, claim.role)
    follow(trace, node, 1)
    return True


def _operands(trace: Trace, node: Node, claim: Claim, roles: Sequence[Role]) -> bool:
    if any(trace.dims(value) is None for value in node.inputs):
        return False
    for index, role in enumerate(roles):
        _meet_broadcast(trace, node, index, claim, role)
    return True


def _meet_broadcast(trace: Trace, node: Node, index: int, claim: Claim, role: Role) -> None:
    """An operand meets what it has of a claim on the result, to which it is broadcast."""
    dims, result = trace.dims(node.inputs[index]) or (), trace.dims(node.outputs[0]) or ()
    more = len(result) - len(dims)
    lone = {axis for axis in claim.factor.axes if axis < more or (dims[axis - more] == 1 != result[axis])}
    if lone and role is Role.READS:
        trace.fix((claim.factor,), f"{said(node)} repeats what reads it")
    if lone == set(claim.factor.axes):
        return
    (own,) = narrowed(trace.channels, (claim.factor,), lone, said(node))
    trace.meet(node, index, own.moved({axis: axis - more for axis in own.axes}), role)
