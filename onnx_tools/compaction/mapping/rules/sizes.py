"""Sizes of axes used as data: followed from Shape to where a value of that size is made.

A size that goes into the shape of a value whose axis loses the same channels is right by itself. Whatever else is
computed with it would change: the axis keeps its size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnx_tools.compaction.mapping.adjustments import Follows
from onnx_tools.compaction.mapping.factors import Factor, Traced, factor_on, narrowed
from onnx_tools.compaction.mapping.trace import Said, SizeOf, Sizes, Trace, said
from onnx_tools.graph_parts import Node, Reader, Value

MOST_BORN = 1 << 13
"""Entries of an axis of what is made in some size, that gets channels of its own."""


def shape(trace: Trace, node: Node) -> None:
    """Shape: a list of sizes."""
    value = node.inputs[0]
    dims = trace.dims(value)
    if value is None or not trace.of(value):
        return
    if dims is None:
        trace.bar(node, f"{said(node)} has an input of unknown shape; --input-shape may tell it")
        return
    ends = slice(node.int_attribute("start", 0), node.int_attribute("end", len(dims)))
    trace.give_sizes(node, tuple(SizeOf(value, axis) for axis in range(len(dims)))[ends])


def born(trace: Trace, sizes: Sizes) -> Traced:
    """The factors of a value that is the same all along its axes; a size that can't be followed stays."""
    found: Traced = ()
    for axis, size in enumerate(sizes):
        factor = factor_on(trace.of(size.value), size.axis) if isinstance(size, SizeOf) else None
        if factor is not None and len(factor.axes) == 1:
            found = (*found, Factor((axis,), factor.ids))
        elif factor is not None:
            trace.hold_sizes((size,), "a value that is made in its size can't be followed")
    return found


def fit_sizes(trace: Trace, node: Node, index: int, found: Traced, rank: int = 0) -> Traced:
    """The factors `found` of the output as far as input `index`, which gives its sizes, gives those of what remains.

    If it gives fewer than `rank`, they are those of the last axes; the others are as if it said 1 of them.
    """
    sizes = sizes_at(trace, node, index)
    if sizes is not None:
        sizes = (*(Said(1, node, index, 0) for _ in range(rank - len(sizes))), *sizes)
        sizes = tuple(_copied(node, axis, size) for axis, size in enumerate(sizes))
    output = node.outputs[0]
    labelled = sorted(axis for factor in found for axis in factor.axes)
    reason = f"{said(node)} makes it in sizes that can't be adjusted"
    if output is None or sizes is None or max(labelled, default=0) >= len(sizes):
        trace.hold_sizes(sizes or (), reason)
        trace.fix(found, reason)
        return ()
    wrong = [axis for axis in labelled if not _fits(trace, Reader(node, index), found, axis, sizes[axis])]
    right = [(axis, sizes[axis]) for axis in labelled if axis not in wrong]
    trace.hold_sizes(tuple(size for axis, size in enumerate(sizes) if (axis, size) not in right), reason)
    _adjust(trace, output, right)
    return narrowed(trace.channels, found, wrong, reason)


def _adjust(trace: Trace, output: Value, sizes: Sequence[tuple[int, SizeOf | Said | None]]) -> None:
    """Stored sizes of axes of `output` will say what remains."""
    adjusted = [(axis, size) for axis, size in sizes if isinstance(size, Said) and size.number > 1]
    trace.adjustments += {
        (id(size.node), size.index, axis - size.at): Follows(size.node, size.index, output, axis - size.at)
        for axis, size in adjusted
    }.values()


def _copied(node: Node, axis: int, size: SizeOf | Said | None) -> SizeOf | Said | None:
    """An entry of a shape; the 0 of a Reshape copies the size of the same axis of its input."""
    value = node.inputs[0]
    copies = node.op_type == "Reshape" and not node.int_attribute("allowzero", 0)
    zero = isinstance(size, Said) and size.number == 0
    return SizeOf(value, axis) if copies and zero and value is not None else size


def _fits(trace: Trace, reader: Reader, found: Traced, axis: int, size: SizeOf | Said | None) -> bool:
    """Whether an entry of the shape that is read says, or can be made to say, the size of this axis of the output."""
    own = factor_on(found, axis)
    if isinstance(size, SizeOf):
        other = factor_on(trace.of(size.value), size.axis)
        return own is not None and other is not None and _tied(trace, own, axis, other, size.axis)
    if size is None or size.number <= 1 or size.node is reader.node:
        return size is not None
    return _is_only_for(size.node.outputs[0], reader)


def _is_only_for(value: Value | None, reader: Reader) -> bool:
    """Whether nobody but `reader` gets a value, perhaps through Cast."""
    for _ in range(_MOST):
        if value is None or len(value.readers) != 1 or value.output_of or value.handed_to or value.duplicated:
            return False
        found = value.readers[0]
        if found == reader:
            return True
        if found.node.local or (found.node.domain, found.node.op_type) != ("", "Cast"):
            return False
        value = found.node.outputs[0]
    return False


def _tied(trace: Trace, own: Factor, axis: int, other: Factor, other_axis: int) -> bool:
    """Whether as much remains along both axes, which are tied if they can be."""
    if len(own.axes) == len(other.axes) == 1:
        trace.channels.tie(own.ids, other.ids)
        return True
    first, second = (np.moveaxis(f.ids, f.axes.index(at), 0) for f, at in ((own, axis), (other, other_axis)))
    return np.array_equal(first, second)


def sizes_at(trace: Trace, node: Node, index: int) -> Sizes | None:
    """What an input says as a list of sizes; None if that can't be told."""
    known = trace.sizes_in(node.inputs[index] if index < len(node.inputs) else None)
    numbers = node.input_ints(index) if known is None else None
    return known if numbers is None else tuple(Said(number, node, index, at) for at, number in enumerate(numbers))


def follow_sizes(trace: Trace, node: Node) -> None:
    """Carry sizes on through what only moves them; what computes with one holds it.

    Stored numbers that a Concat puts beside others are followed too: they may be sizes.
    """
    sized = [index for index, value in enumerate(node.inputs) if trace.sizes_in(value) is not None]
    stored = node.op_type == "Concat" and any(node.input_ints(index) for index in range(len(node.inputs)))
    if not sized and not stored:
        return
    carrier = None if node.local or node.domain else _CARRIERS.get(node.op_type)
    carried = carrier(trace, node) if carrier is not None and (sized == [0] or node.op_type == "Concat") else None
    if carried is not None:
        trace.give_sizes(node, carried)
    if not node.domain and node.op_type in _OF_ITS_LENGTH:
        return
    fitted = bool(sized) and (node.domain, node.op_type, sized[-1]) in _FITTED
    for index in sized if carried is None and not fitted else ():
        trace.hold_sizes(trace.sizes_in(node.inputs[index]) or (), f"{said(node)} computes with its size")


def _same(trace: Trace, node: Node) -> Sizes | None:
    return trace.sizes_in(node.inputs[0])


def _picked(trace: Trace, node: Node) -> Sizes | None:
    sizes, indices = trace.sizes_in(node.inputs[0]), node.input_ints(1)
    if sizes is None or indices is None or not all(-len(sizes) <= index < len(sizes) for index in indices):
        return None
    return tuple(sizes[index] for index in indices)


def _sliced(trace: Trace, node: Node) -> Sizes | None:
    sizes, start, end = trace.sizes_in(node.inputs[0]), node.ints("starts", 1), node.ints("ends", 2)
    steps = node.ints("steps", 4) if node.has_input(4) else (1,)
    if sizes is None or start is None or end is None or steps is None or len(start) != 1 or not steps[0]:
        return None
    return sizes[start[0] : end[0] : steps[0]]


def _put_together(trace: Trace, node: Node) -> Sizes | None:
    found: Sizes = ()
    for index, value in enumerate(node.inputs):
        part = sizes_at(trace, node, index)
        dims = trace.dims(value)
        if part is None and dims is not None and len(dims) == 1 and isinstance(dims[0], int) and dims[0] <= _MOST:
            part = (None,) * dims[0]
        if part is None:
            return None
        found = (*found, *part)
        if len(found) > _MOST:
            return None
    return found


_MOST = 64
"""Numbers in a list of sizes."""

_CARRIERS: dict[str, Callable[[Trace, Node], Sizes | None]] = {
    **dict.fromkeys(("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"), _same),
    "Gather": _picked,
    "Slice": _sliced,
    "Concat": _put_together,
}

_OF_ITS_LENGTH = ("Shape", "Size")
"""How many numbers there are: the same whatever they are."""

_FITTED = {("", "Reshape", 1), ("", "Expand", 1), ("", "Resize", 3), ("", "ConstantOfShape", 0)}
"""Operators whose rules look at the sizes that they get as this input."""


def size(trace: Trace, node: Node) -> None:
    """Size: a number of elements, which nobody can take apart again."""
    trace.bar(node, f"{said(node)} counts its elements")


RULES = {
    ("", "Size"): size,
    ("", "Shape"): shape,
}
