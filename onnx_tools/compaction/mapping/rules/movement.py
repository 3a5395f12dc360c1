"""Operators that move elements: Transpose, Reshape and their like, Concat, Split."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from math import prod

import numpy as np

from onnx_tools.compaction.mapping.adjustments import Parts
from onnx_tools.compaction.mapping.channels import Ids
from onnx_tools.compaction.mapping.factors import (
    Dims,
    Factor,
    Size,
    Traced,
    factor_on,
    joined,
    moved,
    narrowed,
    tiled,
)
from onnx_tools.compaction.mapping.reshaping import reshaped
from onnx_tools.compaction.mapping.roles import Role
from onnx_tools.compaction.mapping.rules.sizes import fit_sizes
from onnx_tools.compaction.mapping.trace import Trace, said
from onnx_tools.graph_parts import Node


def transpose(trace: Trace, node: Node) -> None:
    """Axes change places."""
    traced = trace.of(node.inputs[0])
    dims = trace.dims(node.inputs[0])
    if traced and dims is not None:
        order = node.ints_attribute("perm") or tuple(reversed(range(len(dims))))
        trace.give(node, moved(traced, {old: new for new, old in enumerate(order)}))
    elif traced:
        trace.bar(node, f"{said(node)} has an input of unknown shape; --input-shape may tell it")


def reshape(trace: Trace, node: Node) -> None:
    """Reshape, Flatten: the elements keep their order."""
    traced = trace.of(node.inputs[0])
    before, after = trace.dims(node.inputs[0]), trace.dims(node.outputs[0])
    if not traced:
        return
    if before is None or after is None:
        trace.bar(node, f"{said(node)} has an input or output of unknown shape; --input-shape may tell it")
        return
    after = _completed(before, after)
    hint = "" if all(isinstance(size, int) for size in before) else "; --input-shape may tell them"
    reason = f"{said(node)} mixes it with axes that can't be followed{hint}"
    found = reshaped(trace.channels, traced, before, after, reason)
    if node.op_type == "Reshape":
        found = fit_sizes(trace, node, 1, found)
    trace.give(node, found)


def _completed(before: Dims, after: Dims) -> Dims:
    """`after` with its only size that is told nowhere: it is what is left of `before`."""
    told = {size for size in before if size is not None}
    open_axes = [axis for axis, size in enumerate(after) if not isinstance(size, int) and size not in told]
    names = [sorted(size for size in dims if isinstance(size, str)) for dims in (before, after)]
    for axis in open_axes:
        names[1] = [name for name in names[1] if name != after[axis]]
    known = prod(size for size in after if isinstance(size, int))
    whole = prod(size for size in before if isinstance(size, int))
    if len(open_axes) != 1 or None in before or names[0] != names[1] or whole % known:
        return after
    return tuple(whole // known if axis in open_axes else size for axis, size in enumerate(after))


def squeezing(trace: Trace, node: Node) -> None:
    """Squeeze: axes of size 1 go; by their numbers, whatever else is known of the shape."""
    axes = trace.axes(node, node.ints("axes", 1))
    if axes is None:
        reshape(trace, node)
        return
    traced = trace.narrow(node, 0, axes, "takes its axis away")
    behind = {axis: axis - sum(each < axis for each in axes) for factor in traced for axis in factor.axes}
    trace.give(node, moved(traced, behind))


def unsqueezing(trace: Trace, node: Node) -> None:
    """Unsqueeze: axes of size 1 come."""
    given, dims, traced = node.ints("axes", 1), trace.dims(node.inputs[0]), trace.of(node.inputs[0])
    if given is None or (dims is None and min(given) < 0):
        reshape(trace, node)
        return
    new = {axis + len(dims or ()) + len(given) if axis < 0 else axis for axis in given}
    free = (axis for axis in count() if axis not in new)
    last = max((axis for factor in traced for axis in factor.axes), default=0)
    trace.give(node, moved(traced, dict(zip(range(last + 1), free, strict=False))))


def concatenation(trace: Trace, node: Node) -> None:
    """Concat: channels along its axis stand one behind the other, those along others are tied."""
    concatenate(trace, node, range(len(node.inputs)))


def concatenate(trace: Trace, node: Node, indices: Sequence[int]) -> None:
    """The same for the inputs `indices`."""
    values = [node.inputs[index] for index in indices]
    dims = [trace.dims(value) for value in values]
    known = next((each for each in dims if each), None)
    if not any(trace.of(value) for value in values):
        return
    if known is None or any(each and len(each) != len(known) for each in dims):
        trace.bar(node, f"{said(node)} has inputs of unknown shape; --input-shape may tell it")
        return
    axis = node.int_attribute("axis", 1) % len(known)
    computed = [() if value is None or value.constant else trace.of(value) for value in values]
    result: Traced = ()
    for factor in (factor for traced in computed for factor in traced if axis not in factor.axes):
        result = joined(trace.channels, result, factor)
    for index in indices:
        _match(trace, node, index, result)
    along = _one_behind_the_other(trace, node, axis, computed, [each[axis] if each else None for each in dims])
    trace.give(node, result if along is None else (*result, Factor((axis,), along)))


def _one_behind_the_other(
    trace: Trace, node: Node, axis: int, computed: Sequence[Traced], sizes: Sequence[Size]
) -> Ids | None:
    """The channels of the inputs along the axis of a Concat; None if they have none there, or an unknown size."""
    reason = f"{said(node)} puts it beside what stays as it is"
    found = [factor_on(traced, axis) for traced in computed]
    factors = [factor for factor in found if factor is not None]
    if any(own is None and not isinstance(size, int) for own, size in zip(found, sizes, strict=True)):
        trace.fix(factors, reason)
        return None
    parts = []
    for own, size in zip(found, sizes, strict=True):
        if own is None:
            parts.append(trace.channels.staying(int(size or 0), reason))
        else:
            parts += [each.ids for each in narrowed(trace.channels, (own,), set(own.axes) - {axis}, reason)]
    return np.concatenate(parts) if factors else None


def _match(trace: Trace, node: Node, index: int, result: Traced) -> None:
    """An input of Concat has the channels of the result along all axes but that of the Concat."""
    for factor in result:
        trace.meet(node, index, factor, Role.DESCRIBES)


def split(trace: Trace, node: Node) -> None:
    """Split: each output has a part of the channels along its axis, all channels along others."""
    traced = trace.of(node.inputs[0])
    dims = trace.dims(node.inputs[0])
    sizes = [trace.dims(value) for value in node.outputs]
    if not traced:
        return
    axis = node.int_attribute("axis", 0) % len(dims) if dims else 0
    if dims is None or any(each is None or not isinstance(each[axis], int) for each in sizes):
        trace.bar(node, f"{said(node)} has parts of unknown size; --input-shape may tell them")
        return
    own = factor_on(traced, axis)
    if own is not None and len(own.axes) > 1:
        traced, own = trace.narrow(node, 0, (axis,), "cuts it"), None
    if own is not None:
        trace.adjustments.append(Parts(node, axis))
    start = 0
    for index, each in enumerate(sizes):
        stop = start + int((each or ())[axis] or 0)
        cut = () if own is None else (Factor((axis,), own.ids[start:stop]),)
        trace.give(node, (*(factor for factor in traced if factor is not own), *cut), index)
        start = stop


def depth_to_space(trace: Trace, node: Node) -> None:
    """DepthToSpace: channels that become one, of blocks of pixels, go together."""
    ids = trace.along(node, 0, 1, "spreads it over pixels")
    block = node.int_attribute("blocksize", 1)
    if block < 1:
        raise ValueError(f"blocks of {block}")
    if ids is not None:
        crd = node.text_attribute("mode") == "CRD"
        together = ids.reshape(-1, block * block).T if crd else ids.reshape(block * block, -1)
        trace.channels.tie(together, together[:1])
        trace.give(node, (Factor((1,), together[0]),))


def space_to_depth(trace: Trace, node: Node) -> None:
    """SpaceToDepth: each channel becomes several."""
    ids = trace.along(node, 0, 1, "makes channels of pixels")
    if ids is not None:
        trace.give(node, (tiled(Factor((1,), ids), (node.int_attribute("blocksize", 1) ** 2,)),))


RULES = {
    ("", "Transpose"): transpose,
    **{("", name): reshape for name in ("Reshape", "Flatten")},
    ("", "Squeeze"): squeezing,
    ("", "Unsqueeze"): unsqueezing,
    ("", "Concat"): concatenation,
    ("", "Split"): split,
    ("", "DepthToSpace"): depth_to_space,
    ("", "SpaceToDepth"): space_to_depth,
}
