"""Attention as one operator: whole heads leave, with all that is theirs of queries, keys and values.

The widths of heads stay: they are in the scale. Where several heads of queries share one of keys and values, these go
together; a single head of keys and values stays. What is kept for the next step stays too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_tools.compaction.mapping.adjustments import Counts
from onnx_tools.compaction.mapping.channels import Ids
from onnx_tools.compaction.mapping.factors import Factor
from onnx_tools.compaction.mapping.roles import Role
from onnx_tools.compaction.mapping.trace import Trace, said
from onnx_tools.graph_parts import Node
from onnx_tools.operators import CONTRIB

_READS = "reads heads of it"


def attention(trace: Trace, node: Node) -> None:
    """Attention of ONNX: Q, K, V (batch, steps, heads * width) or (batch, heads, steps, width), a mask."""
    _attend(trace, node, ("q_num_heads", "kv_num_heads"), mask=3, kept=(4, 5))


def multi_head_attention(trace: Trace, node: Node) -> None:
    """MultiHeadAttention of com.microsoft: Q, K, V (batch, steps, heads * width), their bias, masks."""
    _attend(trace, node, ("num_heads", ""), mask=5, kept=(6, 7, 8, 9), bias=3)


def grouped_query_attention(trace: Trace, node: Node) -> None:
    """GroupQueryAttention of com.microsoft: Q, K, V (batch, steps, heads * width)."""
    _attend(trace, node, ("num_heads", "kv_num_heads"), mask=10, kept=(3, 4, 11, 12, 13))


def _attend(
    trace: Trace, node: Node, names: tuple[str, str], *, mask: int, kept: Sequence[int], bias: int | None = None
) -> None:
    """`names`: of the attributes that count heads of queries, and of keys. `kept`: inputs from past steps."""
    ranks = {len(trace.dims(value) or ()) for value in node.inputs[:3]}
    if _keeps(node, kept, 3) or len(node.inputs) < 3 or ranks not in ({3}, {4}):
        trace.bar(node, f"{said(node)} keeps keys and values, or has its inputs in a way that can't be followed")
        return
    axis = 2 if ranks == {3} else 1
    counts = [node.int_attribute(name, 0) if name else 0 for name in names]
    parts = [_heads(trace, node, index, axis, counts[min(index, 1)] or counts[0]) for index in range(3)]
    queries, keys, values = parts
    if queries is None or keys is None or values is None or len(keys) != len(values) or len(queries) % len(keys):
        trace.bar(node, f"{said(node)} has heads that can't be told")
        return
    _tie(trace, node, queries, keys, values)
    _count(trace, node, names, axis, queries, keys)
    _meet_mask(trace, node, mask, queries[:, 0])
    if bias is not None:
        entries = np.concatenate([part.reshape(-1) for part in (queries, keys, values)])
        trace.meet(node, bias, Factor((0,), entries), Role.SHIFTS)
    trace.give(node, (Factor((axis,), np.repeat(queries[:, 0], values.shape[1] if axis == 2 else 1)),))
    for index, part in ((1, keys), (2, values)):
        trace.give(node, (Factor((1,), part[:, 0]),), index)


def _keeps(node: Node, kept: Sequence[int], first: int) -> bool:
    """Whether it reads what past steps have kept, or somebody reads its outputs from number `first` on."""
    given = any(node.has_input(index) for index in kept)
    others = [output for output in node.outputs[first:] if output is not None]
    return given or any(output.readers or output.output_of or output.handed_to for output in others)


def _heads(trace: Trace, node: Node, index: int, axis: int, count: int) -> Ids | None:
    """The channels of an input as (heads, width); those that none were said of stay. None if heads don't fit."""
    size = (trace.dims(node.inputs[index]) or ())[axis]
    if not isinstance(size, int):
        return None
    ids = trace.along(node, index, axis, _READS)
    if ids is None:
        ids = trace.channels.staying(size, f"{said(node)} reads what stays as it is")
    heads = size if axis == 1 else count
    return ids.reshape(heads, -1) if heads > 0 and size % heads == 0 else None


def _tie(trace: Trace, node: Node, queries: Ids, keys: Ids, values: Ids) -> None:
    trace.channels.tie(queries, queries[:, :1])
    if len(keys) == 1 < len(queries):
        for part in (keys, values):
            trace.channels.fix(part, f"{said(node)} reads it for all heads of queries")
        return
    together = queries.reshape(len(keys), -1)[:, :1]
    for part in (queries.reshape(len(keys), -1), keys, values):
        trace.channels.tie(part, together)


def _count(trace: Trace, node: Node, names: tuple[str, str], axis: int, queries: Ids, keys: Ids) -> None:
    for name, value, part in zip(names, node.inputs, (queries, keys), strict=False):
        if name in node.attributes and value is not None:
            trace.adjustments.append(Counts(node, name, value, axis, part.shape[1] if axis == 2 else 1))


def _meet_mask(trace: Trace, node: Node, index: int, heads: Ids) -> None:
    """A mask (..., heads, steps, steps), unless it is the same for all heads."""
    dims = trace.dims(node.inputs[index]) if node.has_input(index) else ()
    if dims is None:
        trace.channels.fix(heads, f"{said(node)} has a mask of unknown shape; --input-shape may tell it")
    elif len(dims) >= 3 and dims[-3] != 1:
        trace.meet(node, index, Factor((len(dims) - 3,), heads), Role.DESCRIBES)


def packed_attention(trace: Trace, node: Node) -> None:
    """Attention of com.microsoft: X (batch, steps, features), weight (features, 3 * heads * width), bias."""
    features = trace.along(node, 0, 2, "multiplies it, and all else with it")
    sizes, heads = trace.dims(node.inputs[1]), node.int_attribute("num_heads", 0)
    size = sizes[1] if sizes is not None and len(sizes) == 2 else None
    listed = "qkv_hidden_sizes" in node.attributes
    if not isinstance(size, int) or heads < 1 or size % (3 * heads) or listed or _keeps(node, (4, 6), 1):
        trace.bar(node, f"{said(node)} keeps keys and values, or has heads that can't be told")
        return
    made = trace.channels.new(heads, node.label)
    parts = np.tile(np.repeat(made, size // (3 * heads)), 3)
    trace.meet(node, 1, Factor((1,), parts), Role.MAKES)
    trace.meet(node, 2, Factor((0,), parts), Role.SHIFTS)
    if features is not None:
        trace.meet(node, 1, Factor((0,), features), Role.READS)
    _meet_mask(trace, node, 5, made)
    weight = node.inputs[1]
    if weight is not None:
        trace.adjustments.append(Counts(node, "num_heads", weight, 1, size // heads))
    trace.give(node, (Factor((2,), parts[: size // 3]),))


RULES = {
    ("", "Attention"): attention,
    (CONTRIB, "MultiHeadAttention"): multi_head_attention,
    (CONTRIB, "GroupQueryAttention"): grouped_query_attention,
    (CONTRIB, "Attention"): packed_attention,
}
