"""Which weights are observed: shared ones, parts of others, those in subgraphs; and why the rest are not."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_tools.calibration.observed import observe
from tests.onnx_tools.calibration_cases import products, rows_of, small, written

ort = pytest.importorskip("onnxruntime")


def model_of(text, inputs="float[3, 6] x, float[3, 6] z, bool c", **stored):
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 19, "com.microsoft": 1, "my": 1]> g ({inputs}) => (float y) {{ {text} }}'
    )
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in stored.items())
    return model


def reason_for(model, name="w"):
    return {each.name: each.reason for each in observe(model).unobserved}[name]


W = small((6, 6), 1)
FEED = {"x": small((3, 6), 2), "z": small((3, 6), 3), "c": np.array(True)}


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a = MatMul (x, w) b = MatMul (z, w) y = Add (a, b)", [FEED["x"], FEED["z"]]),
        ("a = MatMul (x, w) t = Transpose (w) b = Gemm <transB = 1> (z, t) y = Add (a, b)", [FEED["x"], FEED["z"]]),
        ("a = MatMul (x, w) b = MatMul (x, w) y = Add (a, b)", [FEED["x"]]),
        ("i = Cast <to = 7> (c) a = Gather (w, i) b = MatMul (x, w) y = Add (a, b)", [FEED["x"]]),
        (
            "a, b = Split <axis = 1, num_outputs = 2> (w) m = MatMul (x, a) n = MatMul (x, b) y = Add (m, n)",
            [FEED["x"]],
        ),
    ],
    ids=["both readers", "transposed for one", "the same input", "looked up too", "parts of the outputs"],
)
def test_shared_weights(text, rows, tmp_path):
    model = model_of(text, w=W)
    (seen,) = observe(model).weights
    assert np.array_equal(rows_of(written(model, tmp_path), seen, FEED)[0], np.concatenate(rows))
    assert np.array_equal(seen.view.matrices(W)[0], W.T)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a = MatMul (x, w) b = Gemm <transB = 1> (z, w) y = Add (a, b)", "see different matrices in it"),
        (
            "a, b = Split <axis = 1, num_outputs = 2> (w) m = MatMul (x, a) n = MatMul (z, b) y = Add (m, n)",
            "read different parts of it and have different inputs",
        ),
        ("a, b = Split <axis = 0, num_outputs = 2> (w) y = MatMul (x, a)", "a part of its inputs only"),
        ("i = Cast <to = 7> (c) y = Gather (w, i)", "looked up"),
        ('y = Einsum <equation = "ab,bc,cd->ad"> (x, w, w)', "not one of two operands"),
        ('y = Einsum <equation = "ac,bc->b"> (x, w)', "sums an operand by itself"),
        ("y = DeformConv (x, w, z)", "what DeformConv multiplies it with is not seen from outside"),
        (
            "y = If (c) < then_branch = t () => (float[3, 6] u) { v = Relu (x) u = MatMul (v, w) },"
            " else_branch = e () => (float[3, 6] u) { u = Identity (x) } >",
            "in .*then_branch, whose values are not seen",
        ),
    ],
)
def test_unobserved_weights(text, reason):
    assert re.search(reason, reason_for(model_of(text, w=W)))


def test_a_node_in_a_branch_is_observed_if_its_input_lies_outside(tmp_path):
    model = model_of(
        "v = Relu (x) y = If (c) < then_branch = t () => (float[3, 6] u) { u = MatMul (v, w) },"
        " else_branch = e () => (float[3, 6] u) { u = Identity (v) } >",
        w=W,
    )
    (seen,) = observe(model).weights
    assert np.array_equal(rows_of(written(model, tmp_path), seen, FEED)[0], np.maximum(FEED["x"], 0))


def test_functions():
    """A node in a local function is observed if its input is one of the call's."""
    body = onnx.parser.parse_function(
        '<opset_import: ["": 19], domain: "my"> F (a, b) => (c) { d = MatMul (a, b) c = MatMul (d, b) }'
    )
    model = model_of("y = my.F (x, w)", w=W)
    model.functions.append(body)
    assert "not seen from outside" in reason_for(model)
    body.node[1].input[0] = "a"
    del model.functions[:]
    model.functions.append(body)
    assert [each.weight.name for each in observe(model).weights] == ["w"]


def test_linear_models(tmp_path):
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 19, "ai.onnx.ml": 1]> g (float[3, 4] x) => (float[3, 2] y) '
        "{ y = ai.onnx.ml.LinearRegressor <coefficients = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], targets = 2> (x) }"
    )
    (seen,) = observe(model).weights
    feed = {"x": small((3, 4), 1)}
    matrices = seen.view.matrices(np.arange(1, 9, dtype=np.float32))
    (given,) = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(["y"], feed)
    assert np.allclose(products(rows_of(written(model, tmp_path), seen, feed), matrices)[0], given)


def test_attention(tmp_path):
    """What the product with its weight is, shows in what comes of queries, keys and values."""
    model = model_of(
        "y = com.microsoft.Attention <num_heads = 1> (x, w, b)",
        "float[2, 3, 4] x",
        w=small((4, 12), 1) / 8,
        b=np.zeros(12, np.float32),
    )
    (seen,) = observe(model).weights
    feed = {"x": small((2, 3, 4), 2)}
    rows = rows_of(written(model, tmp_path), seen, feed)
    query, key, value = np.split(products(rows, seen.view.matrices(small((4, 12), 1) / 8)).reshape(2, 3, 12), 3, -1)
    scores = np.exp(query @ key.transpose(0, 2, 1) / 2)
    (given,) = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(["y"], feed)
    assert np.allclose(scores / scores.sum(-1, keepdims=True) @ value, given, atol=1e-4)


def test_weights_in_constants(tmp_path):
    """A tensor, and a list of floats that is reshaped."""
    model = model_of(
        "v = Constant <value_floats = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]> () s = Constant <value_ints = [6, 1]> ()"
        " r = Reshape (v, s) y = MatMul (x, r)"
    )
    (seen,) = observe(model).weights
    assert np.array_equal(rows_of(written(model, tmp_path), seen, FEED)[0], FEED["x"])
    assert seen.view.shape == (1, 1, 6)
