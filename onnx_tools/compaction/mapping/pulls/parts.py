"""Operators that take a part, or put parts beside each other: Concat, Split, Slice, Gather."""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from onnx_tools.compaction.mapping.adjustments import Bounds, Parts, Picks
from onnx_tools.compaction.mapping.channels import Ids
from onnx_tools.compaction.mapping.factors import Dims, Factor
from onnx_tools.compaction.mapping.rules.selection import cuts_of
from onnx_tools.compaction.mapping.trace import Claim, Trace
from onnx_tools.graph_parts import Node

_MOST_ENTRIES = 1 << 22
"""Of an axis of which a part is claimed; a longer one is not followed."""


def concat(trace: Trace, node: Node, claim: Claim, _: int) -> bool:
    """Concat: each input has its part of the channels along the axis."""
    dims, axis = trace.dims(node.outputs[0]), node.int_attribute("axis", 1)
    if dims is None or not -len(dims) <= axis < len(dims):
        return False
    axis %= len(dims)
    sizes = [_size(trace.dims(value), axis) for value in node.inputs]
    if axis in claim.factor.axes and sum(sizes) != claim.factor.ids.shape[claim.factor.axes.index(axis)]:
        return False
    for index, stop in enumerate(accumulate(sizes)):
        trace.meet(node, index, _part(claim.factor, axis, slice(stop - sizes[index], stop)), claim.role)
    return True


def split(trace: Trace, node: Node, claim: Claim, output: int) -> bool:
    """Split: the input has channels of its own along the axis, of which the output has a part."""
    dims, axis = trace.dims(node.inputs[0]), node.int_attribute("axis", 0)
    if dims is None or not -len(dims) <= axis < len(dims):
        return False
    axis %= len(dims)
    sizes = [_size(trace.dims(value), axis) for value in node.outputs]
    start = sum(sizes[:output])
    whole = _whole(trace, claim.factor, axis, sum(sizes), np.arange(start, start + sizes[output]))
    if whole is None or sum(sizes) != dims[axis]:
        return False
    trace.meet(node, 0, whole, claim.role)
    if axis in claim.factor.axes:
        trace.adjustments.append(Parts(node, axis))
    return True


def slicing(trace: Trace, node: Node, claim: Claim, _: int) -> bool:
    """Slice with steps of 1: the same."""
    dims, cuts = trace.dims(node.inputs[0]), cuts_of(trace, node)[1]
    if dims is None or cuts is None:
        return False
    factor: Factor | None = claim.factor
    for axis, start, end, step in cuts:
        if factor is None or axis not in factor.axes:
            continue
        if step != 1:
            return False
        size = _size(dims, axis)
        factor = _whole(trace, factor, axis, size, np.arange(size)[slice(start, end)])
        trace.adjustments.append(Bounds(node, axis))
    if factor is None:
        return False
    trace.meet(node, 0, factor, claim.role)
    return True


def gather(trace: Trace, node: Node, claim: Claim, _: int) -> bool:
    """Gather by stored indices of one axis: the same."""
    dims, picked, indices = trace.dims(node.inputs[0]), trace.dims(node.inputs[1]), node.input_ints(1)
    if dims is None or picked is None or len(picked) > 1:
        return False
    axis = node.int_attribute("axis", 0) % len(dims)
    if not picked:
        behind = {own: own + (own >= axis) for own in claim.factor.axes}
        trace.meet(node, 0, claim.factor.moved(behind), claim.role)
        return True
    size = _size(dims, axis)
    if axis not in claim.factor.axes:
        trace.meet(node, 0, claim.factor, claim.role)
        return True
    if indices is None or not all(-size <= index < size for index in indices):
        return False
    whole = _whole(trace, claim.factor, axis, size, np.array(indices) % size)
    if whole is None:
        return False
    trace.meet(node, 0, whole, claim.role)
    trace.adjustments.append(Picks(node, axis))
    return True


def _size(dims: Dims | None, axis: int) -> int:
    size = dims[axis] if dims is not None and axis < len(dims) else 0
    return size if isinstance(size, int) else 0


def _part(factor: Factor, axis: int, part: slice) -> Factor:
    if axis not in factor.axes:
        return factor
    return Factor(factor.axes, factor.ids[(slice(None),) * factor.axes.index(axis) + (part,)])


def _whole(trace: Trace, factor: Factor, axis: int, size: int, part: Ids) -> Factor | None:
    """Channels for all `size` entries of an axis, of which the entries `part` are those of `factor`."""
    if axis not in factor.axes:
        return factor
    at = factor.axes.index(axis)
    shape = (*factor.ids.shape[:at], size, *factor.ids.shape[at + 1 :])
    if factor.ids.shape[at] != len(part) or factor.ids.size // max(len(part), 1) * size > _MOST_ENTRIES:
        return None
    ids = trace.channels.new(int(np.prod(shape))).reshape(shape)
    trace.channels.tie(ids.take(part, at), factor.ids)
    return Factor(factor.axes, ids)
