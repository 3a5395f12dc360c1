"""Normalisations: what is normalised channel by channel passes, what is normalised over channels holds them."""

from __future__ import annotations

from onnx_tools.compaction.factors import Factor
from onnx_tools.compaction.roles import Role
from onnx_tools.compaction.trace import Trace
from onnx_tools.graph_parts import Node


def batch_normalisation(trace: Trace, node: Node) -> None:
    """Scale, shift, mean and variance for each channel of axis 1."""
    _by_channel(trace, node, (Role.SCALES, Role.SHIFTS, Role.DESCRIBES, Role.DESCRIBES))


def instance_normalisation(trace: Trace, node: Node) -> None:
    """Scale and shift for each channel of axis 1; normalised over the axes behind it."""
    _by_channel(trace, node, (Role.SCALES, Role.SHIFTS))


def _by_channel(trace: Trace, node: Node, roles: tuple[Role, ...]) -> None:
    ids = trace.along(node, 0, 1, "normalises over it")
    if ids is None:
        return
    for index, role in enumerate(roles, 1):
        trace.meet(node, index, Factor((0,), ids), role)
    trace.give(node, (Factor((1,), ids),))


RULES = {
    ("", "BatchNormalization"): batch_normalisation,
    ("", "InstanceNormalization"): instance_normalisation,
}
