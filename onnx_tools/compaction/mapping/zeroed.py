"""What channels carry once they are zeroed, and which operators can't bear it: a logarithm of zero is infinite.

A zeroed channel is zero where it is made, and something else behind a Sigmoid, or where a number is added. For each
value the bounds of its zeroed channels are followed, as far as they can be told; an operator that isn't finite inside
them holds the channels.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

from onnx_tools.compaction.mapping.bounds import ANYTHING, FUNCTIONS, ZERO, Bounds, around, clipped, hull, square
from onnx_tools.compaction.mapping.roles import Role
from onnx_tools.compaction.mapping.rules.elementwise import OF_ONE
from onnx_tools.compaction.mapping.shape_numbers import small_array
from onnx_tools.compaction.mapping.trace import Trace, said
from onnx_tools.graph_parts import Node, Value

_MOVED = "Identity Dropout Reshape Flatten Transpose Squeeze Unsqueeze Slice Gather Split Concat Tile Expand Upsample"
_POOLED = "DepthToSpace SpaceToDepth MaxPool GlobalMaxPool GlobalAveragePool ReduceMean ReduceMax ReduceMin"
_MOVING = frozenset([*_MOVED.split(), *_POOLED.split()])
"""Elements of the result are elements of the inputs, or lie between them."""

_ELSEWHERE = "Acos Acosh BitwiseNot Clip Cos Cosh Exp HardSigmoid Log Not Reciprocal Sigmoid Softplus"
_POOLING = "AveragePool LpPool GlobalLpPool PRelu ReduceL1 ReduceL2 ReduceProd ReduceSum ReduceSumSquare"
_ZERO_AT_ZERO = {*OF_ONE.split(), *_POOLING.split()} - set(_ELSEWHERE.split())
"""Of zeros they make zeros."""

_NEVER_NEGATIVE = frozenset({"ReduceL1", "ReduceL2", "ReduceSumSquare"})

_DIVISORS = {"Reciprocal": 0, "MeanVarianceNormalization": 0, "Div": 1, "Mod": 1}
"""The input by which everything is divided, or by a deviation that is made of it."""

_LEAST = {"Log": math.ulp(0.0), "ReduceLogSum": math.ulp(0.0), "Sqrt": 0.0, "Acosh": 1.0}
"""The lowest number of which they make a finite one."""

_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "Gather"})
_GATES = frozenset({"LSTM", "GRU", "RNN"})
_SCALING = frozenset({"BatchNormalization", "InstanceNormalization"})
_BY_VARIANCE = frozenset({"InstanceNormalization", "GroupNormalization", "LayerNormalization"})
"""They divide by the root of a variance and of `epsilon`."""

_STRICT = frozenset({*_DIVISORS, *_LEAST, *_BY_VARIANCE, "Pow"})


def hold_what_zeros_break(trace: Trace, nodes: Sequence[Node]) -> None:
    """Fix channels whose zeros a node can't bear: it makes NaN or infinity of them, or sums what is not zero there.

    `nodes`: in the order in which they compute.
    """
    sums: dict[int, list[int]] = {}
    for meeting in trace.meetings:
        if len(meeting.ends) == 1:
            sums.setdefault(id(meeting.node), []).append(meeting.ends[0][1])
    if not sums and not any(node.op_type in _STRICT for node in nodes):
        return
    zeroed = _Zeroed(trace)
    for node in nodes:
        if not node.constant and not node.local:
            broken = None if node.domain else _broken(node, zeroed)
            if broken is not None and not broken.constant:
                trace.fix(trace.of(broken), f"{said(node)} is not finite where a channel is zero")
            if id(node) in sums and zeroed.read(node, 0) != ZERO:
                trace.narrow(node, 0, sums[id(node)], "sums it, and a zeroed channel may be something else there")
            zeroed.follow(node)


def _broken(node: Node, zeroed: _Zeroed) -> Value | None:
    """The input whose zeroed channels a node can't bear, if there is one."""
    name = node.op_type
    at = _DIVISORS.get(name, 0)
    if name not in _STRICT or len(node.inputs) <= at:
        return None
    bounds = zeroed.read(node, at)
    if name in _DIVISORS:
        breaks = bounds.hold_zero
    elif name == "Pow":
        breaks = bounds.hold_zero and (len(node.inputs) < 2 or zeroed.read(node, 1).low < 0)
    elif name in _LEAST:
        breaks = bounds.low < _LEAST[name]
    else:
        breaks = "epsilon" in node.attributes and node.attributes["epsilon"].f <= 0
    return node.inputs[at] if breaks else None


class _Zeroed:
    """The bounds of the zeroed channels of all values that were followed so far."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._known: dict[int, Bounds] = {}

    def read(self, node: Node, index: int) -> Bounds:
        """What a node finds in input `index` where channels are zeroed."""
        value = node.inputs[index]
        if value is None or not value.constant:
            return self._known.get(id(value), ANYTHING)
        zeroed = {Role.SHIFTS, Role.SCALES} & self._trace.roles(node, index)
        return ANYTHING if value.tensor is None else ZERO if zeroed else _stored(value)

    def follow(self, node: Node) -> None:
        """Note what the results of a node hold."""
        for value in node.outputs:
            if value is not None and self._trace.of(value):
                with contextlib.suppress(IndexError, ValueError):  # too few inputs: no runtime takes it
                    self._known[id(value)] = ZERO if self._is_zero(node, value) else self._result(node)

    def _is_zero(self, node: Node, value: Value) -> bool:
        """Whether nothing but stored numbers makes the channels of a result, or scales and shifts all of them.

        Only of nodes of which the removal knows it too: what is zeroed and then can't leave costs accuracy for nothing.
        """
        if node.domain:
            return False
        roles = set[Role]().union(*(self._trace.roles(node, index) for index in range(len(node.inputs))))
        if node.op_type in _SCALING:
            return roles >= {Role.SCALES, Role.SHIFTS}
        made = Role.MAKES in roles and len(self._trace.of(value)) == 1
        if node.op_type in _GATES:
            states = [self.read(node, index) for index in (5, 6) if node.has_input(index)]
            return made and "activations" not in node.attributes and all(state == ZERO for state in states)
        flat = any(self._trace.rank(each) == 2 for each in node.inputs[:2] if each is not None and each.constant)
        return made and (node.op_type in _LAYERS or (node.op_type == "MatMul" and flat))

    def _result(self, node: Node) -> Bounds:
        name, inputs = "" if node.domain else node.op_type, node.inputs
        traced = [(self.read(node, at), value) for at, value in enumerate(inputs) if self._trace.of(value)]
        if name in _MOVING:
            return hull(bounds for bounds, _ in traced)
        if name == "Mul" and len(inputs) == 2 and inputs[0] is inputs[1]:
            return square(self.read(node, 0))
        if name == "Clip":
            return clipped([self.read(node, 0), *self._limits(node)])
        if name in FUNCTIONS:
            return FUNCTIONS[name]([self.read(node, at) for at in range(len(inputs))])
        if name in _ZERO_AT_ZERO and all(bounds == ZERO for bounds, value in traced if value and not value.constant):
            return ZERO
        return Bounds(0.0, math.inf) if name in _NEVER_NEGATIVE else ANYTHING

    def _limits(self, node: Node) -> list[Bounds]:
        """The least and the most of Clip, inputs or before opset 11 attributes."""
        found = []
        for index, name, none in ((1, "min", -math.inf), (2, "max", math.inf)):
            attribute = node.attributes.get(name)
            found.append(self.read(node, index) if node.has_input(index) else Bounds(none, none))
            found[-1] = found[-1] if attribute is None else Bounds(attribute.f, attribute.f)
        return found


def _stored(value: Value) -> Bounds:
    """The bounds of a few stored numbers."""
    tensor = value.tensor
    if tensor is None or tensor.proto is None:
        attributes = {} if tensor is None or tensor.node is None else tensor.node.attributes
        numbers = (attributes[name] for name in ("value_float", "value_int") if name in attributes)
        return next((around([each.f or each.i]) for each in numbers), ANYTHING)
    array = small_array(tensor.proto)
    return ANYTHING if array is None or array.dtype.kind not in "fiu" else around(array.reshape(-1).tolist())
