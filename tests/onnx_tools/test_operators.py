"""The op table and the tracing of axes, against numpy doing the same to numbered elements."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_tools import op_table, operators
from onnx_tools.einsum import operand_runs
from onnx_tools.graph_index import GraphIndex
from onnx_tools.graph_parts import Node, Scope
from onnx_tools.layout import PASS_THROUGH, Layout, pass_through
from onnx_tools.operators import OtherSlot, UnitAxis

HEADER = '<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]> g (float[N] x) => (float[N] y)'


EINSUMS = (
    ("ij,jk->ik", 1, 2, (1, 0)),
    ("ij,jk", 1, 2, (1, 0)),
    ("ij,jk", 0, 2, (0, 1)),
    (" b i j , j k -> b i k ", 1, 2, (1, 0)),
    ("...ij,kj->...ik", 1, 2, (0, 1)),
    ("ij,...jk->...ik", 1, 4, (3, 2)),
    ("ij,k...j->ik...", 1, 3, (0, 2)),
    ("ij,k...j->ik...", 1, 2, (0, 1)),
    ("ij,k...j->ik...", 1, 1, (None, None)),
    ("bij,bjk->bik", 1, 3, (2, 1)),
    ("btd,dnh->btnh", 1, 3, (None, 0)),
    ("btnh,nhd->btd", 1, 3, (2, None)),
    ("ij,jk,kl->il", 2, 2, (1, 0)),
    ("ij,jj->i", 1, 2, (None, None)),
    ("ij,jk->ik", 1, 3, (None, None)),
    ("iJ,Jj->ij", 1, 2, (1, 0)),
)
"""Equation, operand, rank, axes."""


def only_node(text: str, **ints: list[int]) -> Node:
    model = onnx.parser.parse_model(f"{HEADER} {{ {text} }}")
    for name, values in ints.items():
        model.graph.initializer.append(onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [len(values)], values))
    return GraphIndex(model).nodes[-1]


def node_like(row: OtherSlot) -> Node:
    proto = onnx.helper.make_node(row.op_type, ["a"] * 14, ["y"], domain=row.domain)
    return Node(proto, (("node", 0),), Scope(onnx.GraphProto(), ()))


def follow(layout: Layout, text: str, output: int = 0, **ints: list[int]) -> Layout:
    node = only_node(text, **ints)
    row = pass_through(node, 0)
    assert row is not None
    return row.follow(node, output, layout)


def sets_of(units: UnitAxis, total: int) -> set[frozenset[int]]:
    """The units as sets of stored element numbers."""
    view = np.arange(total).reshape(units.view_shape)
    parts = np.split(view, units.groups, axis=0)
    return {
        frozenset(np.take(part, i, units.axis).ravel().tolist())
        for part in parts
        for i in range(part.shape[units.axis])
    }


def slices_of(array: np.ndarray, axis: int) -> set[frozenset[int]]:
    return {frozenset(np.take(array, i, axis).ravel().tolist()) for i in range(array.shape[axis])}


AXES = [
    ("y = MatMul(w, x)", 0, 2, (0, 1)),
    ("y = MatMul(x, w)", 1, 2, (1, 0)),
    ("y = MatMul(w, x)", 0, 4, (2, 3)),
    ("y = MatMul(x, w)", 1, 3, (2, 1)),
    ("y = MatMul(x, w)", 1, 1, (None, 0)),
    ("y = MatMul(w, x)", 0, 1, (None, 0)),
    ("y = Gemm(w, x)", 0, 2, (0, 1)),
    ("y = Gemm <transA = 1> (w, x)", 0, 2, (1, 0)),
    ("y = Gemm(x, w)", 1, 2, (1, 0)),
    ("y = Gemm <transB = 1> (x, w)", 1, 2, (0, 1)),
    ("y = Conv(x, w)", 1, 3, (0, 1)),
    ("y = Conv(x, w)", 1, 4, (0, 1)),
    ("y = Conv(x, w)", 1, 5, (0, 1)),
    ("y = ConvTranspose(x, w)", 1, 4, (1, 0)),
    ("y = LSTM(x, w, r)", 1, 3, (1, 2)),
    ("y = LSTM(x, w, r)", 2, 3, (1, 2)),
    ("y = GRU(x, w, r)", 1, 3, (1, 2)),
    ("y = RNN(x, w, r)", 2, 3, (1, 2)),
    ("y = LSTM(x, w, r)", 1, 2, (1, None)),
    ("y = Conv(x, w)", 1, 0, (None, None)),
    ("y = DeformConv(x, w, x)", 1, 4, (0, 1)),
    ("y = Gather(w, x)", 0, 2, (1, None)),
    ("y = Gather <axis = 1> (w, x)", 0, 2, (0, None)),
    ("y = Gather <axis = -2> (w, x)", 0, 2, (1, None)),
    ("y = Gather <axis = 2> (w, x)", 0, 2, (None, None)),
    *(
        (f"y = com.microsoft.{op} {attributes} {inputs}", index, rank, axes)
        for op in ("FusedMatMul", "FusedMatMulActivation", "TransposeMatMul")
        for attributes, inputs, index, rank, axes in (
            ("", "(w, x)", 0, 3, (1, 2)),
            ("<transA = 1>", "(w, x)", 0, 3, (2, 1)),
            ("<transBatchA = 1>", "(w, x)", 0, 3, (0, 2)),
            ("<transA = 1, transBatchA = 1>", "(w, x)", 0, 4, (3, 0)),
            ("<transA = 1>", "(x, w)", 1, 2, (1, 0)),
            ("<transB = 1>", "(x, w)", 1, 2, (0, 1)),
            ("<transBatchB = 1>", "(x, w)", 1, 4, (3, 0)),
            ("<transB = 1, transBatchB = 1>", "(x, w)", 1, 3, (0, 2)),
            ("<transB = 1>", "(x, w)", 1, 1, (None, 0)),
        )
    ),
    *(
        (f"y = com.microsoft.{op} {attributes} {inputs}", index, 2, axes)
        for op in ("FusedGemm", "GemmFloat8")
        for attributes, inputs, index, axes in (
            ("", "(w, x)", 0, (0, 1)),
            ("<transA = 1>", "(w, x)", 0, (1, 0)),
            ("<transB = 1>", "(x, w)", 1, (0, 1)),
        )
    ),
    ("y = com.microsoft.GemmFastGelu(x, w)", 1, 2, (1, 0)),
    ("y = com.microsoft.FusedConv(x, w)", 1, 4, (0, 1)),
    ("y = com.microsoft.NhwcConv(x, w)", 1, 4, (0, 1)),
    ("y = com.microsoft.NhwcFusedConv(x, w)", 1, 3, (0, 1)),
    ("y = com.microsoft.ConvTransposeWithDynamicPads(x, w, x)", 1, 4, (1, 0)),
    ("y = com.microsoft.Attention(x, w)", 1, 2, (1, 0)),
    ("y = com.microsoft.PackedAttention(x, w)", 1, 2, (1, 0)),
    ("y = com.microsoft.DecoderMaskedSelfAttention(x, w)", 1, 2, (1, 0)),
    ("y = com.microsoft.LongformerAttention(x, w, x, x, w)", 1, 2, (1, 0)),
    ("y = com.microsoft.LongformerAttention(x, x, x, x, w)", 4, 2, (1, 0)),
    ("y = com.microsoft.DecoderAttention(x, x, w, x)", 2, 2, (1, 0)),
    ("y = com.microsoft.DecoderAttention(x, x, x, w)", 3, 2, (1, 0)),
    ("y = com.microsoft.AttnLSTM(x, w)", 1, 3, (1, 2)),
    ("y = com.microsoft.AttnLSTM(x, x, w)", 2, 3, (1, 2)),
    *((f"y = com.microsoft.AttnLSTM({'x, ' * index} w)", index, 3, (2, 1)) for index in (8, 9, 13)),
    *((f"y = com.microsoft.MoE({'x, ' * index} w)", index, 3, (1, 2)) for index in (2, 4, 6)),
    ("y = com.microsoft.MoE(x, x, w)", 2, 2, (None, None)),
    *((f"y = com.microsoft.EmbedLayerNormalization({'x, ' * index} w)", index, 2, (1, None)) for index in (2, 3, 4)),
    ("y = com.microsoft.TorchEmbedding(w, x)", 0, 2, (1, None)),
    ("y = QLinearConv(x, s, z, w, s, z, s, z)", 3, 4, (0, 1)),
    ("y = com.microsoft.QLinearConv(x, s, z, w, s, z, s, z)", 3, 4, (0, 1)),
    ("y = QLinearMatMul(w, s, z, x, s, z, s, z)", 0, 2, (0, 1)),
    ("y = QLinearMatMul(x, s, z, w, s, z, s, z)", 3, 3, (2, 1)),
    ("y = MatMulInteger(w, x)", 0, 2, (0, 1)),
    ("y = MatMulInteger(x, w)", 1, 2, (1, 0)),
    ("y = ConvInteger(x, w)", 1, 4, (0, 1)),
    ("y = com.microsoft.MatMulIntegerToFloat(x, w, s, s)", 1, 2, (1, 0)),
    ("y = com.microsoft.DynamicQuantizeMatMul(x, w, s)", 1, 2, (1, 0)),
    ("y = com.microsoft.QGemm <transA = 1> (w, s, z, x, s, z)", 0, 2, (1, 0)),
    ("y = com.microsoft.QGemm <transB = 1> (x, s, z, w, s, z)", 3, 2, (0, 1)),
    ("y = com.microsoft.QAttention(x, w, b, s, s)", 1, 2, (1, 0)),
    ("y = com.microsoft.MatMulNBits(x, w, s)", 1, 2, (0, 1)),
    ("y = com.microsoft.DynamicQuantizeLSTM(x, w, r)", 1, 3, (2, 1)),
    ("y = com.microsoft.DynamicQuantizeLSTM(x, w, r)", 2, 3, (2, 1)),
    ("y = com.microsoft.GatherBlockQuantized(w, x, s)", 0, 2, (1, None)),
    ("y = com.microsoft.GatherBlockQuantized <gather_axis = -1> (w, x, s)", 0, 2, (0, None)),
    ("y = com.microsoft.GatherBlockQuantized(w, x, s)", 0, 3, (None, None)),
    *((f"y = com.microsoft.QEmbedLayerNormalization({'x, ' * index} w)", index, 2, (1, None)) for index in (2, 3, 4)),
    *(
        (f'y = Einsum <equation = "{text}"> ({"x, " * index} w)', index, rank, axes)
        for text, index, rank, axes in EINSUMS
    ),
]
"""A node, which input is the weight, its rank, its (output, reduction) axes."""


@pytest.mark.parametrize(("text", "index", "rank", "axes"), AXES)
def test_axes_of_a_weight(text: str, index: int, rank: int, axes: tuple[int | None, int | None]) -> None:
    node = only_node(text)
    slot = op_table.weight_slot(node, index)
    assert slot is not None
    assert slot.axes(node, rank) == axes


def test_every_weight_slot_has_a_case_above() -> None:
    nodes = [(only_node(text), index) for text, index, _, _ in AXES]
    covered = {(node.domain, node.op_type, index) for node, index in nodes}
    slots = {(slot.domain, slot.op_type, slot.index) for slot in op_table.WEIGHT_SLOTS if slot.op_type != "Einsum"}
    assert slots - covered == {("", "GRU", 2), ("", "RNN", 1)}, "which have the row of the LSTM"


@pytest.mark.parametrize(
    "equation", ["", "ij", "ij,jk->ik,", "i j", "ij->ji", "i,j->ij", "bij,bij->bij", "ij,1k->ik", "..", "->", "é,é->"]
)
def test_equations_in_which_the_second_operand_is_no_weight(equation: str) -> None:
    node = only_node(f'y = Einsum <equation = "{equation}"> (x, w)')
    assert op_table.weight_slot(node, 1) is None
    row = op_table.other_slot(node, 1)
    assert row is not None
    assert row.what == "operand that is summed with no other"


def test_an_equation_as_long_as_a_book_is_not_read() -> None:
    node = only_node("y = Einsum(x, w)")
    node.proto.attribute.append(onnx.helper.make_attribute("equation", "ij," * 1_000_000 + "jk"))
    assert op_table.weight_slot(node, 1) is None


@pytest.mark.parametrize(
    ("equation", "rank", "runs"),
    [
        ("btd,dnh->btnh", 3, (range(1, 3), range(1))),
        ("btnh,nhd->btd", 3, (range(2, 3), range(2))),
        ("btnh,nhd->bt", 3, (None, range(2))),
        ("bthn,nhd->btd", 3, (range(2, 3), None)),
        ("btd,dnh->bthn", 3, (None, range(1))),
        ("btd,ndh->btnh", 3, (None, range(1, 2))),
        ("bac,a...c->b", 3, (None, None)),
        ("bac,...ac->b...", 4, (None, range(2, 4))),
        ("bac,d,acd->b", 1, (None, range(1))),
        ("btd,dnh->btnh", 2, (None, None)),
    ],
)
def test_neighbouring_axes_of_an_equation(equation: str, rank: int, runs: tuple[range | None, range | None]) -> None:
    assert operand_runs(equation, 1, rank) == runs


@pytest.mark.parametrize(
    ("bias", "axes"), [((4, 6), (1, 2)), ((4, 8), (2, 1)), ((4, 5), (1, 2)), ((6,), (1, 2)), (None, (1, 2))]
)
def test_experts_whose_bias_shows_the_older_layout(
    bias: tuple[int, ...] | None, axes: tuple[int | None, int | None]
) -> None:
    model = onnx.parser.parse_model(f"{HEADER} {{ y = com.microsoft.MoE(x, x, w, b) }}")
    for name, shape in (("w", (4, 6, 8)), ("b", bias)):
        if shape is not None:
            model.graph.initializer.add(name=name, dims=shape, data_type=1)
    node = GraphIndex(model).nodes[-1]
    slot = op_table.weight_slot(node, 2)
    assert slot is not None
    assert slot.axes(node, 3) == axes


def test_no_input_has_two_rows() -> None:
    keys = [(slot.domain, slot.op_type, slot.index) for slot in op_table.WEIGHT_SLOTS if slot.when is None]
    for row in (*op_table.OTHER_SLOTS, *op_table.UNCOVERED_SLOTS):
        keys += [(row.domain, row.op_type, index) for index in row.indices]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("row", op_table.OTHER_SLOTS, ids=lambda row: f"{row.domain} {row.op_type} {row.what}")
def test_rows_of_what_is_no_weight_are_found(row: OtherSlot) -> None:
    node = node_like(row)
    for index in row.indices or range(14):
        assert op_table.other_slot(node, index) == row
        assert op_table.weight_slot(node, index, rank=3) is None


@pytest.mark.parametrize("row", op_table.UNCOVERED_SLOTS, ids=lambda row: f"{row.domain} {row.op_type} {row.what}")
def test_rows_of_what_is_not_covered_are_found(row: OtherSlot) -> None:
    node = node_like(row)
    for index in row.indices or range(14):
        assert op_table.uncovered_slot(node, index) == row
        assert op_table.weight_slot(node, index) is None


def test_rows_name_operators_and_inputs_that_exist() -> None:
    for row in (*op_table.WEIGHT_SLOTS, *op_table.OTHER_SLOTS, *op_table.UNCOVERED_SLOTS, *PASS_THROUGH):
        if row.domain or row.op_type.startswith(("Simplified", "Skip")):
            continue
        schema = onnx.defs.get_schema(row.op_type)
        indices = getattr(row, "indices", ()) or (getattr(row, "index", 0),)
        assert max(indices) < schema.max_input


def test_rows_name_operators_of_onnxruntime_that_exist() -> None:
    native = pytest.importorskip("onnxruntime.capi.onnxruntime_pybind11_state")
    if not hasattr(native, "get_all_operator_schema"):
        pytest.skip("this onnxruntime does not tell its operators")
    schemas = {schema.name: schema for schema in native.get_all_operator_schema() if schema.domain == operators.CONTRIB}
    elsewhere = {"SimplifiedLayerNormalization", "LayerNormalization"}  # of ai.onnx there, whatever exporters write
    rows = (*op_table.WEIGHT_SLOTS, *op_table.OTHER_SLOTS, *op_table.UNCOVERED_SLOTS)
    for row in (row for row in rows if row.domain == operators.CONTRIB and row.op_type not in elsewhere):
        indices = row.indices if isinstance(row, OtherSlot) else (row.index,)
        assert max(indices, default=0) < len(schemas[row.op_type].inputs), row


def test_the_domain_counts() -> None:
    assert op_table.weight_slot(only_node("y = com.microsoft.Conv(x, w)"), 1) is None
    assert op_table.weight_slot(only_node("y = ai.onnx.Conv(x, w)"), 1) is not None


@pytest.mark.parametrize(
    ("text", "shape", "depthwise"),
    [
        ("y = Conv <group = 8> (x, w)", (8, 1, 3, 3), True),
        ("y = Conv <group = 8> (x, w)", (16, 1, 3), True),
        ("y = Conv <group = 4> (x, w)", (8, 2, 3, 3), False),
        ("y = Conv(x, w)", (8, 1, 3, 3), False),
        ("y = ConvTranspose <group = 8> (x, w)", (8, 1, 3, 3), True),
        ("y = ConvTranspose <group = 4> (x, w)", (8, 1, 3, 3), False),
        ("y = Conv <group = 8> (x, w)", (8,), False),
    ],
)
def test_depthwise(text: str, shape: tuple[int, ...], depthwise: bool) -> None:
    node = only_node(text)
    slot = op_table.weight_slot(node, 1)
    assert slot is not None
    assert slot.is_depthwise(node, shape) is depthwise


@pytest.mark.parametrize(
    ("start", "text", "ints", "shape"),
    [
        ((4, 6), "y = Reshape(w, s)", {"s": [0, -1]}, (4, 6)),
        ((4, 6), "y = Reshape(w, s)", {"s": [2, 2, -1]}, (2, 2, 6)),
        ((16, 4, 4, 10), "y = Reshape(w, s)", {"s": [256, 10]}, (256, 10)),
        ((4, 6), "y = Transpose(w)", {}, (6, 4)),
        ((4, 6, 2), "y = Transpose <perm = [2, 0, 1]> (w)", {}, (2, 4, 6)),
        ((4, 6, 2), "y = Flatten <axis = -1> (w)", {}, (24, 2)),
        ((4, 6, 2), "y = Flatten <axis = 0> (w)", {}, (1, 48)),
        ((1, 4, 1, 6), "y = Squeeze(w)", {}, (4, 6)),
        ((1, 4, 1, 6), "y = Squeeze(w, s)", {"s": [-2]}, (1, 4, 6)),
        ((1, 4, 6), "y = Squeeze <axes = [0]> (w)", {}, (4, 6)),
        ((4, 6), "y = Unsqueeze(w, s)", {"s": [0, -1]}, (1, 4, 6, 1)),
        ((4, 6), "y = Slice(w, s, e)", {"s": [1], "e": [3]}, (2, 6)),
        ((4, 6), "y = Slice(w, s, e, a, t)", {"s": [-1], "e": [-9], "a": [1], "t": [-2]}, (4, 3)),
        ((4, 6), "y = Slice <starts = [0], ends = [99], axes = [1]> (w)", {}, (4, 6)),
        ((4, 6), "y = Slice(w, s, e, a)", {"s": [0], "a": [1]}, (4, None)),
        ((4, 6), "y = Slice(w, s, e, a)", {"s": [0], "e": [2]}, (None, None)),
        ((4, 6), "y, z = Split <axis = 1> (w, s)", {"s": [2, 4]}, (4, 2)),
        ((4, 6), "y, z = Split <axis = 1, num_outputs = 2> (w)", {}, (4, None)),
        ((4, 6), "y = Concat <axis = 0> (w, v)", {}, (None, 6)),
        ((4,), "y = Concat <axis = 0> (w, v)", {"w": [1] * 4, "v": [1] * 5}, (9,)),
        ((4, 6), "y = Concat <axis = 0> (w)", {}, (4, 6)),
        ((4, 6), "y = Identity(w)", {}, (4, 6)),
        ((4, 6), "y = Cast <to = 10> (w)", {}, (4, 6)),
        ((4, 6), "y = CastLike(w, x)", {}, (4, 6)),
        ((4, 6), "y = Dropout(w)", {}, (4, 6)),
        ((4, 1), "y = Expand(w, s)", {"s": [1, 4, 1]}, (1, 4, 1)),
        ((4, 6), "y = Expand(w, s)", {"s": [6]}, (4, 6)),
        ((4, 6), "y = Gather(w, s)", {"w": [1], "s": [0, 2, 2]}, (3, 6)),
        ((4, 6), "y = Gather <axis = -1> (w, s)", {"w": [1], "s": [0]}, (4, 1)),
    ],
)
def test_shapes_are_followed(start: tuple[int, ...], text: str, ints: dict[str, list[int]], shape: object) -> None:
    assert follow(Layout.of(start), text, **ints).shape == shape


@pytest.mark.parametrize(
    ("text", "ints"),
    [
        ("y = Reshape(w, s)", {}),
        ("y = Reshape(w, s)", {"s": [5, -1]}),
        ("y = Reshape(w, s)", {"s": [-1, -1]}),
        ("y = Reshape(w, s)", {"s": [-7, 2]}),
        ("y = Reshape <allowzero = 1> (w, s)", {"s": [0, -1]}),
        ("y = Transpose <perm = [0, 0]> (w)", {}),
        ("y = Transpose <perm = [0, 7]> (w)", {}),
        ("y = Flatten <axis = 9> (w)", {}),
        ("y = Squeeze(w, s)", {}),
        ("y = Unsqueeze(w, s)", {}),
        ("y = Unsqueeze(w, s)", {"s": [0, 0]}),
        ("y = Unsqueeze(w, s)", {"s": [9]}),
        ("y = Slice(w, s, e, a)", {"s": [0], "e": [1], "a": [5]}),
        ("y = Split <axis = 4> (w)", {}),
        ("y = Expand(w, s)", {}),
        ("y = Expand(w, s)", {"s": [2, 4, 6]}),
        ("y = Expand(w, s)", {"s": [4, 7]}),
        ("y = Gather <axis = 5> (w, s)", {"w": [1], "s": [0]}),
        ("y = Concat <axis = -3> (w, v)", {}),
    ],
)
def test_what_does_not_fit_loses_the_axes_and_says_why(text: str, ints: dict[str, list[int]]) -> None:
    layout = follow(Layout.of((4, 6)), text, **ints)
    assert layout.axes is None
    assert "'y'" in str(layout.unit_axis(0))


@pytest.mark.parametrize("text", ["y = Cast <to = 7> (w)", "y = Dropout(w, r, t)", "y = Relu(w)", "y = Gather(w, i)"])
def test_what_changes_the_values_is_not_passed(text: str) -> None:
    assert pass_through(only_node(text), 0) is None


def test_only_the_data_input_is_passed() -> None:
    assert pass_through(only_node("y = Reshape(x, w)"), 1) is None
    assert pass_through(only_node("y = Concat <axis = 0> (x, w)"), 1) is not None


@st.composite
def chains(draw: st.DrawFn) -> tuple[tuple[int, ...], list[tuple[str, list[int]]]]:
    """A stored shape and random transposes and reshapes of it."""
    shape = current = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)))
    steps = []
    for _ in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            perm = draw(st.permutations(range(len(current))))
            steps.append(("Transpose", list(perm)))
            current = tuple(current[i] for i in perm)
        else:
            target, rest = [], prod(current)
            while rest > 1 and len(target) < 4:
                target.append(draw(st.sampled_from([n for n in range(1, rest + 1) if rest % n == 0])))
                rest //= target[-1]
            current = (*target, rest)
            steps.append(("Reshape", list(current)))
    return shape, steps


@settings(max_examples=150, deadline=None)
@given(chains())
def test_traced_units_are_the_ones_numpy_sees(chain: tuple[tuple[int, ...], list[tuple[str, list[int]]]]) -> None:
    shape, steps = chain
    layout, array = Layout.of(shape), np.arange(prod(shape)).reshape(shape)
    for op_type, numbers in steps:
        if op_type == "Transpose":
            layout, array = follow(layout, f"y = Transpose <perm = {numbers}> (w)"), array.transpose(numbers)
        else:
            layout, array = follow(layout, "y = Reshape(w, s)", s=numbers), array.reshape(numbers)
        assert layout.shape == array.shape
    for axis in range(array.ndim):
        units = layout.unit_axis(axis)
        if isinstance(units, UnitAxis):
            assert sets_of(units, prod(shape)) == slices_of(array, axis)
        else:
            assert any(op_type == "Transpose" for op_type, _ in steps)


def test_reshapes_only_take_the_consumers_view() -> None:
    layout = follow(Layout.of((16, 4, 4, 10)), "y = Reshape(w, s)", s=[256, 10])
    assert layout.unit_axis(1) == UnitAxis((256, 10), 1)
    assert layout.unit_axis(0) == UnitAxis((256, 10), 0)


def test_a_transposed_axis_is_found_in_the_stored_shape() -> None:
    assert follow(Layout.of((4, 6)), "y = Transpose(w)").unit_axis(0) == UnitAxis((4, 6), 1)


def test_an_axis_whose_pieces_lie_apart_has_no_units() -> None:
    layout = follow(Layout.of((4, 3, 5)), "y = Transpose <perm = [0, 2, 1]> (w)")
    layout = follow(layout, "y = Reshape(w, s)", s=[4, 15])
    assert layout.unit_axis(0) == UnitAxis((4, 3, 5), 0)
    assert layout.unit_axis(1) == "the axis is mixed with others by Reshape"


def test_slice_and_concat_keep_the_axis() -> None:
    layout = follow(Layout.of((8, 6)), "y = Slice(w, s, e)", s=[0], e=[4])
    layout = follow(layout, "y = Concat <axis = 0> (w, v)")
    layout = follow(layout, "y = Unsqueeze(w, s)", s=[0])
    assert layout.unit_axis(1, groups=1) == UnitAxis((8, 6), 0)
    assert layout.unit_axis(2, groups=1) == UnitAxis((8, 6), 1)


def test_a_cut_axis_survives_reshape_only_whole() -> None:
    layout = follow(Layout.of((8, 6, 2)), "y = Slice(w, s, e)", s=[0], e=[4])
    merged = follow(layout, "y = Reshape(w, s)", s=[4, 12])
    assert merged.unit_axis(0) == UnitAxis((8, 6, 2), 0)
    assert merged.unit_axis(1) == UnitAxis((8, 12, 1), 1)
    assert isinstance(follow(layout, "y = Reshape(w, s)", s=[24, 2]).unit_axis(0), str)


def test_grouped_units_lie_in_their_group() -> None:
    units = Layout.of((6, 2, 3)).unit_axis(1, groups=3)
    assert units == UnitAxis((6, 2, 3), 1, 3)
    assert isinstance(units, UnitAxis)
    assert units.units == 6
    assert frozenset({0, 1, 2, 6, 7, 8}) in sets_of(units, 36)


def test_grouped_units_behind_a_transpose() -> None:
    layout = follow(Layout.of((6, 3, 2)), "y = Transpose <perm = [0, 2, 1]> (w)")
    units = layout.unit_axis(1, groups=3)
    assert isinstance(units, UnitAxis)
    array = np.arange(36).reshape(6, 3, 2).transpose(0, 2, 1)
    wanted = set().union(*(slices_of(part, 1) for part in np.split(array, 3)))
    assert sets_of(units, 36) == wanted


@pytest.mark.parametrize("groups", [0, -1, 4])
def test_groups_that_do_not_divide(groups: int) -> None:
    assert f"into {groups} groups" in str(Layout.of((6, 2, 3)).unit_axis(1, groups))


def test_groups_along_a_cut_axis_are_not_traced() -> None:
    layout = follow(Layout.of((8, 2, 3)), "y = Slice(w, s, e)", s=[0], e=[4])
    assert "groups" in str(layout.unit_axis(1, groups=2))


def test_groups_that_moved_inside_are_not_traced() -> None:
    layout = follow(Layout.of((2, 8, 3)), "y = Transpose <perm = [1, 0, 2]> (w)")
    assert "groups" in str(layout.unit_axis(1, groups=2))


def test_partitions_are_equal_for_equal_units() -> None:
    assert UnitAxis((16, 4, 4, 10), 3).partition() == UnitAxis((256, 10), 1).partition()
    assert UnitAxis((6, 2, 3), 1, 3).partition() == UnitAxis((6, 1, 2, 3), 2, 3).partition()
    assert UnitAxis((6, 2, 3), 1, 3).partition() != UnitAxis((6, 2, 3), 1).partition()
    assert UnitAxis((1, 12), 0).partition() == UnitAxis((3, 1, 4), 1).partition()
