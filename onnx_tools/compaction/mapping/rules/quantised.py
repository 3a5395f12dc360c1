"""Quantised operators: scales and zero points are cut where there is one for each channel."""

from __future__ import annotations

from onnx_tools.compaction.mapping.factors import Dims, Factor, Traced, narrowed
from onnx_tools.compaction.mapping.roles import Role
from onnx_tools.compaction.mapping.rules.meeting import NONE, Operand, let_meet, letters_of, meet
from onnx_tools.compaction.mapping.rules.movement import concatenate
from onnx_tools.compaction.mapping.rules.products import convolve, multiply, multiply_and_add
from onnx_tools.compaction.mapping.rules.reduction import pooling
from onnx_tools.compaction.mapping.trace import Trace, said
from onnx_tools.graph_parts import Node
from onnx_tools.operators import CONTRIB


def quantising(trace: Trace, node: Node) -> None:
    """QuantizeLinear, DequantizeLinear: one scale, one for each entry of an axis, or one for each block of them."""
    trace.give(node, parameters(trace, node, trace.of(node.inputs[0])))


def parameters(trace: Trace, node: Node, traced: Traced) -> Traced:
    """What may leave of what is quantised: its scales and zero points meet it."""
    sizes, dims = trace.dims(node.inputs[0]), trace.dims(node.inputs[1])
    if dims is None or sizes is None:
        trace.fix(traced, f"{said(node)} has an input of unknown shape; --input-shape may tell it")
        return ()
    blocks = node.int_attribute("block_size", 0)
    axis = node.int_attribute("axis", 1) % max(len(sizes), 1)
    if blocks:
        traced = narrowed(trace.channels, traced, (axis,), f"{said(node)} has one scale for a block of it")
    letters = tuple(range(len(sizes))) if blocks else (axis,) if _several(dims) else ()
    for index in (1, 2):
        for factor in traced:
            let_meet(trace, node, Operand(index, letters), factor)
    return traced


def _several(dims: Dims) -> bool:
    """Whether there is more than one scale."""
    return any(size != 1 for size in dims)


def _describe(trace: Trace, node: Node, index: int, traced: Traced, axis: int) -> None:
    """Scales or zero points of an operand of a product. `axis`: of the result, where a list of them lies."""
    dims = trace.dims(node.inputs[index]) if node.has_input(index) else ()
    if dims is None:
        trace.fix(traced, f"{said(node)} has scales of unknown shape; --input-shape may tell it")
        return
    rank = axis + 1 if len(dims) < 2 else len(dims)
    letters = letters_of(dims, rank) if len(dims) != 1 else (axis if _several(dims) else NONE,)
    for factor in traced:
        let_meet(trace, node, Operand(index, letters), factor)


def quantised_convolution(trace: Trace, node: Node) -> None:
    """QLinearConv: x, weight and y, each with scale and zero point, then the bias."""
    made = convolve(trace, node, weight=3, bias=8)
    for index in (4, 5) if made is not None else ():
        _describe(trace, node, index, () if made is None else (Factor((0,), made),), 0)


def integer_convolution(trace: Trace, node: Node) -> None:
    """ConvInteger: x, weight, their zero points; no bias."""
    made = convolve(trace, node, bias=len(node.inputs))
    if made is not None:
        _describe(trace, node, 3, (Factor((0,), made),), 0)


def quantised_product(trace: Trace, node: Node) -> None:
    """QLinearMatMul: a, b and y, each with scale and zero point: of rows of a, and columns of b."""
    made = multiply(trace, node, 0, 3)
    rank = _rank(trace, node, 0, 3)
    for index, axis in ((1, rank - 2), (2, rank - 2), (4, rank - 1), (5, rank - 1), (6, rank - 2), (7, rank - 2)):
        _describe(trace, node, index, made, axis)


def integer_product(trace: Trace, node: Node) -> None:
    """MatMulInteger: zero points of rows of a, and of columns of b."""
    made = multiply(trace, node)
    rank = _rank(trace, node, 0, 1)
    for index, axis in ((2, rank - 2), (3, rank - 1)):
        _describe(trace, node, index, made, axis)


def quantised_general_product(trace: Trace, node: Node) -> None:
    """QGemm: A, B, each with scale and zero point, those of B also of columns; then C, and the scale of the result."""
    made = multiply_and_add(trace, node, 3, 6)
    for index in (4, 5):
        _describe(trace, node, index, made, 1)


def _rank(trace: Trace, node: Node, *indices: int) -> int:
    return max(len(trace.dims(node.inputs[index]) or ()) for index in indices)


def dynamic_quantising(trace: Trace, node: Node) -> None:
    """DynamicQuantizeLinear: one scale of all that comes in, so that what leaves would change the others."""
    trace.bar(node, f"{said(node)} takes its scale from all of it")


def quantised_pair(trace: Trace, node: Node) -> None:
    """QLinearAdd, QLinearMul: two operands, each with scale and zero point, are broadcast."""
    first, second = (trace.dims(node.inputs[index]) for index in (0, 3))
    if first is None or second is None:
        trace.bar(node, f"{said(node)} has an input of unknown shape; --input-shape may tell it")
        return
    rank = max(len(first), len(second))
    role = Role.SHIFTS if node.op_type == "QLinearAdd" else Role.SCALES
    operands = [Operand(index, letters_of(dims, rank), role) for index, dims in ((0, first), (3, second))]
    trace.give(node, meet(trace, node, operands, rank, makes=False))


def quantised_passing(trace: Trace, node: Node) -> None:
    """Element by element, with one scale for all."""
    trace.give(node, trace.of(node.inputs[0]))


def quantised_pooling(trace: Trace, node: Node) -> None:
    """Windows behind axes 0 and 1, or in front of the last."""
    if not node.int_attribute("channels_last", 0):
        pooling(trace, node)
        return
    rank = len(trace.dims(node.inputs[0]) or ())
    trace.give(node, trace.only(node, 0, (0, rank - 1), "moves a window over it"))


def quantised_softmax(trace: Trace, node: Node) -> None:
    """QLinearSoftmax: along one axis; before opset 13 along all behind it too."""
    rank = len(trace.dims(node.inputs[0]) or ())
    axis = node.int_attribute("axis", -1) % max(rank, 1)
    last = axis + 1 if node.int_attribute("opset", 13) >= 13 else rank
    trace.give(node, trace.narrow(node, 0, range(axis, last), "works along it"))


def quantised_concatenation(trace: Trace, node: Node) -> None:
    """QLinearConcat: scale and zero point of the result, then inputs, each with its own for all of it."""
    concatenate(trace, node, range(2, len(node.inputs), 3))


_LINEAR = ("QuantizeLinear", "DequantizeLinear")
_PASSING = ("QLinearSigmoid", "QLinearLeakyRelu")
_POOLING = ("QLinearGlobalAveragePool", "QLinearAveragePool")

RULES = {
    **{(domain, name): quantising for domain in ("", CONTRIB) for name in _LINEAR},
    ("", "DynamicQuantizeLinear"): dynamic_quantising,
    ("", "QLinearConv"): quantised_convolution,
    ("", "ConvInteger"): integer_convolution,
    ("", "QLinearMatMul"): quantised_product,
    ("", "MatMulInteger"): integer_product,
    (CONTRIB, "QGemm"): quantised_general_product,
    **{(CONTRIB, name): quantised_pair for name in ("QLinearAdd", "QLinearMul")},
    **{(CONTRIB, name): quantised_passing for name in _PASSING},
    **{(CONTRIB, name): quantised_pooling for name in _POOLING},
    (CONTRIB, "QLinearSoftmax"): quantised_softmax,
    (CONTRIB, "QLinearConcat"): quantised_concatenation,
}
