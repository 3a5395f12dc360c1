"""RotaryEmbedding: pairs of numbers are turned inside each head, so that whole heads leave."""

from __future__ import annotations

from onnx_tools.compaction.mapping.adjustments import Counts
from onnx_tools.compaction.mapping.factors import Factor
from onnx_tools.compaction.mapping.trace import Trace, said
from onnx_tools.graph_parts import Node
from onnx_tools.operators import CONTRIB


def rotating(trace: Trace, node: Node) -> None:
    """X (batch, steps, heads * width) or (batch, heads, steps, width); tables with a number for each pair of a head."""
    dims, value = trace.dims(node.inputs[0]), node.inputs[0]
    if dims is None or value is None or len(dims) not in (3, 4):
        trace.bar(node, f"{said(node)} has its input in a way that can't be followed")
        return
    axis = 2 if len(dims) == 3 else 1
    ids = trace.along(node, 0, axis, "turns it")
    if ids is None:
        return
    heads = len(ids) if axis == 1 else _heads(trace, node, len(ids))
    if heads < 1 or len(ids) % heads:
        trace.bar(node, f"{said(node)} has heads that can't be told")
        return
    parts = ids.reshape(heads, -1)
    trace.channels.tie(parts, parts[:, :1])
    if node.int_attribute("num_heads", 0):
        trace.adjustments.append(Counts(node, "num_heads", value, axis, parts.shape[1]))
    trace.give(node, (Factor((axis,), ids),))


def _heads(trace: Trace, node: Node, size: int) -> int:
    """How many heads lie along an axis of `size`: as it is said, or as they are as wide as the table; 0: unknown."""
    told, part = node.int_attribute("num_heads", 0), node.int_attribute("rotary_embedding_dim", 0)
    table = trace.dims(node.inputs[2 if node.domain else 1])
    pairs = table[-1] if table else None
    return told if told or part or not isinstance(pairs, int) else size // (2 * pairs)


RULES = {(domain, "RotaryEmbedding"): rotating for domain in ("", CONTRIB)}
