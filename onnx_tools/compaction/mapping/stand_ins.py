"""Operators of ONNX that give results of the same shape as operators that onnx's shape inference does not know.

onnxruntime's own operators (ContribOperators.md in its repository says what they take and give) have no schema in onnx.
Each row names an operator of ONNX that does, and which inputs it gets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import NodeProto, TensorProto, TypeProto, shape_inference

from onnx_tools.operators import CONTRIB

Types = Sequence[TypeProto]

_LIKE_ITS_INPUT = (
    "Gelu FastGelu BiasGelu QuickGelu BiasAdd GroupNorm SkipGroupNorm SkipLayerNormalization RotaryEmbedding "
    "SkipSimplifiedLayerNormalization BiasDropout BitmaskDropout QLinearSigmoid QLinearLeakyRelu QLinearSoftmax"
)


@dataclass(frozen=True)
class _Row:
    """`inputs`: those of the node that the stand-in gets, by number, or a range of them.

    `seen`: what it takes their types for; None: what they are. `typed_by`: of these inputs the first that is given has
    elements of the type of the result; those of ONNX may not take that.
    """

    op_type: str
    inputs: tuple[int, ...] | slice
    seen: Callable[[NodeProto, Types], list[TypeProto]] | None = None
    typed_by: tuple[int, ...] = (0,)


def inferred_by_another(node: NodeProto, types: Mapping[str, TypeProto]) -> TypeProto | None:
    """The type of output 0, as an operator of ONNX has it; None if none is known that gives the same shape.

    `types`: those of the inputs of `node`. Raises `ValueError` or `IndexError` for a node without inputs that it needs,
    and what onnx raises for shapes that don't fit.
    """
    row = _ROWS.get((node.domain, node.op_type))
    if row is None or _last_channels(node):
        return None
    names = node.input[row.inputs] if isinstance(row.inputs, slice) else [node.input[at] for at in row.inputs]
    given = [types[name] for name in names if name]
    seen = given if row.seen is None else row.seen(node, given)
    typing = next((node.input[at] for at in row.typed_by if at < len(node.input) and node.input[at]), "")
    if not typing:
        return None
    found = _inferred(row.op_type, node, [_copy(kind) for kind in seen])
    found.tensor_type.elem_type = types[typing].tensor_type.elem_type
    return found


def _inferred(op_type: str, node: NodeProto, types: Types) -> TypeProto:
    """The type of a node of ONNX with the attributes that it shares with another, and floats as inputs."""
    schema = onnx.defs.get_schema(op_type)
    inputs = {f"input_{at}": kind for at, kind in enumerate(types)}
    for kind in types:
        kind.tensor_type.elem_type = TensorProto.FLOAT
    kept = [attribute for attribute in node.attribute if attribute.name in schema.attributes]
    one = NodeProto(op_type=op_type, input=list(inputs), output=["result"], attribute=kept)
    latest = [onnx.helper.make_opsetid("", schema.since_version)]
    return shape_inference.infer_node_outputs(schema, one, inputs, opset_imports=latest)["result"]


def batched_order(rank: int, *, batch: bool, last: bool) -> list[int]:
    """The axes of an operand of FusedMatMul in the order in which MatMul would have them.

    `batch`: axis 0 goes behind the other batch axes (transBatch); `last`: then the last two change places (trans).
    """
    axes = [*(range(1, rank - 1) if batch else range(rank - 1)), *([0] if batch else []), rank - 1]
    return [*axes[:-2], axes[-1], axes[-2]] if last else axes


def _last_channels(node: NodeProto) -> bool:
    """Whether it has its channels behind, as the operators of ONNX have not."""
    return any(attribute.name == "channels_last" and attribute.i for attribute in node.attribute)


def _copy(kind: TypeProto) -> TypeProto:
    copy = TypeProto()
    copy.CopyFrom(kind)
    return copy


def _reshaped(kind: TypeProto, dims: Sequence[onnx.TensorShapeProto.Dimension]) -> TypeProto:
    copy = _copy(kind)
    copy.tensor_type.shape.ClearField("dim")
    copy.tensor_type.shape.dim.extend(dims)
    return copy


def _size(number: int) -> onnx.TensorShapeProto.Dimension:
    return onnx.TensorShapeProto.Dimension(dim_value=number)


def _number(node: NodeProto, name: str) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)


def _turned(node: NodeProto, types: Types) -> list[TypeProto]:
    """FusedMatMul: both operands as MatMul would have them."""
    found = []
    for letter, kind in zip("AB", types, strict=True):
        dims = kind.tensor_type.shape.dim
        batch, last = (bool(_number(node, f"{name}{letter}")) for name in ("transBatch", "trans"))
        found.append(_reshaped(kind, [dims[axis] for axis in batched_order(len(dims), batch=batch, last=last)]))
    return found


def _unpacked(node: NodeProto, types: Types) -> list[TypeProto]:
    """MatMulNBits: the weight is (K, N)."""
    return [types[0], _reshaped(types[0], [_size(_number(node, "K")), _size(_number(node, "N"))])]


def _projected(node: NodeProto, types: Types) -> list[TypeProto]:
    """Attention: of the weight (features, Q and K and V) the part of V."""
    features, width = types[1].tensor_type.shape.dim
    sizes = next((list(each.ints) for each in node.attribute if each.name == "qkv_hidden_sizes"), [])
    last = sizes[2] if len(sizes) == 3 else width.dim_value // 3
    return [types[0], _reshaped(types[1], [features, _size(last)])]


def _apart(node: NodeProto, types: Types) -> list[TypeProto]:
    """GroupQueryAttention: queries, unless keys and values are packed with them."""
    if not node.input[1]:
        raise ValueError("queries, keys and values are in one")
    return list(types)


def _attended(_: NodeProto, types: Types) -> list[TypeProto]:
    """Queries (batch, steps, any) and values (batch, keys, hidden): a product over the keys."""
    queries, values = (kind.tensor_type.shape.dim for kind in types)
    if len(queries) != 3 or len(values) != 3:
        raise ValueError("queries and values lie in a way that has no such shape")
    left = _reshaped(types[0], [*queries[:2], _size(1)])
    return [left, _reshaped(types[0], [queries[0], _size(1), values[2]])]


_ROWS: dict[tuple[str, str], _Row] = {
    **{(CONTRIB, name): _Row("Identity", (0,)) for name in _LIKE_ITS_INPUT.split()},
    **{("", name): _Row("Identity", (0,)) for name in ("LayerNormalization", "SimplifiedLayerNormalization")},
    (CONTRIB, "FusedConv"): _Row("Conv", slice(0, 3)),
    (CONTRIB, "FusedGemm"): _Row("Gemm", slice(0, 3)),
    **{(CONTRIB, name): _Row("MatMul", (0, 1), _turned) for name in ("FusedMatMul", "TransposeMatMul")},
    (CONTRIB, "MatMulNBits"): _Row("MatMul", (0,), _unpacked),
    (CONTRIB, "DynamicQuantizeMatMul"): _Row("MatMul", (0, 1)),
    (CONTRIB, "MatMulIntegerToFloat"): _Row("MatMul", (0, 1), typed_by=(2,)),
    (CONTRIB, "QGemm"): _Row("Gemm", (0, 3), typed_by=(8, 1)),
    **{(CONTRIB, f"QLinear{name}"): _Row(name, (0, 3)) for name in ("Add", "Mul")},
    **{(CONTRIB, f"QLinear{name}"): _Row(name, (0,)) for name in ("GlobalAveragePool", "AveragePool")},
    (CONTRIB, "QLinearConcat"): _Row("Concat", slice(2, None, 3), typed_by=(2,)),
    (CONTRIB, "QuantizeLinear"): _Row("Identity", (0,), typed_by=(2,)),
    (CONTRIB, "DequantizeLinear"): _Row("Identity", (0,), typed_by=(1,)),
    (CONTRIB, "Attention"): _Row("MatMul", (0, 1), _projected),
    (CONTRIB, "MultiHeadAttention"): _Row("MatMul", (0, 2), _attended),
    (CONTRIB, "GroupQueryAttention"): _Row("Identity", (0,), _apart),
}
