"""Finding and selecting weights: small models as text, hostile ones, and the real models of the corpus."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper

from onnx_tools import layout
from onnx_tools.errors import PatternMatchesNothing
from onnx_tools.layout import PassThrough
from onnx_tools.operators import UnitAxis
from onnx_tools.weight_selection import Selection, select_weights
from onnx_tools.weights import FoundWeights, LeftAlone, Weight, find_weights
from tests.onnx_tools.test_graph_index import limits

Data = tuple[int, ...] | list[int] | TensorProto


def model_of(body: str, inputs: str = "float[N] x", **stored: Data) -> onnx.ModelProto:
    """A model from text. `stored`: a shape makes a skeleton of a float32 initializer, a list makes int64 data."""
    opsets = '"": 20, "com.microsoft": 1'
    model = onnx.parser.parse_model(
        f"<ir_version: 10, opset_import: [{opsets}]> g ({inputs}) => (float[N] y) {{ {body} }}"
    )
    for name, data in stored.items():
        model.graph.initializer.add().CopyFrom(tensor_of(data))
        model.graph.initializer[-1].name = name
    return model


def tensor_of(data: Data) -> TensorProto:
    if isinstance(data, tuple):
        return of_type(TensorProto.FLOAT, *data)
    return helper.make_tensor("", TensorProto.INT64, [len(data)], data) if isinstance(data, list) else data


def find(body: str, inputs: str = "float[N] x", **stored: Data) -> FoundWeights:
    return find_weights(model_of(body, inputs, **stored))


def only_weight(body: str, inputs: str = "float[N] x", **stored: Data) -> Weight:
    weights = find(body, inputs, **stored).weights
    assert len(weights) == 1
    return weights[0]


def reason(name: str, found: FoundWeights) -> str:
    return next(item.reason for item in found.left_alone if item.name == name)


def of_type(data_type: int, *dims: int) -> TensorProto:
    return TensorProto(dims=dims, data_type=data_type)


def test_a_weight_says_what_it_is() -> None:
    found = find("h = Relu(x) y = MatMul(h, w)", w=(64, 32))
    assert found.left_alone == ()
    assert found.weights == (
        Weight(
            name="w",
            path=(("graph", 0), ("initializer", 0)),
            shape=(64, 32),
            dtype=np.dtype(np.float32),
            elements=2048,
            op_types=("MatMul",),
            consumers=("y",),
            rows=UnitAxis((64, 32), 1),
            columns=UnitAxis((64, 32), 0),
        ),
    )


@pytest.mark.parametrize(
    ("body", "shape", "rows", "columns"),
    [
        ("y = MatMul(w, x)", (8, 6), ((8, 6), 0, 1), ((8, 6), 1, 1)),
        ("y = MatMul(x, w)", (8, 6), ((8, 6), 1, 1), ((8, 6), 0, 1)),
        ("y = MatMul(x, w)", (3, 8, 6), ((3, 8, 6), 2, 1), ((3, 8, 6), 1, 1)),
        ("y = Gemm(x, w)", (8, 6), ((8, 6), 1, 1), ((8, 6), 0, 1)),
        ("y = Gemm <transB = 1> (x, w)", (8, 6), ((8, 6), 0, 1), ((8, 6), 1, 1)),
        ("y = Gemm(w, x)", (8, 6), ((8, 6), 0, 1), ((8, 6), 1, 1)),
        ("y = Gemm <transA = 1> (w, x)", (8, 6), ((8, 6), 1, 1), ((8, 6), 0, 1)),
        ("y = Conv(x, w)", (8, 6, 3), ((8, 6, 3), 0, 1), ((8, 6, 3), 1, 1)),
        ("y = Conv(x, w)", (8, 6, 3, 3), ((8, 6, 3, 3), 0, 1), ((8, 6, 3, 3), 1, 1)),
        ("y = Conv <group = 4> (x, w)", (8, 6, 3, 3, 3), ((8, 6, 3, 3, 3), 0, 1), ((8, 6, 3, 3, 3), 1, 4)),
        ("y = ConvTranspose(x, w)", (8, 6, 3), ((8, 6, 3), 1, 1), ((8, 6, 3), 0, 1)),
        ("y = ConvTranspose <group = 2> (x, w)", (8, 6, 3), ((8, 6, 3), 1, 2), ((8, 6, 3), 0, 1)),
        ("y = LSTM <hidden_size = 2> (x, w, x)", (1, 8, 6), ((1, 8, 6), 1, 1), ((1, 8, 6), 2, 1)),
        ("y = LSTM <hidden_size = 2> (x, x, w)", (2, 8, 2), ((2, 8, 2), 1, 2), ((2, 8, 2), 2, 2)),
        ("y = GRU <hidden_size = 2> (x, w, x)", (2, 6, 5), ((2, 6, 5), 1, 2), ((2, 6, 5), 2, 2)),
        ("y = RNN <hidden_size = 2> (x, x, w)", (1, 2, 2), ((1, 2, 2), 1, 1), ((1, 2, 2), 2, 1)),
    ],
)
def test_rows_and_columns_of_each_operator(body: str, shape: tuple[int, ...], rows: tuple, columns: tuple) -> None:
    weight = only_weight(body, w=shape)
    assert (weight.rows, weight.columns) == (UnitAxis(*rows), UnitAxis(*columns))
    assert (weight.rows_missing, weight.columns_missing) == ("", "")


def test_a_vector_has_no_rows() -> None:
    weight = only_weight("y = MatMul(x, w)", w=(8,))
    assert weight.rows is None
    assert weight.rows_missing == "MatMul 'y' gives a tensor of 1 axes no output axis"
    assert weight.columns == UnitAxis((8,), 0)


@pytest.mark.parametrize(
    ("body", "stored", "rows"),
    [
        ("v = Transpose(w) y = MatMul(x, v)", {"w": (8, 6)}, UnitAxis((8, 6), 0)),
        ("v = Identity(w) u = Cast <to = 1> (v) y = MatMul(x, u)", {"w": (8, 6)}, UnitAxis((8, 6), 1)),
        ("v = CastLike(w, x) y = MatMul(x, v)", {"w": (8, 6)}, UnitAxis((8, 6), 1)),
        ("v = Reshape(w, s) y = MatMul(x, v)", {"w": (16, 4, 4, 10), "s": [256, 10]}, UnitAxis((256, 10), 1)),
        ("v = Reshape(w, s) y = MatMul(x, v)", {"w": (16, 4, 4, 10), "s": [-1, 10]}, UnitAxis((256, 10), 1)),
        ("v = Flatten(w) y = Gemm <transB = 1> (x, v)", {"w": (8, 2, 3)}, UnitAxis((8, 6), 0)),
        ("v = Squeeze(w) y = MatMul(x, v)", {"w": (8, 6, 1)}, UnitAxis((8, 6), 1)),
        ("v = Unsqueeze(w, s) y = Conv(x, v)", {"w": (8, 6), "s": [2]}, UnitAxis((8, 6, 1), 0)),
        ("v = Slice(w, s, e) y = MatMul(x, v)", {"w": (8, 6), "s": [0], "e": [4]}, UnitAxis((8, 6), 1)),
        ("v, u = Split <num_outputs = 2> (w) y = MatMul(x, u)", {"w": (8, 6)}, UnitAxis((8, 6), 1)),
        ("v = Dropout(w) y = MatMul(x, v)", {"w": (8, 6)}, UnitAxis((8, 6), 1)),
        ("v = Mul(w, k) y = MatMul(x, v)", {"w": (8, 6), "k": ()}, UnitAxis((8, 6), 1)),
        ("v = Mul(k, w) y = MatMul(x, v)", {"w": (8, 6), "k": (1,)}, UnitAxis((8, 6), 1)),
        ("v = Div(w, k) y = MatMul(x, v)", {"w": (8, 6), "k": ()}, UnitAxis((8, 6), 1)),
        ("v = Expand(w, s) y = MatMul(x, v)", {"w": (8, 6), "s": [8, 6]}, UnitAxis((8, 6), 1)),
    ],
)
def test_a_weight_is_found_behind(body: str, stored: dict[str, Data], rows: UnitAxis) -> None:
    (weight,) = (weight for weight in find(body, **stored).weights if weight.name == "w")
    assert weight.rows == rows


@pytest.mark.parametrize(
    ("body", "stored"),
    [
        ("v = Mul(w, x) y = MatMul(x, v)", {}),
        ("v = Mul(w, k) y = MatMul(x, v)", {"k": (6,)}),
        ("v = Mul(w, k) y = MatMul(x, v)", {"k": (1, 1)}),
        ("v = Div(k, w) y = MatMul(x, v)", {"k": ()}),
        ("v = Mul(w) y = MatMul(x, v)", {}),
    ],
)
def test_a_weight_is_not_looked_for_behind(body: str, stored: dict[str, Data]) -> None:
    assert reason("w", find(body, w=(8, 6), **stored)).startswith("read only by")


def test_gates_put_in_another_order_keep_their_rows() -> None:
    body = """
      a = Slice(w, zero, four) b = Slice(w, four, end) c = Concat <axis = 0> (b, a)
      v = Unsqueeze(c, zero) y = LSTM <hidden_size = 2> (x, v, x)
    """
    weight = only_weight(body, w=(8, 6), zero=[0], four=[4], end=[8])
    assert (weight.rows, weight.columns) == (UnitAxis((8, 6), 0), UnitAxis((8, 6), 1))
    assert weight.consumers == ("y",)


def test_two_directions_joined_stay_apart() -> None:
    body = """
      a = Unsqueeze(f, zero) b = Unsqueeze(r, zero) v = Concat <axis = 0> (a, b)
      y = GRU <direction = "bidirectional", hidden_size = 2> (x, v, x)
    """
    weights = find(body, f=(6, 5), r=(6, 5), zero=[0]).weights
    assert [weight.rows for weight in weights] == [UnitAxis((6, 5), 0)] * 2


def test_an_axis_that_cannot_be_traced_says_why() -> None:
    weight = only_weight("s = Shape(x) v = Reshape(w, s) y = MatMul(x, v)", w=(8, 6))
    assert weight.rows is None
    assert weight.rows_missing == weight.columns_missing == "the target of Reshape 'v' is not a small constant"


def test_groups_that_do_not_divide_say_so() -> None:
    weight = only_weight("y = Conv <group = 3> (x, w)", w=(8, 6, 3, 3))
    assert weight.rows == UnitAxis((8, 6, 3, 3), 0)
    assert weight.columns_missing == "8 channels do not divide into 3 groups"


@pytest.mark.parametrize(
    ("body", "shape", "depthwise"),
    [
        ("y = Conv <group = 8> (x, w)", (16, 1, 3, 3), True),
        ("y = Conv <group = 4> (x, w)", (16, 2, 3, 3), False),
        ("y = Conv(x, w)", (16, 1, 3, 3), False),
        ("y = ConvTranspose <group = 8> (x, w)", (8, 2, 3, 3), True),
        ("y = ConvTranspose <group = 4> (x, w)", (8, 1, 3, 3), False),
    ],
)
def test_depthwise_kernels_are_marked(body: str, shape: tuple[int, ...], depthwise: bool) -> None:
    assert only_weight(body, w=shape).depthwise is depthwise


def test_depthwise_columns_are_the_channels() -> None:
    columns = only_weight("y = Conv <group = 8> (x, w)", w=(16, 1, 3, 3)).columns
    assert columns == UnitAxis((16, 1, 3, 3), 1, 8)


@pytest.mark.parametrize(
    ("data_type", "dtype"),
    [
        (TensorProto.FLOAT, np.float32),
        (TensorProto.FLOAT16, np.float16),
        (TensorProto.DOUBLE, np.float64),
        (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
    ],
)
def test_dtypes(data_type: int, dtype: type) -> None:
    assert only_weight("y = MatMul(x, w)", w=of_type(data_type, 4, 4)).dtype == np.dtype(dtype)


def test_shared_weights_are_one_weight() -> None:
    weight = only_weight("a = MatMul(x, w) b = Transpose(w) y = Gemm <transB = 1> (a, b)", w=(8, 8))
    assert weight.op_types == ("MatMul", "Gemm")
    assert weight.consumers == ("a", "y")
    assert weight.rows == UnitAxis((8, 8), 1)


def test_consumers_that_disagree() -> None:
    weight = only_weight("a = MatMul(x, w) y = Gemm <transB = 1> (a, w)", w=(8, 6))
    assert (weight.rows_missing, weight.columns_missing) == (
        "consumers disagree on the output axis",
        "consumers disagree on the reduction axis",
    )


def test_consumers_that_see_other_shapes_may_agree() -> None:
    weight = only_weight("v = Reshape(w, s) a = MatMul(x, v) y = MatMul(a, w)", w=(2, 4, 6), s=[8, 6])
    assert weight.rows == UnitAxis((2, 4, 6), 2)
    assert weight.columns is None


def test_a_weight_as_wide_as_a_stack_of_experts() -> None:
    body = "".join(f"e{i} = Slice(w, s, e) q{i} = Squeeze(e{i}, s) m{i} = MatMul(x, q{i}) " for i in range(200))
    weight = only_weight(body, w=(200, 4, 6), s=[0], e=[1])
    assert len(weight.consumers) == 200
    assert weight.rows == UnitAxis((200, 4, 6), 2)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("e = Gather(w, i) s = Shape(x) v = Reshape(w, s) u = Gather(v, i) y = MatMul(e, w) z = Add(u, w)",
         "weight of Gather, but also read by Add 'z'"),
        ("e = Add(x, w) y = MatMul(e, w)", "weight of MatMul, but also read by Add 'e'"),
        ("e = Conv(x, x, w) y = MatMul(e, w)", "weight of MatMul, but also bias of Conv 'e'"),
        ("y = Identity(w) z = MatMul(x, w)", "weight of MatMul, but also graph output"),
        ("e = MyOp(w) y = MatMul(e, w)", "weight of MatMul, but also read by MyOp 'e'"),
    ],
)  # fmt: skip
def test_a_weight_that_is_also_something_else_is_left_alone(body: str, expected: str) -> None:
    found = find(body, w=(8, 8))
    assert found.weights == ()
    assert reason("w", found) == expected


TIED = "e = Gather(w, i) t = Transpose(w) y = MatMul(e, t)"


def test_an_embedding_has_channels_and_sums_nothing() -> None:
    weight = only_weight("y = Gather(w, x)", w=(60, 8))
    assert (weight.optional, weight.rows, weight.columns) == ("embedding", UnitAxis((60, 8), 1), None)
    assert weight.columns_missing == "Gather 'y' looks entries up and sums nothing"


def test_a_tied_embedding_is_one_weight_with_the_products_reduction_axis() -> None:
    weight = only_weight(TIED, w=(60, 8))
    assert (weight.optional, weight.op_types) == ("embedding", ("Gather", "MatMul"))
    assert (weight.columns, weight.rows_missing) == (UnitAxis((60, 8), 1), "consumers disagree on the output axis")


def test_entries_picked_by_stored_indices_are_a_slice() -> None:
    weight = only_weight("v = Gather(w, i) y = MatMul(x, v)", w=(8, 6), i=[0, 3])
    assert (weight.optional, weight.op_types, weight.rows) == ("", ("MatMul",), UnitAxis((8, 6), 1))


def test_shape_readers_do_no_harm() -> None:
    assert only_weight("s = Shape(w) n = Size(w) c = CastLike(x, w) y = MatMul(x, w)", w=(8, 6)).op_types == ("MatMul",)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Conv(x, x, w)", "bias of Conv"),
        ("v = Identity(w) y = Gemm(x, x, v)", "bias of Gemm"),
        ("y = LSTM(x, x, x, w)", "bias of LSTM"),
        ("y = LSTM(x, x, x, x, x, x, x, w)", "peepholes of LSTM"),
        ("y = GRU(x, x, x, x, x, w)", "initial state of GRU"),
        ("y = BatchNormalization(x, w, w, w, w)", "normalisation of BatchNormalization"),
        ("y = LayerNormalization(x, w)", "normalisation of LayerNormalization"),
        ("y = com.microsoft.SkipLayerNormalization(x, x, w)", "normalisation of com.microsoft SkipLayerNormalization"),
        ("y = PRelu(x, w)", "slope of PRelu"),
        ("y = Add(x, w)", "read only by Add (not a weight slot)"),
        ("v = Mul(x, w) y = Add(v, w)", "read only by Mul, Add (not a weight slot)"),
        ("v = Mul(x, w) y = Conv(x, x, w)", "bias of Conv and read by Mul (not a weight slot)"),
        ("a = A(w) b = B(w) c = C(w) y = D(w)", "read only by A, B, C, 1 more (not a weight slot)"),
        ("y = Identity(w)", "graph output"),
        ("y = Relu(x)", "unused by any node"),
        ("v = Unsqueeze(w, a) y = Gather(v, x)", "table of Gather"),
        ("y = Einsum <equation = \"ij,kl->ijkl\"> (x, w)", "operand that is summed with no other of Einsum"),
        ("y = com.microsoft.MultiHeadAttention(x, w, x)",
         "query, key or value of com.microsoft MultiHeadAttention"),
        ("v = Concat <axis = 0> (x, w) y = MatMul(v, x)", "joined with computed values by Concat"),
        ("v = Cast <to = 7> (w) y = MatMul(x, v)", "read only by Cast (not a weight slot)"),
        ("v = QuantizeLinear(w, s, z) u = DequantizeLinear(v, s, x) y = MatMul(x, u)",
         "quantised weight of MatMul (float32 behind QuantizeLinear): "
         "QuantizeLinear and DequantizeLinear have different zero points"),
        ("v = QuantizeLinear(w, s, z) y = MatMul(x, v)",
         "quantised weight of MatMul (float32 behind QuantizeLinear): MatMul reads what was quantised"),
        ("y = DequantizeLinear(x, w)", "scale of DequantizeLinear"),
        ("y = Loop(x, x, w) <body = b () => () {}>", "state that the body changes of Loop"),
    ],
)  # fmt: skip
def test_reasons(body: str, expected: str) -> None:
    found = find(body, w=(8, 8), a=[0])
    assert found.weights == ()
    assert reason("w", found) == expected


@pytest.mark.parametrize(
    ("body", "data_type", "expected"),
    [
        ("v = DequantizeLinear(w, s) y = Conv(x, v)", TensorProto.INT8,
         "quantised weight of Conv (int8 behind DequantizeLinear): its scale is not stored data"),
        ("v = DequantizeLinear(w, s) u = Transpose(v) y = MatMul(x, u)", TensorProto.UINT4,
         "quantised weight of MatMul (uint4 behind DequantizeLinear): its scale is not stored data"),
        ("v = DequantizeLinear(w, s) y = Conv(x, x, v)", TensorProto.INT32, "bias of Conv"),
        ("y = QLinearConv(x, s, z, w, s, z, s, z)", TensorProto.INT8,
         "quantised weight of QLinearConv (int8): its scale is not stored data"),
        ("y = MatMulInteger(x, w, z, s)", TensorProto.UINT8,
         "quantised weight of MatMulInteger (uint8): its zero point is not stored data"),
        ("y = com.microsoft.MatMulNBits(x, w, s)", TensorProto.UINT8,
         "quantised weight of com.microsoft MatMulNBits (uint8): N = 0, K = 0 and block_size = 0 are impossible"),
        ("y = DequantizeLinear(x, s, w)", TensorProto.UINT8, "zero point of DequantizeLinear"),
        ("y = MatMul(x, w)", TensorProto.FLOAT8E4M3FN, "weight of MatMul with unsupported dtype float8e4m3fn"),
        ("y = MatMul(x, w)", TensorProto.INT32, "weight of MatMul with unsupported dtype int32"),
        ("y = Add(x, w)", TensorProto.COMPLEX64, "unsupported dtype complex64"),
        ("y = Reshape(x, w)", TensorProto.INT64, "not floating point (int64)"),
        ("y = Gather(x, w)", TensorProto.INT64, "not floating point (int64)"),
        ("y = MatMul(x, w)", 99, "weight of MatMul with unsupported dtype data type 99"),
    ],
)  # fmt: skip
def test_reasons_of_other_types(body: str, data_type: int, expected: str) -> None:
    assert reason("w", find(body, w=of_type(data_type, 8, 8))) == expected


def test_initializers_that_are_graph_inputs_are_weights() -> None:
    assert only_weight("y = MatMul(x, w)", inputs="float[N] x, float[8, 6] w", w=(8, 6)).name == "w"


def test_constant_nodes_hold_weights() -> None:
    body = "w = Constant <value = float[2, 3] {1, 2, 3, 4, 5, 6}> () y = MatMul(x, w)"
    weight = only_weight(body)
    assert (weight.name, weight.shape) == ("w", (2, 3))
    assert weight.path == (("graph", 0), ("node", 0), ("attribute", 0), ("t", 0))


def test_lists_of_floats_in_constant_nodes_hold_weights() -> None:
    nodes = [
        helper.make_node("Constant", [], ["w"], value_floats=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        helper.make_node("Constant", [], ["s"], value_ints=[2, 3]),
        helper.make_node("Reshape", ["w", "s"], ["v"]),
        helper.make_node("MatMul", ["x", "v"], ["y"]),
    ]
    (weight,) = find_weights(graph_of(nodes)).weights
    assert (weight.name, weight.shape, weight.dtype) == ("w", (6,), np.float32)
    assert weight.path == (("graph", 0), ("node", 0), ("attribute", 0))
    assert (weight.rows, weight.columns) == (UnitAxis((2, 3), 1), UnitAxis((2, 3), 0))


def test_data_of_constant_nodes_that_is_left_alone() -> None:
    value = helper.make_tensor("", TensorProto.FLOAT, [1], [1.0])
    nodes = [
        helper.make_node("Constant", [], ["a"], value_float=1.0),
        helper.make_node("Constant", [], ["b"], value_ints=[3]),
        helper.make_node("ConstantOfShape", ["b"], ["c"], value=value),
        helper.make_node("MatMul", ["x", "c"], ["y"]),
        helper.make_node("Constant", [], ["d"], value_floats=[1.0, 2.0]),
    ]
    assert [
        (item.name, item.shape, item.dtype_name, item.reason) for item in find_weights(graph_of(nodes)).left_alone
    ] == [
        ("a", (), "float32", "value_float of Constant"),
        ("b", (1,), "int64", "value_ints of Constant"),
        ("c", (1,), "float32", "attribute 'value' of ConstantOfShape, one value repeated: no part of it can be zero"),
        ("d", (2,), "float32", "unused by any node"),
    ]


SUBGRAPHS = """
  y = If (c) <
    then_branch = t () => (float[N] a) <float[2, 2] v = {1, 2, 3, 4}> { h = MatMul(x, w) a = MatMul(h, v) },
    else_branch = e () => (float[N] b) <float[2, 2] v = {1, 2, 3, 4}> { h = Transpose(w) b = Gemm <transB = 1> (x, h) }
  >
"""


def test_weights_in_and_outside_subgraphs() -> None:
    found = find(SUBGRAPHS, inputs="float[N] x, bool c", w=(2, 2))
    assert [weight.name for weight in found.weights] == ["w", "y/then_branch/v"]
    assert found.weights[0].consumers == ("h", "b")
    assert found.weights[0].rows == UnitAxis((2, 2), 1)
    assert [(item.name, item.reason) for item in found.left_alone] == [("y/else_branch/v", "unused by any node")]


def test_what_a_subgraph_returns_is_left_alone() -> None:
    body = """
      y = If (c) <then_branch = t () => (float[N] w) {}, else_branch = e () => (float[N] v) { v = Identity(w) }>
      z = MatMul(x, w)
    """
    found = find(body, inputs="float[N] x, bool c", w=(2, 2))
    assert reason("w", found) == (
        "weight of MatMul, but also output of subgraph y/then_branch and output of subgraph y/else_branch"
    )


def test_an_initializer_fed_by_a_subgraphs_input_is_left_alone() -> None:
    body = helper.make_graph(
        [helper.make_node("MatMul", ["i", "i"], ["o"])],
        "b",
        [helper.make_tensor_value_info("i", TensorProto.FLOAT, [2, 2])],
        [],
        [TensorProto(name="i", dims=[2, 2], data_type=TensorProto.FLOAT)],
    )
    graph = helper.make_graph([helper.make_node("Loop", ["", "", "x"], ["y"], body=body)], "g", [], [])
    assert reason("i", find_weights(helper.make_model(graph))) == "overridden by an input of its subgraph"


def test_names_stay_unique() -> None:
    inner = helper.make_graph([], "b", [], [], [TensorProto(name="w", data_type=1, dims=[1])])
    nodes = [helper.make_node("If", ["c"], ["y"], name="I", then_branch=inner) for _ in range(2)]
    outer = [TensorProto(name=name, data_type=1, dims=[1]) for name in ("w", "w", "w#2", "I/then_branch/w")]
    found = find_weights(helper.make_model(helper.make_graph(nodes, "g", [], [], outer)))
    names = [item.name for item in found.left_alone]
    assert names == ["w", "w#3", "w#2", "I/then_branch/w", "I/then_branch/w#2", "I/then_branch/w#3"]


def sparse_of(name: str, stored: int, *dims: int) -> onnx.SparseTensorProto:
    values = helper.make_tensor(name, TensorProto.FLOAT, [stored], range(stored))
    return helper.make_sparse_tensor(values, helper.make_tensor("", TensorProto.INT64, [stored], range(stored)), dims)


def test_sparse_tensors_are_counted_and_left_alone() -> None:
    model = model_of("y = MatMul(x, s) c = MatMul(x, k)")
    model.graph.sparse_initializer.append(sparse_of("s", 3, 4, 5))
    model.graph.node.append(helper.make_node("Constant", [], ["k"], sparse_value=sparse_of("", 1, 2, 2)))
    left = find_weights(model).left_alone
    assert [(item.shape, item.elements, item.zeros, item.reason) for item in left] == [
        ((4, 5), 20, 17, "stored sparse: decode it first"),
        ((3,), 3, None, "indices of a sparse tensor"),
        ((2, 2), 4, 3, "stored sparse: decode it first"),
        ((1,), 1, None, "attribute 'sparse_value' of Constant"),
    ]


def test_a_dense_tensor_with_the_name_of_a_sparse_one() -> None:
    model = model_of("y = MatMul(x, s)", s=(2, 2))
    model.graph.sparse_initializer.append(sparse_of("s", 1, 2, 2))
    assert find_weights(model).left_alone[0].reason == "a sparse initializer has its name"


@pytest.mark.parametrize(("stored", "dims"), [(5, (2, 2)), (1, (-2, 2)), (1, (2**62, 4)), (1, ())])
def test_a_sparse_tensor_with_more_values_than_places_has_no_zeros(stored: int, dims: tuple[int, ...]) -> None:
    model = model_of("y = MatMul(x, s)")
    model.graph.sparse_initializer.append(sparse_of("s", stored, 1))
    model.graph.sparse_initializer[0].dims[:] = dims
    item = find_weights(model).left_alone[0]
    assert (item.zeros or None, item.reason) == (None, "stored sparse: decode it first")


@pytest.mark.parametrize(
    ("dims", "expected"),
    [((2, -3), "impossible shape"), ((0, 4), "empty tensor"), ((1,) * 70, "impossible shape")],
)
def test_impossible_shapes(dims: tuple[int, ...], expected: str) -> None:
    assert reason("w", find("y = MatMul(x, w)", w=dims)) == expected


def test_absurd_dimensions_are_only_numbers() -> None:
    assert only_weight("v = Reshape(w, s) y = MatMul(x, v)", w=(2**62, 2**62), s=[-1, 4]).elements == 2**124


def test_a_cycle_ends() -> None:
    nodes = [
        helper.make_node("Concat", ["w", "b"], ["a"], axis=0),
        helper.make_node("Unsqueeze", ["a"], ["b"], axes=[0]),
        helper.make_node("Unsqueeze", ["d"], ["d"], axes=[0]),
        helper.make_node("Identity", ["e"], ["e"]),
        helper.make_node("MatMul", ["x", "e"], ["y"]),
    ]
    tensors = [TensorProto(name=name, data_type=1, dims=[2, 2]) for name in "wde"]
    found = find_weights(helper.make_model(helper.make_graph(nodes, "g", [], [], tensors)))
    assert [item.reason for item in found.left_alone] == [
        "joined with computed values by Concat",
        "its name is defined twice in one graph",
        "its name is defined twice in one graph",
    ]


def test_a_name_defined_by_two_nodes_is_not_followed() -> None:
    found = find("v = Identity(w) v = Relu(x) y = MatMul(x, v)", w=(2, 2))
    assert reason("w", found) == "handed on by Identity under a name defined twice"


def test_a_graph_made_to_be_slow_is_cut_short() -> None:
    nodes = [helper.make_node("Concat", ["w0", "w1"], ["c1"], axis=0)]
    nodes += [helper.make_node("Concat", [f"c{i - 1}", f"w{i}"], [f"c{i}"], axis=0) for i in range(2, 2500)]
    nodes.append(helper.make_node("MatMul", ["x", "c2499"], ["y"]))
    tensors = [TensorProto(name=f"w{i}", data_type=1, dims=[2, 2]) for i in range(2500)]
    found = find_weights(helper.make_model(helper.make_graph(nodes, "g", [], [], tensors)))
    assert len(found.weights) + len(found.left_alone) == 2500
    assert {item.reason for item in found.left_alone} == {"used in too many places: not yet covered"}


TOO_MANY = "used in too many places: not yet covered"


def graph_of(nodes: list[onnx.NodeProto], *tensors: TensorProto) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph(nodes, "g", [], [], tensors))


def floats(name: str, *dims: int) -> TensorProto:
    return TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims)


def many_inputs() -> onnx.ModelProto:
    outputs = ["c", *(f"o{i}" for i in range(60_000))]
    return graph_of([onnx.NodeProto(op_type="Concat", input=["w"] * 60_000, output=outputs)], floats("w", 2, 2))


def many_inputs_of_many_weights() -> onnx.ModelProto:
    names = [f"w{i}" for i in range(300)]
    node = onnx.NodeProto(op_type="Concat", input=names * 200, output=["c", *([""] * 60_000)])
    return graph_of([node], *(floats(name, 2, 2) for name in names))


def many_outputs() -> onnx.ModelProto:
    sizes = helper.make_tensor("s", TensorProto.INT64, [60_000], [1] * 60_000)
    node = onnx.NodeProto(op_type="Split", input=["w", "s"], output=[f"o{i}" for i in range(60_000)])
    return graph_of([node], floats("w", 60_000, 2), sizes)


def many_outputs_of_many_weights() -> onnx.ModelProto:
    nodes = [helper.make_node("Concat", [f"w{i}" for i in range(2000)], ["c"], axis=0)]
    nodes += [onnx.NodeProto(op_type="Split", input=["c"], output=[f"o{i}" for i in range(60_000)])]
    return graph_of(nodes, *(floats(f"w{i}", 2, 2) for i in range(2000)))


def one_graph_output_many_times() -> onnx.ModelProto:
    model = graph_of([helper.make_node("Identity", ["w"], ["v"])], floats("w", 2, 2))
    model.graph.output.extend([onnx.ValueInfoProto(name="v")] * 100_000)
    return model


def many_subgraphs_that_give_one_value() -> onnx.ModelProto:
    branch = onnx.GraphProto(output=[onnx.ValueInfoProto(name="c")])
    nodes = [helper.make_node("Concat", [f"w{i}" for i in range(2000)], ["c"], axis=0)]
    nodes += [onnx.NodeProto(op_type="Foo", attribute=[onnx.AttributeProto(name="a", graphs=[branch] * 20_000)])]
    return graph_of(nodes, *(floats(f"w{i}", 2, 2) for i in range(2000)))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (many_inputs, TOO_MANY),
        (many_inputs_of_many_weights, "unused by any node"),
        (many_outputs, TOO_MANY),
        (many_outputs_of_many_weights, TOO_MANY),
        (one_graph_output_many_times, "graph output"),
        (many_subgraphs_that_give_one_value, TOO_MANY),
    ],
)
def test_graphs_that_could_take_the_square_of_their_size(make: Callable[[], onnx.ModelProto], expected: str) -> None:
    model = make()
    with limits():
        found = find_weights(model)
    assert_everything_is_listed(model, found)
    assert found.weights == ()
    assert expected in found.left_alone[0].reason.split(" and ")


def test_a_weight_with_thousands_of_readers_is_one_weight() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], [f"y{i}"]) for i in range(5000)]
    weights = find_weights(graph_of(nodes, floats("w", 4, 4))).weights
    assert [len(weight.consumers) for weight in weights] == [5000]


def test_impossible_shapes_are_not_multiplied_out() -> None:
    with limits(5):
        found = find("y = MatMul(x, w)", w=(2**62,) * 100_000)
    assert found.left_alone[0].reason == "impossible shape"
    assert found.left_alone[0].elements >= 2**63


def test_chains_of_reshapes_to_as_many_axes_as_there_may_be() -> None:
    sizes = helper.make_tensor("s", TensorProto.INT64, [256], [2**61] * 256)
    nodes = [helper.make_node("Reshape", [f"v{i}", "s"], [f"v{i + 1}"]) for i in range(20_000)]
    with limits(10):
        found = find_weights(graph_of(nodes, floats("v0", *[2**61] * 64), sizes))
    assert reason("v0", found) == TOO_MANY


def test_many_duplicates_and_many_sparse_initializers() -> None:
    model = graph_of([], *[floats("w", 1)] * 6000, *[floats("s5", 1)])
    for i in range(6000):
        model.graph.sparse_initializer.add().values.name = f"s{i}"
    with limits(5):
        found = find_weights(model)
    reasons = [item.reason for item in found.left_alone]
    assert reasons[:6000] == ["its name is defined twice in one graph"] * 6000
    assert set(reasons[6000:]) == {"stored sparse: decode it first", "a sparse initializer has its name"}


def test_long_names_taken_twice_are_cut() -> None:
    node = helper.make_node("Constant", [], ["n" * 300_000])
    node.attribute.extend([onnx.AttributeProto(name="value", type=4, t=TensorProto(data_type=1, dims=[1]))] * 15_000)
    with limits():
        found = find_weights(graph_of([node]))
    names = [item.name for item in found.left_alone]
    assert names[1] == "n" * 200 + "...#2"
    assert len(set(names)) == 15_000


def linear(op_type: str = "LinearRegressor", count: int = 40, **attributes: object) -> onnx.ModelProto:
    node = helper.make_node(op_type, ["x"], ["y"], domain="ai.onnx.ml", coefficients=[1.0] * count, **attributes)
    return graph_of([node])


@pytest.mark.parametrize(
    ("model", "outputs"),
    [
        (linear(), 1),
        (linear(targets=4, intercepts=[1.0] * 4), 4),
        (linear("LinearClassifier", intercepts=[1.0] * 5), 5),
        (linear("LinearClassifier", classlabels_ints=[1, 2]), 2),
        (linear("LinearClassifier", classlabels_strings=["a", "b", "c", "d"]), 4),
        (linear("LinearClassifier"), 1),
    ],
)
def test_coefficients_of_linear_models(model: onnx.ModelProto, outputs: int) -> None:
    (weight,) = find_weights(model).weights
    assert (weight.name, weight.shape, weight.optional) == ("y.coefficients", (40,), "linear model")
    assert weight.path[-1][0] == "attribute"
    view = (outputs, 40 // outputs)
    assert (weight.rows, weight.columns) == (UnitAxis(view, 0), UnitAxis(view, 1))


@pytest.mark.parametrize("targets", [0, -1, 7])
def test_coefficients_that_do_not_divide(targets: int) -> None:
    (weight,) = find_weights(linear(targets=targets)).weights
    assert weight.rows_missing == weight.columns_missing == f"40 coefficients do not divide into {targets} outputs"


def test_coefficients_are_left_alone_unless_asked_for() -> None:
    found = find_weights(linear(count=4000))
    assert reason("y.coefficients", select_weights(found, Selection())) == "linear model (--linear-models prunes it)"
    assert len(select_weights(found, Selection(linear_models=True)).weights) == 1


def test_a_local_function_is_not_the_operator_of_its_name() -> None:
    text = """
      <ir_version: 10, opset_import: ["": 20]>
      g (float[N] x) => (float[N] y) <float[2, 2] w = {1, 2, 3, 4}> { v = Identity(w) y = MatMul(x, v) }
      <opset_import: ["": 20], domain: "">
      Identity (a) => (b) { b = Neg(a) }
    """
    found = find_weights(onnx.parser.parse_model(text))
    assert reason("w", found) == "read only by Neg (not a weight slot)"


def test_a_row_may_hand_on_to_several_outputs_and_join(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {
        ("my", "Fork"): PassThrough("Fork", layout._same, outputs=2, domain="my"),
        ("my", "Mix"): PassThrough("Mix", layout._same, inputs=2, joins=True, domain="my"),
    }
    monkeypatch.setattr(layout, "_PASS_THROUGH", layout._PASS_THROUGH | rows)
    weight = only_weight("a, b, c = my.Fork(w) d = MatMul(x, a) y = MatMul(x, b) z = Add(x, c)", w=(4, 4))
    assert weight.consumers == ("d", "y")
    assert [w.name for w in find("v = my.Mix(a, b) y = MatMul(x, v)", a=(4, 4), b=(4, 4)).weights] == ["a", "b"]
    joined = find("v = my.Mix(w, x) y = MatMul(x, v)", w=(4, 4))
    assert reason("w", joined) == "joined with computed values by my Mix"


def test_nameless_and_broken_models() -> None:
    nodes = [helper.make_node("MatMul", ["", ""], [""]), onnx.NodeProto(), helper.make_node("Split", ["w"], [])]
    tensors = [TensorProto(), TensorProto(data_type=1, dims=[2]), TensorProto(name="w", data_type=1, dims=[2])]
    found = find_weights(helper.make_model(helper.make_graph(nodes, "g", [], [], tensors)))
    assert found.weights == ()
    assert len(found.left_alone) == 3
    assert find_weights(onnx.ModelProto()) == FoundWeights((), ())


def test_names_that_are_not_utf8() -> None:
    model = model_of("v = Identity(wwww) y = MMMM(x, v) z = MatMul(x, uuuu)", wwww=(2, 2), uuuu=(4, 4))
    raw = model.SerializeToString()
    for name in (b"wwww", b"uuuu", b"MMMM"):
        raw = raw.replace(name, b"\xff" + name[1:])
    found = find_weights(onnx.ModelProto.FromString(raw))
    assert [weight.name for weight in found.weights] == [r"\xffuuu"]
    assert reason(r"\xffwww", found) == r"read only by \xffMMM (not a weight slot)"


def test_twenty_thousand_nodes_come_in_model_order() -> None:
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(20_000)]
    tensors = [TensorProto(name=f"w{i}", data_type=1, dims=[64, 64]) for i in range(20_000)]
    found = find_weights(helper.make_model(helper.make_graph(nodes, "g", [], [], tensors)))
    assert [weight.name for weight in found.weights] == [f"w{i}" for i in range(20_000)]


MIXED = {"small": (4, 4), "big": (64, 64), "kernel": (512, 1, 3, 3), "tiny": (8, 1, 3, 3), "bias": (64,)}
MIXED_BODY = """
  a = MatMul(x, small) b = Gemm(a, big, bias) c = Conv <group = 512> (b, kernel) y = Conv <group = 8> (c, tiny)
"""


def selected(**options: object) -> tuple[list[str], dict[str, str]]:
    result = select_weights(find(MIXED_BODY, **MIXED), Selection(**options))  # type: ignore[arg-type]
    return [weight.name for weight in result.weights], {item.name: item.reason for item in result.left_alone}


def test_the_defaults_leave_small_and_depthwise_weights_alone() -> None:
    assert selected() == (
        ["big"],
        {
            "small": "fewer than 2,048 elements (--min-elements)",
            "kernel": "depthwise kernel (--depthwise prunes it)",
            "tiny": "depthwise kernel (--depthwise prunes it); fewer than 2,048 elements (--min-elements)",
            "bias": "bias of Gemm",
        },
    )


def test_the_defaults_can_be_switched_off() -> None:
    assert selected(min_elements=0, depthwise=True)[0] == ["small", "big", "kernel", "tiny"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Gather(w, i)", "embedding (--embeddings prunes it)"),
        (TIED, "embedding, tied to MatMul (--embeddings prunes it)"),
        ("y = com.microsoft.EmbedLayerNormalization(x, x, w)", "embedding (--embeddings prunes it)"),
    ],
)
def test_embeddings_are_left_alone_unless_asked_for(body: str, expected: str) -> None:
    found = find(body, w=(600, 8))
    assert reason("w", select_weights(found, Selection())) == expected
    assert len(select_weights(found, Selection(embeddings=True)).weights) == 1


def test_exclude() -> None:
    weights, reasons = selected(exclude=("b*",))
    assert (weights, reasons["big"]) == ([], "excluded by pattern 'b*'")


def test_include() -> None:
    weights, reasons = selected(include=("op:G*mm", "op:MatMul"), min_elements=1)
    assert weights == ["small", "big"]
    assert reasons["kernel"] == "matches no --include pattern"


def test_exclude_wins_over_include() -> None:
    assert selected(include=("*",), exclude=("op:Gemm",))[0] == []


def test_the_defaults_hold_for_included_weights_too() -> None:
    weights, reasons = selected(include=("small",))
    assert weights == []
    assert reasons["small"] == "fewer than 2,048 elements (--min-elements), although --include 'small' matches"


def test_a_full_name_matches_even_with_brackets() -> None:
    model = model_of("y = MatMul(x, w)", w=(64, 64))
    model.graph.initializer[0].name = model.graph.node[0].input[1] = "layers[0].w"
    result = select_weights(find_weights(model), Selection(include=("layers[0].w",)))
    assert len(result.weights) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"include": ("kernle",)}, ["'kernle'", "kernel"]),
        ({"exclude": ("BIG",)}, ["'BIG'", "big"]),
        ({"include": ("op:Convv",)}, ["'op:Convv'", "op:Conv"]),
        ({"exclude": ("bias",)}, ["'bias'", "matches no weight"]),
    ],
)
def test_a_pattern_that_matches_nothing(options: dict[str, tuple[str, ...]], words: list[str]) -> None:
    with pytest.raises(PatternMatchesNothing) as caught:
        selected(**options)
    assert all(word in str(caught.value) for word in words)


def test_a_pattern_for_a_model_without_weights() -> None:
    with pytest.raises(PatternMatchesNothing, match="has no weights"):
        select_weights(FoundWeights((), ()), Selection(include=("w",)))


def corpus_model(name: str) -> onnx.ModelProto:
    folder = os.environ.get("OXIPRUNE_CORPUS")
    if not folder:
        pytest.skip("OXIPRUNE_CORPUS is not set: the real models are not here")
    return onnx.load(Path(folder) / "models" / name / "model.onnx", load_external_data=False)


# (weights, elements, weights and elements after default selection). Elements are the "prunable" column of the corpus'
# Table 2, but for superres: there two 3 x 3 colour matrices (18 elements) in Constant nodes feed MatMul too.
CORPUS = {
    "basic_pitch": (9, 35_313, 4, 32_320),
    "digits_cnn_bn": (5, 355_872, 3, 354_304),
    "digits_resnet_ext": (16, 390_552, 13, 388_224),
    "digits_resnet_fp16": (16, 390_552, 13, 388_224),
    "digits_resnet_int8_qdq": (16, 390_552, 13, 388_224),
    "digits_vit": (18, 527_616, 17, 526_336),
    "gtcrn": (62, 42_064, 2, 24_576),
    "magika_v3_3": (3, 781_376, 3, 781_376),
    "mnist_cntk": (3, 5_960, 2, 5_760),
    "silero_vad": (16, 542_464, 14, 542_208),
    "skl_mlp_zipmap": (3, 12_096, 2, 12_032),
    "superres_ppp_customop": (6, 59_488 + 18, 3, 57_888),
    "ultraface_rfb320": (52, 270_144, 18, 239_872),
}


@pytest.mark.parametrize("name", CORPUS)
def test_weights_of_real_models(name: str) -> None:
    found = find_weights(corpus_model(name))
    chosen = select_weights(found, Selection())
    counts = [(len(each.weights), sum(weight.elements for weight in each.weights)) for each in (found, chosen)]
    assert (*counts[0], *counts[1]) == CORPUS[name]
    assert all(weight.rows is not None and weight.columns is not None for weight in found.weights)
    assert_everything_is_listed(corpus_model(name), found)


def test_the_classifier_of_mnist_has_its_consumers_view() -> None:
    weights = {weight.name: weight for weight in find_weights(corpus_model("mnist_cntk")).weights}
    assert weights["Parameter193"].rows == UnitAxis((256, 10), 1)
    assert weights["Parameter193"].columns == UnitAxis((256, 10), 0)


def test_silero_keeps_its_weights_in_subgraphs() -> None:
    weights = find_weights(corpus_model("silero_vad")).weights
    assert all(any(part == "g" for part, _ in weight.path) for weight in weights)
    lstm = [weight for weight in weights if weight.op_types == ("LSTM",)]
    assert [(weight.rows, weight.columns) for weight in lstm] == [
        (UnitAxis((512, 128), 0), UnitAxis((512, 128), 1))
    ] * 4


def tensors_of(message: object) -> int:
    if isinstance(message, TensorProto):
        return 1
    count = 0
    for field, value in message.ListFields():  # type: ignore[attr-defined]
        if field.message_type is not None:
            count += sum(tensors_of(item) for item in ([value] if hasattr(value, "ListFields") else value))
    return count


def assert_everything_is_listed(model: onnx.ModelProto, found: FoundWeights) -> None:
    """No stored tensor is lost, none comes twice, and each left alone says why."""
    items: list[Weight | LeftAlone] = [*found.weights, *found.left_alone]
    listed = [item.path for item in items if item.path[-1][0] != "attribute"]
    assert len(listed) == len(set(listed)) == tensors_of(model)
    assert len({item.name for item in items}) == len(items)
    assert all(item.reason for item in found.left_alone)


BACKEND_DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"


def test_every_model_of_onnx_is_understood() -> None:
    paths = sorted(BACKEND_DATA.glob("**/model.onnx"))
    if not paths:
        pytest.skip("this onnx package comes without its backend test data")
    for path in paths:
        model = onnx.load(path, load_external_data=False)
        assert_everything_is_listed(model, find_weights(model))
