"""Operators that take a part of a value along an axis, or put more beside it: Slice, Gather, Pad, Tile.

What has other axes too, as (3, heads, width), is tied along the axis that is cut: of each part the same remains.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from onnx_tools.compaction.mapping.adjustments import Bounds, Picks
from onnx_tools.compaction.mapping.factors import MOST_ENTRIES, Factor, Traced, factor_on, tiled
from onnx_tools.compaction.mapping.roles import Role
from onnx_tools.compaction.mapping.trace import Trace, said
from onnx_tools.graph_parts import Node

_CUTS = "cuts it"
_OPEN_END = (1 << 31) - 1
"""An end of Slice from which on it means all the rest, whatever is left."""


class Cut(NamedTuple):
    """What a Slice takes of an axis."""

    axis: int
    start: int
    end: int
    step: int


def slicing(trace: Trace, node: Node) -> None:
    """Slice: a part of the channels if they go one by one."""
    traced = trace.of(node.inputs[0])
    if not traced:
        return
    axes, cuts = cuts_of(trace, node)
    if axes is None:
        trace.bar(node, f"{said(node)} cuts axes that can't be told")
        return
    if cuts is None:
        trace.give(node, trace.narrow(node, 0, axes, _CUTS))
        return
    strided = {cut.axis for cut in cuts if cut.step != 1}
    traced = trace.narrow(node, 0, strided | _joint(traced, axes), _CUTS)
    for cut in cuts:
        traced = _sliced(trace, node, traced, cut.axis, cut.start, cut.end)
    trace.give(node, traced)


def cuts_of(trace: Trace, node: Node) -> tuple[tuple[int, ...] | None, list[Cut] | None]:
    """The axes that a Slice cuts, and how; None for what can't be told."""
    starts, ends, steps = node.ints("starts", 1), node.ints("ends", 2), node.ints("steps", 4)
    axes = trace.axes(node, node.ints("axes", 3))
    if axes is None and not node.has_input(3) and starts is not None:
        axes = tuple(range(len(starts)))
    if axes is None or starts is None or ends is None or (steps is None and node.has_input(4)):
        return axes, None
    steps = (1,) * len(axes) if steps is None else steps
    fits = len(axes) == len(starts) == len(ends) == len(steps)
    return axes, [Cut(*each) for each in zip(axes, starts, ends, steps, strict=True)] if fits else None


def _joint(traced: Traced, axes: tuple[int, ...]) -> set[int]:
    """Those of `axes` whose factor has other axes too."""
    return {axis for factor in traced if len(factor.axes) > 1 for axis in factor.axes if axis in axes}


def _sliced(trace: Trace, node: Node, traced: Traced, axis: int, start: int, end: int) -> Traced:
    own = factor_on(traced, axis)
    if own is None:
        return traced
    part = own.ids[slice(*slice(start, end).indices(len(own.ids)))]
    if start or end < _OPEN_END:
        trace.adjustments.append(Bounds(node, axis))
    return (*(factor for factor in traced if factor is not own), Factor((axis,), part))


def gathering(trace: Trace, node: Node) -> None:
    """Gather: rows of a table that is stored make channels; stored indices pick channels."""
    data, picked = trace.dims(node.inputs[0]), trace.dims(node.inputs[1])
    if data is None or picked is None:
        trace.bar(node, f"{said(node)} has an input of unknown shape; --input-shape may tell it")
        return
    axis = node.int_attribute("axis", 0) % len(data)
    more = len(picked) - 1
    inside = tuple(factor.moved({own: own + axis for own in factor.axes}) for factor in trace.of(node.inputs[1]))
    table = node.inputs[0] is not None and node.inputs[0].constant
    traced = _looked_up(trace, node, axis) if table else _picked(trace, node, axis, len(picked))
    behind = {own: own if own < axis or (own == axis and not more) else own + more for own in range(len(data))}
    trace.give(node, (*inside, *(factor.moved(behind) for factor in traced)))


def _looked_up(trace: Trace, node: Node, axis: int) -> Traced:
    """The channels of a stored table (entries, channels)."""
    shape = node.input_shape(0)
    if shape is None or len(shape) != 2 or axis != 0:
        return ()
    made = Factor((1,), trace.channels.new(shape[1], node.label))
    trace.meet(node, 0, made, Role.MAKES)
    return (made,)


def _picked(trace: Trace, node: Node, axis: int, rank: int) -> Traced:
    """The factors of the data; along `axis` those of the picked entries, if the indices have one axis."""
    indices = node.input_ints(1)
    traced = trace.of(node.inputs[0])
    own = factor_on(traced, axis)
    if own is None:
        return traced
    size = own.ids.shape[own.axes.index(axis)]
    if indices is None or len(own.axes) > 1 or rank > 1 or not all(-size <= index < size for index in indices):
        return trace.narrow(node, 0, (axis,), "picks from it")
    picked = own.ids[list(indices)]
    trace.adjustments.append(Picks(node, axis))
    others = tuple(factor for factor in traced if factor is not own)
    if rank:
        return (*others, Factor((axis,), picked))
    trace.channels.fix(picked, f"{said(node)} picks it")
    return others


def padding(trace: Trace, node: Node) -> None:
    """Pad: what is put beside channels stays, if it is one constant."""
    traced = trace.of(node.inputs[0])
    given = node.ints("pads", 1) or node.ints_attribute("paddings")
    dims = trace.dims(node.inputs[0])
    axes = trace.axes(node, node.ints("axes", 3)) if node.has_input(3) else tuple(range(len(given or ()) // 2))
    if not traced:
        return
    if given is None or axes is None or len(given) != 2 * len(axes) or (dims is not None and max(axes) >= len(dims)):
        trace.bar(node, f"{said(node)} has pads that can't be told")
        return
    if max(map(abs, given), default=0) > MOST_ENTRIES:
        raise ValueError(f"pads {given}")
    pads = {axis: pad for axis, *pad in zip(axes, given, given[len(axes) :], strict=False) if any(pad)}
    plain = node.text_attribute("mode") in ("", "constant")
    can = {axis for axis, pad in pads.items() if plain and min(pad) >= 0} - _joint(traced, axes)
    traced = trace.narrow(node, 0, set(pads) - can, "pads it")
    trace.give(node, tuple(_padded(trace, node, factor, pads) for factor in traced))


def _padded(trace: Trace, node: Node, factor: Factor, pads: dict[int, list[int]]) -> Factor:
    if not set(factor.axes) & set(pads):
        return factor
    before, after = (trace.channels.staying(pad, f"{said(node)} puts it there") for pad in pads[factor.axes[0]])
    return Factor(factor.axes, np.concatenate([before, factor.ids, after]))


def tiling(trace: Trace, node: Node) -> None:
    """Tile: channels stand there several times."""
    repeats = node.input_ints(1)
    traced = trace.of(node.inputs[0])
    if repeats is None or node.has_input(2):
        trace.bar(node, f"{said(node)} repeats it, nobody can say how often")
    elif traced:
        times = [[repeats[axis] for axis in factor.axes] for factor in traced]
        trace.give(node, tuple(tiled(factor, each) for factor, each in zip(traced, times, strict=True)))


RULES = {
    ("", "Slice"): slicing,
    ("", "Gather"): gathering,
    ("", "Pad"): padding,
    ("", "Tile"): tiling,
}
