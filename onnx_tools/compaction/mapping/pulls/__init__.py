"""Channels of what is computed from stored data, followed back to where it is stored.

Weights reach their readers through DequantizeLinear, Transpose, Reshape and their like. Such a node gives its inputs
the channels that a reader of its output has claimed there.
"""

from __future__ import annotations

from collections.abc import Callable

from onnx_tools.compaction.mapping.pulls import arithmetic, moving, parts
from onnx_tools.compaction.mapping.trace import Claim, Trace, said
from onnx_tools.graph_parts import Node
from onnx_tools.operators import CONTRIB

Pull = Callable[[Trace, Node, Claim, int], bool]
"""Lets the inputs of a node meet what is claimed of output number so and so; False if they can't be told."""

_LINEAR = ("QuantizeLinear", "DequantizeLinear")

PULLS: dict[tuple[str, str], Pull] = {
    **{("", name): moving.same for name in ("Identity", "Cast", "CastLike", "Neg", "Abs", "Relu", "Tanh", "Sqrt")},
    ("", "Transpose"): moving.transpose,
    **{("", name): moving.reshape for name in ("Reshape", "Flatten", "Squeeze", "Unsqueeze")},
    ("", "Expand"): arithmetic.expanded,
    ("", "ConstantOfShape"): moving.filled,
    ("", "Concat"): parts.concat,
    ("", "Split"): parts.split,
    ("", "Slice"): parts.slicing,
    ("", "Gather"): parts.gather,
    **{("", name): arithmetic.summed for name in ("Add", "Sub", "Sum")},
    **{("", name): arithmetic.multiplied for name in ("Mul", "Div")},
    **{(domain, name): arithmetic.dequantized for domain in ("", CONTRIB) for name in _LINEAR},
}


def pull(trace: Trace, node: Node) -> None:
    """Give the inputs of a node of constants the channels of its outputs."""
    if node.is_constant:
        return
    rule = None if node.local else PULLS.get((node.domain, node.op_type))
    for number, output in enumerate(node.outputs):
        for claim in [] if output is None else trace.claims_on(output):
            if rule is None or not rule(trace, node, claim, number):
                reason = f"{said(node)} makes the weight, and can't be followed back"
                trace.channels.fix(claim.factor.ids, reason)
