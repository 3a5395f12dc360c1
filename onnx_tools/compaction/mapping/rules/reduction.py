"""Pooling, reductions, softmax: what works along an axis holds the channels there, the others pass."""

from __future__ import annotations

from collections.abc import Iterable

from onnx_tools.compaction.mapping.factors import Traced, factor_on, moved
from onnx_tools.compaction.mapping.trace import Meeting, Trace, said
from onnx_tools.graph_parts import Node

_WORKS = "works along it"


def pooling(trace: Trace, node: Node) -> None:
    """Windows over the axes behind 0 and 1. Indices of what was picked count over channels too."""
    if len(node.outputs) > 1 and node.outputs[1] is not None:
        trace.bar(node, f"{said(node)} numbers its elements")
    traced = trace.only(node, 0, (0, 1), "moves a window over it")
    trace.give(node, traced, rank=trace.rank(node.inputs[0]))


def channelwise(trace: Trace, node: Node) -> None:
    """What works on each channel of axis 1 apart, with further inputs that have none."""
    for value in node.inputs[1:]:
        trace.fix(trace.of(value), f"{said(node)} reads it for all channels")
    trace.give(node, trace.only(node, 0, (1,), _WORKS))


def over(trace: Trace, node: Node, given: Iterable[int] | None, why: str = _WORKS) -> None:
    """Input and outputs have the same axes; those given are worked along."""
    axes = trace.axes(node, None if given is None else tuple(given))
    if axes is None:
        trace.bar(node, f"{said(node)} works along axes that can't be told; --input-shape may tell them")
        return
    traced = trace.narrow(node, 0, axes, why)
    for index in range(len(node.outputs)):
        trace.give(node, traced, index, trace.rank(node.inputs[0]))


def softmax(trace: Trace, node: Node) -> None:
    """Softmax and its like: along one axis; before opset 13 along all from one on."""
    if trace.opset >= 13:
        over(trace, node, (node.int_attribute("axis", -1),))
    else:
        flattened_from(trace, node, node.int_attribute("axis", 1), _WORKS)


def flattened_from(trace: Trace, node: Node, first: int, why: str) -> None:
    """Work along all axes from `first` on."""
    start = trace.axes(node, (first,))
    last = max((axis for factor in trace.of(node.inputs[0]) for axis in factor.axes), default=0)
    over(trace, node, None if start is None else range(start[0], last + 1), why)


def along_last(trace: Trace, node: Node) -> None:
    """Along the attribute `axis`, the last by default."""
    over(trace, node, (node.int_attribute("axis", -1),))


def along_first(trace: Trace, node: Node) -> None:
    """Along the attribute `axis`, 0 by default."""
    over(trace, node, (node.int_attribute("axis", 0),))


def summing_up(trace: Trace, node: Node) -> None:
    """CumSum: along the axis that input 1 names."""
    over(trace, node, node.input_ints(1))


def triangle(trace: Trace, node: Node) -> None:
    """Trilu: what stays depends on the place along the last two axes."""
    over(trace, node, (-2, -1), "keeps a triangle of it")


def reducing(trace: Trace, node: Node) -> None:
    """Reduce operators: one number of all along some axes."""
    axes = node.ints("axes", 1)
    if not axes and (node.has_input(1) and axes is None):
        trace.bar(node, f"{said(node)} reduces axes that can't be told")
    elif not axes and node.int_attribute("noop_with_empty_axes", 0):
        trace.give(node, trace.of(node.inputs[0]))
    elif axes:
        _reduce(trace, node, axes)
    else:
        trace.bar(node, f"{said(node)} makes one number of everything")


def finding(trace: Trace, node: Node) -> None:
    """ArgMax, ArgMin: the place of one along an axis."""
    _reduce(trace, node, (node.int_attribute("axis", 0),))


def _reduce(trace: Trace, node: Node, given: tuple[int, ...]) -> None:
    axes = trace.axes(node, given)
    if axes is None:
        trace.bar(node, f"{said(node)} reduces axes that can't be told; --input-shape may tell them")
        return
    summed = {axis for axis in axes if node.op_type in _SUMMING and _is_alone(trace.of(node.inputs[0]), axis)}
    traced = trace.narrow(node, 0, set(axes) - summed, "makes one number of it")
    trace.meetings += [Meeting(node, ((0, axis),)) for axis in summed]
    traced = tuple(factor for factor in traced if factor.axes[0] not in summed)
    trace.give(node, traced if node.int_attribute("keepdims", 1) else _without(traced, axes))


def _is_alone(traced: Traced, axis: int) -> bool:
    """Whether channels lie along this axis, and no other."""
    factor = factor_on(traced, axis)
    return factor is not None and factor.axes == (axis,)


def _without(traced: Traced, gone: Iterable[int]) -> Traced:
    """Axes renumbered when others have gone."""
    behind = {axis: axis - sum(each < axis for each in set(gone)) for factor in traced for axis in factor.axes}
    return moved(traced, behind)


_SUMMING = {"ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"}
"""Zeros may be left out; a mean of fewer numbers is another."""

_REDUCING = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"

RULES = {
    **{
        ("", name): pooling
        for name in ("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
    },
    **{("", name): channelwise for name in ("GridSample", "RoiAlign", "MaxRoiPool")},
    **{("", name): softmax for name in ("Softmax", "LogSoftmax", "Hardmax")},
    **{("", f"Reduce{name}"): reducing for name in _REDUCING.split()},
    **{("", name): finding for name in ("ArgMax", "ArgMin")},
    **{("", name): along_last for name in ("TopK", "LpNormalization")},
    ("", "CumSum"): summing_up,
    ("", "Trilu"): triangle,
}
