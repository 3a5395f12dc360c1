"""Pooling, reductions, softmax: what works along an axis holds the channels there, the others pass."""

from __future__ import annotations

from onnx_tools.compaction.trace import Trace, said
from onnx_tools.graph_parts import Node


def pooling(trace: Trace, node: Node) -> None:
    """Windows over the axes behind 0 and 1."""
    trace.give(node, trace.only(node, 0, (0, 1), "moves a window over it"))


def along_axis(trace: Trace, node: Node) -> None:
    """Softmax and its like: everything along one axis together."""
    traced = trace.of(node.inputs[0])
    dims = trace.dims(node.inputs[0])
    if traced and dims is None:
        trace.bar(node, f"{said(node)} has an input of unknown shape; --input-shape may tell it")
    elif traced and dims is not None:
        axis = node.int_attribute("axis", -1) % len(dims)
        trace.give(node, trace.narrow(node, 0, (axis,), "works along it"))


RULES = {
    **{
        ("", name): pooling
        for name in ("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
    },
    **{("", name): along_axis for name in ("Softmax", "LogSoftmax", "Hardmax")},
}
