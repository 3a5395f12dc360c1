"""GatherND and ScatterND: indices name places along the first axes; what lies behind them moves whole."""

from __future__ import annotations

from onnx_tools.compaction.mapping.factors import moved
from onnx_tools.compaction.mapping.roles import Role
from onnx_tools.compaction.mapping.rules.meeting import NONE, Operand, meet
from onnx_tools.compaction.mapping.trace import Trace, said
from onnx_tools.graph_parts import Node


def gathering(trace: Trace, node: Node) -> None:
    """GatherND: the last axis of the indices says how many axes are gone behind the `batch_dims` first ones."""
    first, data = _first_behind(trace, node), node.inputs[0]
    if first is None or data is None or data.constant:
        return
    rank, more = len(trace.dims(data) or ()), len(trace.dims(node.inputs[1]) or ()) - 1 - first
    traced = trace.only(node, 0, range(first, rank), "picks from it")
    trace.give(node, moved(traced, {axis: axis + more for axis in range(first, rank)}))


def scattering(trace: Trace, node: Node) -> None:
    """ScatterND: updates (places, axes behind) are written into the data."""
    first = _first_behind(trace, node)
    if first is None:
        return
    rank, more = len(trace.dims(node.inputs[0]) or ()), len(trace.dims(node.inputs[1]) or ()) - 1 - first
    operands = []
    for index, before in ((0, first), (2, first + more)):
        behind = range(first, rank)
        trace.only(node, index, (axis + before - first for axis in behind), "writes into a part of it")
        operands.append(Operand(index, (*[NONE] * before, *behind), Role.SHIFTS))
    trace.give(node, meet(trace, node, operands, rank, makes=False))


def _first_behind(trace: Trace, node: Node) -> int | None:
    """The first axis of the data that no index names; None, and all stays, if that can't be told."""
    trace.fix(trace.of(node.inputs[1]), f"{said(node)} finds places by it")
    picked = trace.dims(node.inputs[1])
    named = picked[-1] if picked else None
    if trace.dims(node.inputs[0]) is None or not isinstance(named, int):
        trace.bar(node, f"{said(node)} has an input of unknown shape; --input-shape may tell it")
        return None
    return node.int_attribute("batch_dims", 0) + named


RULES = {("", "GatherND"): gathering, ("", "ScatterND"): scattering}
