"""Operators that work on each element: channels pass, those of several operands are tied as they are broadcast."""

from __future__ import annotations

from onnx_tools.compaction.mapping.roles import Role
from onnx_tools.compaction.mapping.rules.meeting import Operand, letters_of, meet, repeated
from onnx_tools.compaction.mapping.trace import Trace, said
from onnx_tools.graph_parts import Node
from onnx_tools.operators import CONTRIB

_NUMPY_LIKE = 7
"""The opset from which on operands are broadcast from their last axes; before, a node says where, or the operator."""


def passing(trace: Trace, node: Node) -> None:
    """All outputs have the channels of input 0; further inputs are numbers for all of it."""
    for index in range(len(node.outputs)):
        trace.give(node, trace.of(node.inputs[0]), index, trace.rank(node.inputs[0]))


def broadcasting(trace: Trace, node: Node, roles: tuple[Role, ...] = ()) -> None:
    """All inputs are broadcast against each other. `roles`: of stored inputs, DESCRIBES for those beyond."""
    given = [index for index, value in enumerate(node.inputs) if value is not None]
    dims = [trace.dims(node.inputs[index]) for index in given]
    if not any(trace.of(node.inputs[index]) for index in given) and None in dims:
        return
    if any(each is None for each in dims):
        trace.bar(node, f"{said(node)} has an input of unknown shape; --input-shape may tell it")
        return
    rank = max(len(each) for each in dims if each is not None)
    if trace.opset < _NUMPY_LIKE and any(len(each or ()) not in (0, rank) for each in dims):
        trace.bar(node, f"{said(node)} is broadcast as before opset {_NUMPY_LIKE}")
        return
    operands = [
        Operand(index, letters_of(each or (), rank), roles[index] if index < len(roles) else Role.DESCRIBES)
        for index, each in zip(given, dims, strict=True)
    ]
    result = meet(trace, node, operands, rank, makes=False)
    trace.give(node, (*result, *repeated(trace, node, operands, rank)), rank=rank)


def casting(trace: Trace, node: Node) -> None:
    """CastLike: nothing but the type of input 1 matters."""
    for value in node.inputs[1:]:
        trace.of(value)
    passing(trace, node)


def by_feature(trace: Trace, node: Node) -> None:
    """Attributes hold a number for each feature; all of them stay."""
    trace.bar(node, f"{said(node)} has a number for each feature")
    trace.give(node, (), rank=trace.rank(node.inputs[0]))


def adding(trace: Trace, node: Node) -> None:
    """Stored operands of Add and Sub shift channels."""
    broadcasting(trace, node, (Role.SHIFTS,) * len(node.inputs))


def multiplying(trace: Trace, node: Node) -> None:
    """Stored operands of Mul scale channels."""
    broadcasting(trace, node, (Role.SCALES,) * len(node.inputs))


OF_ONE = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast CastLike Ceil Celu Clip Cos Cosh Dropout Elu Erf Exp Floor "
    "Gelu HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink "
    "Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu"
)
"""Each element of the result is made of one element of input 0, and of numbers that are the same for all."""

OF_SEVERAL = (
    "And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod "
    "Or PRelu Pow Where Xor"
)

RULES = {
    **{("", name): passing for name in OF_ONE.split()},
    ("", "CastLike"): casting,
    **{("", name): broadcasting for name in OF_SEVERAL.split()},
    **{("", name): adding for name in ("Add", "Sub", "Sum")},
    ("", "Mul"): multiplying,
    **{("ai.onnx.ml", name): by_feature for name in ("Scaler", "Imputer", "Normalizer", "Binarizer")},
    (CONTRIB, "Gelu"): passing,
    (CONTRIB, "QuickGelu"): passing,
}
