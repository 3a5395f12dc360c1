"""Channels of what is computed from stored data, followed back to where it is stored.

Weights reach their readers through DequantizeLinear, Transpose, Reshape and their like. Such a node gives its inputs
the channels that a reader of its output has claimed there.
"""

from __future__ import annotations

from collections.abc import Callable

from onnx_tools.compaction.adjustments import Follows
from onnx_tools.compaction.factors import reshaped
from onnx_tools.compaction.trace import Claim, Trace, said
from onnx_tools.graph_parts import Node

Pull = Callable[[Trace, Node, Claim], bool]
"""Lets the inputs of a node meet what is claimed of its output; False if they can't be told."""


def _same(trace: Trace, node: Node, claim: Claim) -> bool:
    trace.meet(node, 0, claim.factor, claim.role)
    return True


def _transpose(trace: Trace, node: Node, claim: Claim) -> bool:
    dims = trace.dims(node.inputs[0])
    if dims is None:
        return False
    order = node.ints_attribute("perm") or tuple(reversed(range(len(dims))))
    trace.meet(node, 0, claim.factor.moved(dict(enumerate(order))), claim.role)
    return True


def _reshape(trace: Trace, node: Node, claim: Claim) -> bool:
    before, after, output = trace.dims(node.inputs[0]), trace.dims(node.outputs[0]), node.outputs[0]
    if before is None or after is None or output is None:
        return False
    if node.op_type == "Reshape":
        trace.adjustments.append(Follows(node, 1, output))
    reason = f"{said(node)} mixes it with axes that can't be followed"
    for factor in reshaped(trace.channels, (claim.factor,), after, before, reason):
        trace.meet(node, 0, factor, claim.role)
    return True


PULLS: dict[tuple[str, str], Pull] = {
    **{("", name): _same for name in ("Identity", "Cast", "CastLike")},
    ("", "Transpose"): _transpose,
    **{("", name): _reshape for name in ("Reshape", "Flatten", "Squeeze", "Unsqueeze")},
}


def pull(trace: Trace, node: Node) -> None:
    """Give the inputs of a node of constants the channels of its outputs."""
    if node.is_constant:
        return
    rule = None if node.local else PULLS.get((node.domain, node.op_type))
    for output in node.outputs:
        for claim in [] if output is None else trace.claims_on(output):
            if rule is None or not rule(trace, node, claim):
                reason = f"{said(node)} makes the weight, and can't be followed back"
                trace.channels.fix(claim.factor.ids, reason)
