"""Normalisations: what is normalised channel by channel passes, what is normalised over channels holds them."""

from __future__ import annotations

from onnx_tools.compaction.mapping.adjustments import Counts
from onnx_tools.compaction.mapping.factors import Factor
from onnx_tools.compaction.mapping.roles import Role
from onnx_tools.compaction.mapping.rules.meeting import NONE, Operand, let_meet, letters_of, meet
from onnx_tools.compaction.mapping.rules.reduction import flattened_from, over
from onnx_tools.compaction.mapping.trace import Trace, said
from onnx_tools.graph_parts import Node
from onnx_tools.operators import CONTRIB

_OVER = "normalises over it"


def batch_normalisation(trace: Trace, node: Node) -> None:
    """Scale, shift, mean and variance for each channel of axis 1; in training mode also what becomes of them."""
    if any(value is not None for value in node.outputs[1:]) or node.int_attribute("training_mode", 0):
        trace.bar(node, f"{said(node)} is in training mode")
    if not node.int_attribute("spatial", 1):
        trace.bar(node, f"{said(node)} has a scale for each place")
    else:
        _by_channel(trace, node, (Role.SCALES, Role.SHIFTS, Role.DESCRIBES, Role.DESCRIBES))


def instance_normalisation(trace: Trace, node: Node) -> None:
    """Scale and shift for each channel of axis 1; normalised over the axes behind it."""
    _by_channel(trace, node, (Role.SCALES, Role.SHIFTS))


def _by_channel(trace: Trace, node: Node, roles: tuple[Role, ...]) -> None:
    ids = trace.along(node, 0, 1, _OVER)
    if ids is None:
        return
    for index, role in enumerate(roles, 1):
        trace.meet(node, index, Factor((0,), ids), role)
    trace.give(node, (Factor((1,), ids),), rank=trace.rank(node.inputs[0]))


def layer_normalisation(trace: Trace, node: Node) -> None:
    """All axes from `axis` on together. Scale and shift may have axes in front of these too."""
    flattened_from(trace, node, node.int_attribute("axis", -1), _OVER)
    for index, role in ((1, Role.SCALES), (2, Role.SHIFTS)):
        if node.has_input(index):
            _meet_in_front(trace, node, index, role)


def _meet_in_front(trace: Trace, node: Node, index: int, role: Role) -> None:
    rank, dims, traced = trace.rank(node.inputs[0]), trace.dims(node.inputs[index]), trace.of(node.outputs[0])
    if dims is None or rank is None:
        held = dims is None or len(dims) > 1
        trace.fix(traced if held else (), f"{said(node)} has an input of unknown shape; --input-shape may tell it")
        return
    for factor in traced:
        let_meet(trace, node, Operand(index, letters_of(dims, rank), role), factor)


def local_response(trace: Trace, node: Node) -> None:
    """LRN: each channel with its neighbours."""
    over(trace, node, (1,), _OVER)


def mean_variance(trace: Trace, node: Node) -> None:
    """MeanVarianceNormalization: over the attribute `axes`."""
    over(trace, node, node.ints_attribute("axes") or (0, 2, 3), _OVER)


def group_normalisation(trace: Trace, node: Node) -> None:
    """Groups of neighbouring channels leave whole. Scale and shift: one for each channel, before opset 21 a group."""
    _by_group(trace, node, "num_groups", 1)


def contrib_group_normalisation(trace: Trace, node: Node) -> None:
    """GroupNorm of com.microsoft: channels last, unless told otherwise; then perhaps an activation."""
    _by_group(trace, node, "groups", 3 if node.int_attribute("channels_last", 1) else 1)


def _by_group(trace: Trace, node: Node, name: str, axis: int) -> None:
    ids = trace.along(node, 0, axis, _OVER)
    groups, value = node.int_attribute(name, 0), node.inputs[0]
    if ids is None or value is None:
        return
    parts = ids.reshape(groups, -1)
    trace.channels.tie(parts, parts[:, :1])
    trace.adjustments.append(Counts(node, name, value, axis, parts.shape[1]))
    for index, role in ((1, Role.SCALES), (2, Role.SHIFTS)):
        by_channel = trace.dims(node.inputs[index]) == ids.shape
        trace.meet(node, index, Factor((0,), ids if by_channel else parts[:, 0]), role)
    trace.give(node, (Factor((axis,), ids),))


def skip_normalisation(trace: Trace, node: Node) -> None:
    """The sum of inputs 0 and 1, which is broadcast, normalised over the last axis; then numbers along that."""
    dims = [trace.dims(value) for value in node.inputs[:2]]
    if len(dims) < 2 or not all(dims):
        trace.bar(node, f"{said(node)} has an input of unknown shape; --input-shape may tell it")
        return
    rank = len(dims[0] or ())
    operands = []
    for index, each in enumerate(dims):
        trace.narrow(node, index, (len(each or ()) - 1,), _OVER)
        operands.append(Operand(index, (*letters_of(each or (), rank)[:-1], NONE), Role.SHIFTS))
    for value in node.inputs[2:]:
        trace.fix(trace.of(value), f"{said(node)} reads it for all of its sum")
    result = meet(trace, node, operands, rank, makes=False)
    for index in range(len(node.outputs)):
        trace.give(node, result, index, rank)


RULES = {
    ("", "BatchNormalization"): batch_normalisation,
    ("", "InstanceNormalization"): instance_normalisation,
    ("", "GroupNormalization"): group_normalisation,
    **{("", name): layer_normalisation for name in ("LayerNormalization", "RMSNormalization")},
    ("", "SimplifiedLayerNormalization"): layer_normalisation,
    ("", "LRN"): local_response,
    ("", "MeanVarianceNormalization"): mean_variance,
    (CONTRIB, "GroupNorm"): contrib_group_normalisation,
    **{(CONTRIB, f"Skip{name}LayerNormalization"): skip_normalisation for name in ("", "Simplified")},
}
