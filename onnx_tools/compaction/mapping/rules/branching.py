"""If: what both branches give is one value behind it."""

from __future__ import annotations

from onnx_tools.compaction.mapping.trace import Trace, said
from onnx_tools.graph_parts import Node, Value


def branching(trace: Trace, node: Node) -> None:
    """Channels leave if both branches have as many along the same axes: they are tied."""
    trace.fix(trace.of(node.inputs[0]), f"{said(node)} decides by it")
    branches = trace.results(node)
    for index in range(len(node.outputs)):
        _join(trace, node, index, [branch[index] for branch in branches])


def _join(trace: Trace, node: Node, index: int, given: list[Value | None]) -> None:
    first, *others = [{factor.axes: factor for factor in trace.of(value)} for value in given]
    alike = all(
        other.keys() == first.keys() and all(first[axes].ids.shape == other[axes].ids.shape for axes in first)
        for other in others
    )
    if not alike or len(given) != 2 or any(value is None or value.constant for value in given):
        for value in given:
            trace.fix(trace.of(value), f"{said(node)} may give something else in its place")
        return
    for axes, factor in first.items():
        trace.channels.tie(factor.ids, others[0][axes].ids)
    trace.give(node, tuple(first.values()), index, trace.rank(given[0]))


RULES = {("", "If"): branching}
