"""Channels of what is computed from stored data, followed back to where it is stored.

Weights reach their readers through DequantizeLinear, Transpose, Reshape and their like. Such a node gives its inputs
the channels that a reader of its output has claimed there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np

from onnx_tools.compaction.adjustments import Bounds, Follows, Parts, Picks
from onnx_tools.compaction.channels import Ids
from onnx_tools.compaction.factors import Dims, Factor, narrowed, reshaped
from onnx_tools.compaction.roles import Role
from onnx_tools.compaction.rules.quantised import parameters
from onnx_tools.compaction.trace import Claim, Trace, said
from onnx_tools.graph_parts import Node
from onnx_tools.operators import CONTRIB

Pull = Callable[[Trace, Node, Claim, int], bool]
"""Lets the inputs of a node meet what is claimed of output number so and so; False if they can't be told."""

_MOST_ENTRIES = 1 << 22
"""Of an axis of which a part is claimed; a longer one is not followed."""


def _same(trace: Trace, node: Node, claim: Claim, _: int) -> bool:
    trace.meet(node, 0, claim.factor, claim.role)
    return True


def _transpose(trace: Trace, node: Node, claim: Claim, _: int) -> bool:
    dims = trace.dims(node.inputs[0])
    if dims is None:
        return False
    order = node.ints_attribute("perm") or tuple(reversed(range(len(dims))))
    trace.meet(node, 0, claim.factor.moved(dict(enumerate(order))), claim.role)
    return True


def _reshape(trace: Trace, node: Node, claim: Claim, _: int) -> bool:
    before, after = trace.dims(node.inputs[0]), trace.dims(node.outputs[0])
    listed = node.op_type == "Reshape"
    if before is None or after is None or (listed and node.input_ints(1) is None):
        return False
    reason = f"{said(node)} mixes it with axes that can't be followed"
    for factor in reshaped(trace.channels, (claim.factor,), after, before, reason):
        trace.meet(node, 0, factor, claim.role)
    if listed:
        _follow(trace, node, 1)
    return True


def _follow(trace: Trace, node: Node, index: int) -> None:
    output = node.outputs[0]
    if output is not None:
        trace.adjustments.append(Follows(node, index, output))


def _expand(trace: Trace, node: Node, claim: Claim, _: int) -> bool:
    """Expand to stored sizes."""
    if node.input_ints(1) is None or trace.dims(node.inputs[0]) is None:
        return False
    _meet_broadcast(trace, node, 0, claim, claim.role)
    _follow(trace, node, 1)
    return True


def _filled(trace: Trace, node: Node, claim: Claim, _: int) -> bool:
    """ConstantOfShape: one number everywhere."""
    if node.input_ints(0) is None or claim.role is Role.READS:
        return False
    _follow(trace, node, 0)
    return True


def _concat(trace: Trace, node: Node, claim: Claim, _: int) -> bool:
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


def _split(trace: Trace, node: Node, claim: Claim, output: int) -> bool:
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


def _slice(trace: Trace, node: Node, claim: Claim, _: int) -> bool:
    dims = trace.dims(node.inputs[0])
    starts, ends, axes, steps = (node.ints(name, at) for name, at in _OF_SLICE)
    if dims is None or starts is None or ends is None or (steps is None and node.has_input(4)):
        return False
    axes = tuple(range(len(starts))) if axes is None and not node.has_input(3) else axes
    steps = steps or (1,) * len(starts)
    if axes is None or not len(starts) == len(ends) == len(axes) == len(steps):
        return False
    factor: Factor | None = claim.factor
    for start, end, given, step in zip(starts, ends, axes, steps, strict=True):
        axis = given % len(dims)
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


_OF_SLICE = (("starts", 1), ("ends", 2), ("axes", 3), ("steps", 4))


def _gather(trace: Trace, node: Node, claim: Claim, _: int) -> bool:
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


def _sum(trace: Trace, node: Node, claim: Claim, _: int) -> bool:
    """Add, Sub: zero where all operands are."""
    return _operands(trace, node, claim, [claim.role] * len(node.inputs))


def _product(trace: Trace, node: Node, claim: Claim, _: int) -> bool:
    """Mul, Div: zero where the operand with the most axes of more than one entry is; that is the weight."""
    extents = [sum(size != 1 for size in trace.dims(value) or ()) for value in node.inputs]
    weight = 0 if node.op_type == "Div" else extents.index(max(extents))
    roles = [claim.role if index == weight else Role.DESCRIBES for index in range(len(node.inputs))]
    return _operands(trace, node, claim, roles)


def _operands(trace: Trace, node: Node, claim: Claim, roles: Sequence[Role]) -> bool:
    if any(trace.dims(value) is None for value in node.inputs):
        return False
    for index, role in enumerate(roles):
        _meet_broadcast(trace, node, index, claim, role)
    return True


def _meet_broadcast(trace: Trace, node: Node, index: int, claim: Claim, role: Role) -> None:
    """An operand meets what it has of a claim on the result, to which it is broadcast."""
    dims, result = trace.dims(node.inputs[index]) or (), trace.dims(node.outputs[0]) or ()
    more = len(result) - len(dims)
    lone = {axis for axis in claim.factor.axes if axis < more or (dims[axis - more] == 1 != result[axis])}
    if lone and role is Role.READS:
        trace.fix((claim.factor,), f"{said(node)} repeats what reads it")
    if lone == set(claim.factor.axes):
        return
    (own,) = narrowed(trace.channels, (claim.factor,), lone, said(node))
    trace.meet(node, index, own.moved({axis: axis - more for axis in own.axes}), role)


def _dequantize(trace: Trace, node: Node, claim: Claim, _: int) -> bool:
    """QuantizeLinear, DequantizeLinear: the weight; scales and zero points where there is one for each entry."""
    for factor in parameters(trace, node, (claim.factor,)):
        trace.meet(node, 0, factor, claim.role)
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


PULLS: dict[tuple[str, str], Pull] = {
    **{("", name): _same for name in ("Identity", "Cast", "CastLike", "Neg", "Abs", "Relu", "Tanh", "Sqrt")},
    ("", "Transpose"): _transpose,
    **{("", name): _reshape for name in ("Reshape", "Flatten", "Squeeze", "Unsqueeze")},
    ("", "Expand"): _expand,
    ("", "ConstantOfShape"): _filled,
    ("", "Concat"): _concat,
    ("", "Split"): _split,
    ("", "Slice"): _slice,
    ("", "Gather"): _gather,
    **{("", name): _sum for name in ("Add", "Sub", "Sum")},
    **{("", name): _product for name in ("Mul", "Div")},
    **{(domain, f"{name}Linear"): _dequantize for domain in ("", CONTRIB) for name in ("Quantize", "Dequantize")},
}


def pull(trace: Trace, node: Node) -> None:
    """Give the inputs of a node of constants the channels of its outputs."""
    if node.is_constant:
        return
    rule = None if node.local else PULLS.get((node.domain, node.op_type))
    for number, output in enumerate(node.outputs):
        for claim in [] if output is None else trace.claims_on(output):
            if rule is None or not rule(trace, node, claim, number):
                reason = f"{said(node)} makes the weight, and can't be followed back"
                trace.channels.fix(claim.factor.ids, reason)
