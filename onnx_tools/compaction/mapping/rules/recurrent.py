"""LSTM, GRU, RNN: hidden units are channels, with a row of each gate, and a column for the step before."""

from __future__ import annotations

import numpy as np

from onnx_tools.compaction.mapping.adjustments import Counts
from onnx_tools.compaction.mapping.channels import Ids
from onnx_tools.compaction.mapping.factors import Factor
from onnx_tools.compaction.mapping.roles import Role
from onnx_tools.compaction.mapping.trace import Trace, said
from onnx_tools.graph_parts import Node

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_STEPS = "goes along it step by step"


def recurrent(trace: Trace, node: Node) -> None:
    """X (steps, batch, features), W (directions, gates * units, features), R (directions, gates * units, units).

    All directions lose the same units, since there is one number of them.
    """
    features = trace.along(node, 0, 2, _STEPS)
    gates, size = _GATES[node.op_type], _units(trace, node)
    if size is None:
        trace.bar(node, f"{said(node)} has weights of a shape that doesn't fit")
        return
    units = trace.channels.new(size, node.label)
    _meet_weights(trace, node, units, gates)
    if features is not None:
        trace.meet(node, 1, Factor((2,), features), Role.READS)
    for index in (5, 6):
        _meet_state(trace, node, index, units)
    recurrence = node.inputs[2]
    if recurrence is not None and "hidden_size" in node.attributes:
        trace.adjustments.append(Counts(node, "hidden_size", recurrence, 2))
    for index, axis in enumerate((3, 2, 2)[: len(node.outputs)]):
        trace.give(node, (Factor((axis,), units),), index)


def _units(trace: Trace, node: Node) -> int | None:
    """How many hidden units there are; None if the weights don't agree."""
    inputs, recurrence = trace.dims(node.inputs[1]), trace.dims(node.inputs[2])
    if inputs is None or recurrence is None or len(inputs) != 3 or len(recurrence) != 3:
        return None
    size = recurrence[2]
    fits = isinstance(size, int) and inputs[1] == recurrence[1] == _GATES[node.op_type] * size
    return size if isinstance(size, int) and fits and node.int_attribute("hidden_size", size) == size else None


def _meet_weights(trace: Trace, node: Node, units: Ids, gates: int) -> None:
    rows = np.tile(units, gates)
    trace.meet(node, 1, Factor((1,), rows), Role.MAKES)
    trace.meet(node, 2, Factor((1,), rows), Role.MAKES)
    trace.meet(node, 2, Factor((2,), units), Role.READS)
    trace.meet(node, 3, Factor((1,), np.tile(rows, 2)), Role.SHIFTS)
    if node.op_type == "LSTM":
        trace.meet(node, 7, Factor((1,), np.tile(units, 3)), Role.DESCRIBES)


def _meet_state(trace: Trace, node: Node, index: int, units: Ids) -> None:
    """The state that the first step starts from."""
    if index < len(node.inputs) and node.inputs[index] is not None:
        if not _is_stored(node, index):
            trace.along(node, index, 2, _STEPS)
        trace.meet(node, index, Factor((2,), units), Role.DESCRIBES)


def _is_stored(node: Node, index: int) -> bool:
    value = node.inputs[index]
    return value is not None and value.constant


RULES = {("", name): recurrent for name in _GATES}
