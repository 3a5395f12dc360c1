"""Rows and columns are the right ones, as onnxruntime computes: a row of zeros silences an output channel, and with a
column of zeros an input channel makes no difference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_tools.operators import UnitAxis
from onnx_tools.weights import Weight, find_weights

ort = pytest.importorskip("onnxruntime")

OPSETS = '"": 19, "com.microsoft": 1, "my": 1'
FUNCTIONS = """
<opset_import: ["": 19, "my": 1], domain: "my"> Outer <t> (e, f) => (g) { g = my.Inner <t : int = @t> (e, f) }
<opset_import: ["": 19], domain: "my"> Inner <t : int = 0> (e, f) => (g) { g = Gemm <transB : int = @t> (e, f) }
"""
LOOP = """
  y, same = Loop (n, c, x, w) <
    body = b (int64 j, bool k, float[3, 6] u, float[6, 6] m) => (bool ko, float[3, 6] uo, float[6, 6] mo) {
      ko = Identity (k) uo = MatMul (u, m) mo = Identity (m)
    }
  >
"""
Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """`node`: reads `w`, of shape `weight`, and `x`, and gives `y`; its channels lie along `x_axis` and `y_axis`.

    None: it has no such axis. Rows before `first_row` are not seen as a channel of `y` (Q and K of an attention).
    `more`: other stored tensors, by their shapes.
    """

    node: str
    weight: tuple[int, ...]
    x: tuple[int, ...]
    x_axis: int | None
    y_axis: int | None
    first_row: int = 0
    more: dict[str, tuple[int, ...]] = field(default_factory=dict)


CASES = [
    Case("y = com.microsoft.FusedMatMul(x, w)", (6, 5), (2, 3, 6), -1, -1),
    Case("y = com.microsoft.FusedMatMul <transB = 1> (x, w)", (5, 6), (2, 3, 6), -1, -1),
    Case("y = com.microsoft.FusedMatMul <transBatchB = 1, transBatchA = 1> (x, w)", (6, 2, 5), (3, 2, 6), -1, -1),
    Case(
        "y = com.microsoft.FusedMatMul <transB = 1, transBatchB = 1, transBatchA = 1> (x, w)",
        (5, 2, 6),
        (3, 2, 6),
        -1,
        -1,
    ),
    Case("y = com.microsoft.FusedMatMul <transA = 1> (w, x)", (6, 5), (6, 4), 0, 0),
    Case("y = com.microsoft.FusedMatMul <transA = 1, transBatchA = 1> (w, x)", (6, 2, 5), (2, 6, 4), 1, 1),
    Case("y = com.microsoft.FusedMatMul <transBatchA = 1> (w, x)", (5, 2, 6), (2, 6, 4), 1, 1),
    Case("y = com.microsoft.TransposeMatMul <transB = 1> (x, w)", (5, 6), (3, 6), -1, -1),
    Case('y = com.microsoft.FusedGemm <transB = 1, activation = "Relu"> (x, w)', (5, 6), (3, 6), 1, 1),
    Case('y = com.microsoft.FusedGemm <transA = 1, activation = "Relu"> (w, x)', (6, 5), (6, 4), 0, 0),
    Case('y = com.microsoft.FusedConv <activation = "Relu"> (x, w)', (5, 4, 3, 3), (1, 4, 6, 6), 1, 1),
    Case('y = com.microsoft.FusedConv <activation = "Relu", group = 2> (x, w)', (6, 2, 3, 3), (1, 4, 6, 6), 1, 1),
    Case("y = com.microsoft.ConvTransposeWithDynamicPads(x, w, p)", (4, 5, 3, 3), (1, 4, 6, 6), 1, 1),
    Case("y = com.microsoft.Attention <num_heads = 2> (x, w)", (6, 12), (1, 3, 6), 2, 2, first_row=8),
    Case(
        "y = com.microsoft.Attention <num_heads = 2, qkv_hidden_sizes = [4, 4, 8]> (x, w, b)",
        (6, 16),
        (1, 3, 6),
        2,
        2,
        first_row=8,
        more={"b": (16,)},
    ),
    Case("y = ConvTranspose <group = 2> (x, w)", (4, 3, 3), (1, 4, 6), 1, 1),
    Case(
        "y = DeformConv <kernel_shape = [2, 2], group = 2> (x, w, o)",
        (6, 2, 2, 2),
        (1, 4, 3, 3),
        1,
        1,
        more={"o": (1, 8, 2, 2)},
    ),
    Case("i = Cast <to = 7> (x) y = Gather(w, i)", (7, 5), (3,), None, 1),
    Case("i = Cast <to = 7> (x) y = Gather <axis = 1> (w, i)", (5, 7), (3,), None, 0),
    Case('y = Einsum <equation = "bti,oi->bto"> (x, w)', (5, 6), (2, 3, 6), 2, 2),
    Case('y = Einsum <equation = "oi,...i->...o"> (w, x)', (5, 6), (2, 3, 6), 2, 2),
    Case('z = Einsum <equation = "bti,ihd->bthd"> (x, w) y = Reshape(z, r)', (6, 2, 3), (2, 3, 6), 2, 2),
    Case('x4 = Reshape(x, q) y = Einsum <equation = "bthd,hdo->bto"> (x4, w)', (2, 3, 5), (2, 3, 6), 2, 2),
    Case("y = my.Outer <t = 1> (x, w)", (5, 6), (3, 6), 1, 1),
    Case("y = my.Outer <t = 0> (x, w)", (6, 5), (3, 6), 1, 1),
    Case(LOOP, (6, 6), (3, 6), 1, 1),
    Case('y = Einsum <equation = "bti,bio->bto"> (x, w)', (2, 6, 5), (2, 3, 6), 2, 2),
    Case("v = Mul(w, k) y = MatMul(x, v)", (6, 5), (3, 6), 1, 1, more={"k": (1,)}),
    Case("v = Gather(w, j) y = MatMul(x, v)", (2, 6, 5), (3, 6), 1, 1),
]


def stored(case: Case) -> dict[str, Array]:
    """Positive numbers, so that no channel is silent by chance, and none that sums cancel."""
    rng = np.random.default_rng(3)
    made = {name: rng.uniform(0.5, 1, shape).astype(np.float32) for name, shape in case.more.items()}
    if "b" in made:
        made["b"][:] = 0
    integers = {"p": np.zeros(4, np.int64), "j": np.array(1), "n": np.array(1), "c": np.array(True)}
    integers |= {"r": np.array([2, 3, 6]), "q": np.array([2, 3, 2, 3])}
    return {"w": rng.uniform(0.5, 1, case.weight).astype(np.float32), **made, **integers}


def model_of(case: Case) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f"<ir_version: 9, opset_import: [{OPSETS}]> g (float[{', '.join(map(str, case.x))}] x) => (float[...] y)"
        f"{{ {case.node} }}".replace("float[...] y", "float y")
        + (FUNCTIONS if "my." in case.node else "")
    )
    names = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in stored(case).items() if name in names
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def run(model: onnx.ModelProto, weight: Array, x: Array) -> Array:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(changed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {"x": x} if any(i.name == "x" for i in session.get_inputs()) else {}
    return np.asarray(session.run(["y"], feeds)[0])


def without(weight: Array, axis: UnitAxis, unit: int) -> Array:
    """The weight with one of its units zero."""
    changed = weight.copy()
    view = changed.reshape(axis.view_shape)
    group, place = divmod(unit, axis.view_shape[axis.axis])
    size = axis.view_shape[0] // axis.groups
    part = view[group * size : (group + 1) * size] if axis.groups > 1 else view
    part[(slice(None),) * axis.axis + (place,)] = 0
    return changed


def found(case: Case) -> Weight:
    return next(weight for weight in find_weights(model_of(case)).weights if weight.name == "w")


def given(case: Case) -> Array:
    return np.random.default_rng(4).uniform(0.5, 1, case.x).astype(np.float32)


with_rows = [case for case in CASES if case.y_axis is not None]
with_columns = [case for case in CASES if case.x_axis is not None]


@pytest.mark.parametrize("case", with_rows, ids=lambda case: case.node)
def test_a_row_is_an_output_channel(case: Case) -> None:
    rows, weight, model = found(case).rows, stored(case)["w"], model_of(case)
    assert rows is not None
    assert case.y_axis is not None
    y = run(model, weight, given(case))
    assert rows.units - case.first_row == y.shape[case.y_axis]
    for unit in range(case.first_row, rows.units):
        silent = run(model, without(weight, rows, unit), given(case))
        zero = np.all(silent == 0, axis=tuple(np.delete(np.arange(y.ndim), case.y_axis)))
        assert np.flatnonzero(zero).tolist() == [unit - case.first_row]


@pytest.mark.parametrize("case", with_columns, ids=lambda case: case.node)
def test_a_column_is_an_input_channel(case: Case) -> None:
    columns, weight, model = found(case).columns, stored(case)["w"], model_of(case)
    assert columns is not None
    assert case.x_axis is not None
    assert columns.units == case.x[case.x_axis]
    for unit in range(columns.units):
        x = given(case)
        pruned = run(model, without(weight, columns, unit), x)
        np.moveaxis(x, case.x_axis, 0)[unit] *= -7
        assert np.array_equal(run(model, without(weight, columns, unit), x), pruned)
        assert not np.array_equal(run(model, weight, x), run(model, weight, given(case)))
