"""Operators that read and write at places that indices name.

GatherND and ScatterND name places along the first axes; what lies behind them moves whole. GatherElements and
ScatterElements name one for each element along one axis; along the others indices lie beside what they name.
"""

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


def gathering_elements(trace: Trace, node: Node) -> None:
    """GatherElements: data and indices have the same channels along all axes but the one that is picked from."""
    _by_element(trace, node, (0, 1), 1)


def scattering_elements(trace: Trace, node: Node) -> None:
    """ScatterElements: data, indices and updates have the same channels along all axes but the one written along."""
    _by_element(trace, node, (0, 1, 2), 0)


def _by_element(trace: Trace, node: Node, indices: tuple[int, ...], result: int) -> None:
    """Inputs `indices` meet along all axes but one; input `result` has the shape of what comes out."""
    dims = [trace.dims(node.inputs[index]) for index in indices]
    sizes = [each for each in dims if each is not None]
    if len(sizes) < len(dims):
        trace.bar(node, f"{said(node)} has an input of unknown shape; --input-shape may tell it")
        return
    rank = len(sizes[result])
    picked = node.int_attribute("axis", 0) % rank
    along = [{each[axis] for each in sizes} for axis in range(rank)]
    like = [axis != picked and len(found) == 1 and None not in found for axis, found in enumerate(along)]
    operands = []
    for index in indices:
        trace.only(node, index, (axis for axis in range(rank) if like[axis]), "names places along it")
        operands.append(Operand(index, tuple(axis if like[axis] else NONE for axis in range(rank))))
    trace.give(node, meet(trace, node, operands, rank, makes=False), rank=rank)


RULES = {
    ("", "GatherND"): gathering,
    ("", "ScatterND"): scattering,
    ("", "GatherElements"): gathering_elements,
    ("", "ScatterElements"): scattering_elements,
}
