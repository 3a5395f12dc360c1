"""Resize, Upsample and Expand: axes that keep their size pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from onnx import TensorProto, numpy_helper

from onnx_tools.compaction.mapping.factors import Dims, Factor, Traced, joined
from onnx_tools.compaction.mapping.roles import Role
from onnx_tools.compaction.mapping.rules.sizes import MOST_BORN, born, fit_sizes
from onnx_tools.compaction.mapping.trace import Said, SizeOf, Sizes, Trace, said
from onnx_tools.graph_parts import Node

_MOST_SCALES = 64


def resizing(trace: Trace, node: Node) -> None:
    """Resize: by scales that say 1 for channels, or to sizes that stay what they are."""
    traced = trace.of(node.inputs[0])
    if not traced:
        return
    axes = trace.axes(node, node.ints_attribute("axes"))
    if node.text_attribute("coordinate_transformation_mode") == "tf_crop_and_resize":
        trace.bar(node, f"{said(node)} takes a part of it")
    elif node.has_input(3) and axes is None:
        before, after = trace.dims(node.inputs[0]) or (), trace.dims(node.outputs[0]) or ()
        changed = {axis for axis, sizes in enumerate(zip(before, after, strict=False)) if sizes[0] != sizes[1]}
        changed |= {axis for factor in traced for axis in factor.axes if axis >= min(len(before), len(after))}
        trace.give(node, fit_sizes(trace, node, 3, trace.narrow(node, 0, changed, "resizes it")))
    elif node.has_input(3) and axes is not None:
        trace.hold_sizes(trace.sizes_in(node.inputs[3]) or (), f"{said(node)} resizes axes to its size")
        trace.give(node, trace.narrow(node, 0, axes, "resizes it"))
    else:
        _scale(trace, node, _scales(node, 2 if trace.opset >= 11 else 1), axes)


def upsampling(trace: Trace, node: Node) -> None:
    """Upsample: by scales, an input or an attribute."""
    given = node.attributes.get("scales")
    _scale(trace, node, _scales(node, 1) if given is None else tuple(given.floats[:_MOST_SCALES]), None)


def _scale(trace: Trace, node: Node, scales: tuple[float, ...] | None, axes: tuple[int, ...] | None) -> None:
    if scales is None or (axes is not None and len(axes) != len(scales)):
        trace.bar(node, f"{said(node)} has scales that can't be told")
        return
    scaled = {axis for axis, scale in zip(axes or range(len(scales)), scales, strict=False) if scale != 1}
    trace.give(node, trace.narrow(node, 0, scaled, "resizes it"))


def _scales(node: Node, index: int) -> tuple[float, ...] | None:
    """A small stored list of float32 numbers."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is not None and value.producer is not None and value.producer.is_constant:
        listed = value.producer.attributes.get("value_floats")
        if listed is not None:
            return tuple(listed.floats[:_MOST_SCALES])
    proto = None if value is None or value.duplicated or value.tensor is None else value.tensor.proto
    known = proto is not None and proto.data_type == TensorProto.FLOAT and len(proto.dims) == 1
    if proto is None or not known or proto.dims[0] > _MOST_SCALES or proto.data_location == TensorProto.EXTERNAL:
        return None
    return tuple(np.asarray(numpy_helper.to_array(proto)).tolist())


def expansion(trace: Trace, node: Node) -> None:
    """Expand: axes of the input that are not repeated pass; a new one in the size of another has its channels.

    Axes of stored data, and new ones of a stored size, get channels that whoever reads the value may lose: as those of
    the first state of an LSTM.
    """
    value, wanted = node.inputs[:2]
    before, sizes = trace.dims(value), trace.sizes_in(wanted) or ()
    rank = max(len(before or ()), len(sizes) or len(trace.dims(wanted and node.outputs[0]) or ()))
    if before is None or rank < len(before) or (not sizes and trace.dims(node.outputs[0]) is None):
        trace.bar(node, f"{said(node)} has an input or output of unknown shape; --input-shape may tell it")
        trace.hold_sizes(sizes, f"{said(node)} has an input of unknown shape")
        return
    passing = _spread(trace, node, before, sizes, rank)
    trace.give(node, fit_sizes(trace, node, 1, passing, rank) if passing or _has_sizes(sizes) else ())


def _spread(trace: Trace, node: Node, before: Dims, sizes: Sizes, rank: int) -> Traced:
    """The factors of the input in a result of `rank` axes, and those of axes that are repeated in another's size."""
    lone = [axis for axis, size in enumerate(before) if size == 1]
    more = rank - len(before)
    passing: Traced = tuple(
        factor.moved({axis: axis + more for axis in factor.axes})
        for factor in trace.narrow(node, 0, lone, "repeats it")
    )
    offset = rank - len(sizes)
    repeated = [more + axis for axis in lone] + list(range(more))
    passing = (*passing, *_stored(trace, node, before, more), *_said(trace, sizes, offset, repeated))
    for factor in born(trace, tuple(size if offset + at in repeated else None for at, size in enumerate(sizes))):
        passing = joined(trace.channels, passing, factor.moved({axis: axis + offset for axis in factor.axes}))
    return passing


def _stored(trace: Trace, node: Node, before: Dims, more: int) -> Iterator[Factor]:
    """Channels along the axes of stored data that are not repeated."""
    value = node.inputs[0]
    for axis, size in enumerate(before if value is not None and value.constant else ()):
        if isinstance(size, int) and 1 < size <= MOST_BORN:
            factor = Factor((axis,), trace.channels.new(size))
            trace.meet(node, 0, factor, Role.DESCRIBES)
            yield factor.moved({axis: axis + more})


def _said(trace: Trace, sizes: Sizes, offset: int, repeated: Sequence[int]) -> Iterator[Factor]:
    """Channels along axes that are repeated so often as a stored number says."""
    for axis, size in enumerate(sizes, offset):
        if axis in repeated and isinstance(size, Said) and 1 < size.number <= MOST_BORN:
            yield Factor((axis,), trace.channels.new(size.number))


def _has_sizes(sizes: tuple[object, ...]) -> bool:
    return any(isinstance(size, SizeOf) for size in sizes)


RULES = {
    ("", "Resize"): resizing,
    ("", "Upsample"): upsampling,
    ("", "Expand"): expansion,
}
