"""From a model to its groups of channels: every node visited once, in the order in which they compute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx

from onnx_tools.compaction.mapping.channel_map import ChannelMap, Member
from onnx_tools.compaction.mapping.channels import Groups
from onnx_tools.compaction.mapping.defaults import overridable
from onnx_tools.compaction.mapping.factors import Factor, align
from onnx_tools.compaction.mapping.ordering import in_order
from onnx_tools.compaction.mapping.pulls import pull
from onnx_tools.compaction.mapping.rules import RULES
from onnx_tools.compaction.mapping.rules.sizes import follow_sizes
from onnx_tools.compaction.mapping.shapes import InputShapes, Shapes, with_shapes
from onnx_tools.compaction.mapping.trace import HINT, Trace, said
from onnx_tools.compaction.mapping.zeroed import hold_what_zeros_break
from onnx_tools.graph_index import GraphIndex
from onnx_tools.graph_parts import SPARSE, Node, Scope, Value

_ONE_BY_ONE = 8
"""Passes in which factors that share groups are aligned one by one; then all at once, which ends soon."""


def map_channels(model: onnx.ModelProto, input_shapes: InputShapes | None = None) -> ChannelMap:
    """Find the channels of a model, or of its skeleton, and which of them go together.

    `input_shapes`: sizes that the model leaves open, by the name of the input. Raises `InvalidInputShape`, and
    `InvalidModelFile` for a graph with a cycle.
    """
    index = GraphIndex(with_shapes(model, input_shapes or {}), overridable(model))
    shapes = Shapes(index)
    trace = Trace(shapes, _opset(model), _branches(index))
    ordered = in_order(index)
    for node in ordered:
        if not node.constant:
            _visit(trace, node)
    hold_what_zeros_break(trace, ordered)
    for node in reversed(ordered):
        if node.constant and node.outputs:
            pull(trace, node)
    _hold_the_shared(trace, index)
    members = tuple(_members(trace, index))
    return ChannelMap(
        index,
        shapes,
        _hinting(_resolve(trace), shapes.are_open),
        members,
        tuple(trace.adjustments),
        tuple(trace.meetings),
        trace.all_traced(),
    )


def _hinting(groups: Groups, are_open: bool) -> Groups:
    """That --input-shape may help is said only where an input leaves a size open."""
    if are_open:
        return groups
    return replace(groups, reasons={group: reason.partition(HINT)[0] for group, reason in groups.reasons.items()})


def _opset(model: onnx.ModelProto) -> int:
    """The version of ai.onnx; 1 if the model names none."""
    return next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 1)


def _visit(trace: Trace, node: Node) -> None:
    in_function = node.path[0][0] == "functions"
    rule = None if node.local or in_function or node.ambiguous else RULES.get((node.domain, node.op_type))
    _follow_sizes(trace, node)
    trace.begin()
    if rule is not None and node.inputs:
        try:
            rule(trace, node)
            trace.fix(trace.overlooked(node), f"{said(node)} reads it in a way that can't be followed")
        except (IndexError, KeyError, ValueError):  # too few inputs, axes beyond the rank: no runtime takes it either
            trace.bar(node, f"{said(node)} doesn't fit its inputs")
    elif in_function:
        trace.bar(node, f"{said(node)} lies in a local function; onnx.inliner can spell it out")
    else:
        domain = f" of {node.domain}" if node.domain else ""
        trace.bar(node, f"{said(node)}: no rule says how channels pass {node.op_type}{domain}")


def _follow_sizes(trace: Trace, node: Node) -> None:
    try:
        follow_sizes(trace, node)
    except (IndexError, KeyError, ValueError):  # as for rules
        for value in node.inputs:
            trace.hold_sizes(trace.sizes_in(value) or (), f"{said(node)} doesn't fit its inputs")


def _branches(index: GraphIndex) -> dict[int, list[Scope]]:
    """The graphs of each If of the model itself."""
    found: dict[int, list[Scope]] = {}
    for scope in index.scopes:
        node = scope.owner
        if node is None or (node.domain, node.op_type) != ("", "If") or node.path[0][0] != "graph":
            continue
        if not node.local and not node.ambiguous:
            found.setdefault(id(node), []).append(scope)
    return found


def _hold_the_shared(trace: Trace, index: GraphIndex) -> None:
    """A constant is cut along an axis only if all its readers know of that."""
    tensors = [value for tensor in index.tensors for value in tensor.values]
    computed = [output for node in index.nodes if node.constant for output in node.outputs if output is not None]
    for value in {id(value): value for value in (*tensors, *computed)}.values():
        if not trace.of(value):
            continue
        claimed: dict[tuple[int, int], set[int]] = {(id(node), i): set() for node, i in value.readers}
        for claim in trace.claims_on(value):
            claimed[id(claim.node), claim.index].update(claim.factor.axes)
        names = {(id(node), i): said(node) for node, i in value.readers}
        for reader, axes in claimed.items():
            missing = (factor for factor in trace.of(value) if not axes.issuperset(factor.axes))
            trace.fix(missing, f"{names[reader]} reads '{value.name}' too, and needs it whole")
        if held := _why_whole(value):
            trace.fix(trace.of(value), f"'{value.name}' {held}")


def _why_whole(value: Value) -> str:
    """Why a constant can't be cut at all; "" if it can."""
    if value.output_of or value.handed_to:
        return "is an output too" if value.output_of else "is handed to another graph"
    if value.duplicated:
        return "is defined twice"
    place = "" if value.tensor is None else value.tensor.place
    if place == SPARSE:
        return "is stored sparse"
    if value.tensor is not None and (value.tensor.copies or value.tensor.path[0][0] != "graph"):
        return "lies in a local function; onnx.inliner can spell it out"
    return ""


def _members(trace: Trace, index: GraphIndex) -> Iterator[Member]:
    for tensor in index.tensors:
        for value in tensor.values:
            for claim in trace.claims_on(value):
                yield Member(tensor, claim.factor, claim.role, claim.node)


def _resolve(trace: Trace) -> Groups:
    """Resolve all ties, until what leaves leaves rectangles.

    Of factors that share groups one is aligned at a time: the others often are rectangles then, as behind a Transpose.
    """
    factors: dict[int, Factor] = {id(f): f for traced in trace.all_traced().values() for f in traced if len(f.axes) > 1}
    for _ in range(_ONE_BY_ONE):
        groups = trace.channels.resolve()
        aligned = np.zeros(len(groups.of), bool)
        for factor in factors.values():
            found = groups.of[factor.ids]
            if not aligned[found].any():
                aligned[found] = align(trace.channels, factor, groups.of)
        if not aligned.any():
            return groups
    while True:
        groups = trace.channels.resolve()
        if not sum(align(trace.channels, factor, groups.of) for factor in factors.values()):
            return groups
