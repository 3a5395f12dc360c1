"""Methods with data come to the same, however a model stores its weights and reads them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_tools import DataMethod, Selection, prune_file, verify_files
from oxiprune_gpu import PruningConfig

Arrays = dict[str, NDArray[Any]]
RANDOM = np.random.default_rng(0)
X = (RANDOM.standard_normal((100, 12)) @ RANDOM.standard_normal((12, 12))).astype(np.float32)
WEIGHTS = {
    name: RANDOM.standard_normal(shape).astype(np.float32) for name, shape in {"w": (12, 16), "v": (16, 6)}.items()
}
PLAIN = "(float[N, 12] x) => (float[N, 6] y) { h = MatMul (x, w) r = Relu (h) y = MatMul (r, v) }"
RESHAPED = """(float[N, 12] x) => (float[N, 6] y)
    { a = Reshape (w, s) h = MatMul (x, a) r = Relu (h) b = Reshape (v, t) y = MatMul (r, b) }"""
TURNED = """(float[N, 12] x) => (float[N, 6] y)
    { a = Transpose (w) h = MatMul (x, a) r = Relu (h) y = Gemm <transB = 1> (r, v) }"""
LEFT = """(float[12, N] x) => (float[6, N] y)
    { h = Gemm <transA = 1> (w, x) r = Relu (h) y = Gemm <transA = 1> (v, r) }"""
CALLS = """(float[N, 12] x) => (float[N, 6] y) { h = l.f (x, w) r = Relu (h) y = l.f (r, v) }
    <domain: "l", opset_import: ["" : 17]> f (a, b) => (c) { c = MatMul (a, b) }"""
CONVOLVED = "(float[N, 12, 5] x) => (float[N, 6, 5] y) { h = Conv (x, w) r = Relu (h) y = ConvTranspose (r, v) }"


def parsed(body: str, weights: Arrays) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17, "l" : 1]> g {body}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return model


def in_nodes(body: str, more: Arrays, **kinds: Any) -> onnx.ModelProto:
    """With the weights in Constant nodes; `kinds`: their one attribute, and what gives its value."""
    model = parsed(body, more)
    ((kind, value),) = kinds.items()
    for place, (name, array) in enumerate(WEIGHTS.items()):
        model.graph.node.insert(place, helper.make_node("Constant", [], [name], **{kind: value(array)}))
    return model


def turned(arrays: Arrays) -> Arrays:
    return {name: np.ascontiguousarray(array.T) for name, array in arrays.items()}


SIZES = {"s": np.array([12, 16]), "t": np.array([16, 6])}
KERNELS = {"w": turned(WEIGHTS)["w"][:, :, None], "v": WEIGHTS["v"][:, :, None]}
STEPS = np.ascontiguousarray(X.reshape(20, 5, 12).transpose(0, 2, 1))
STORED = {
    "Constant nodes": (in_nodes(PLAIN, {}, value=numpy_helper.from_array), X),
    "lists of floats": (in_nodes(RESHAPED, SIZES, value_floats=lambda array: array.ravel().tolist()), X),
    "turned": (parsed(TURNED, turned(WEIGHTS)), X),
    "as left operands": (parsed(LEFT, WEIGHTS), np.ascontiguousarray(X.T)),
    "in calls": (parsed(CALLS, WEIGHTS), X),
    "float64": (
        parsed(PLAIN.replace("float", "double"), {k: a.astype("f8") for k, a in WEIGHTS.items()}),
        X.astype("f8"),
    ),
    "inputs": (parsed(PLAIN.replace(" x)", " x, float[12, 16] w, float[16, 6] v)"), WEIGHTS), X),
    "kernels": (parsed(CONVOLVED, KERNELS), STEPS),
}


def pruned(folder: Any, model: onnx.ModelProto, x: NDArray[Any], method: tuple[Any, ...]) -> list[NDArray[Any]]:
    """The new weights, each as one row of the elements in the order of (features, outputs)."""
    path, output = folder / "m.onnx", folder / "out.onnx"
    onnx.save(model, path)
    values = DataMethod({"x": x}, *method, order="layers").new_values(
        path, PruningConfig(0.5), Selection(min_elements=0)
    )
    prune_file(path, output, config=values, force=True)
    assert verify_files(path, output, runtime=False).checks[0].outcome == "passed"
    return [_stored(onnx.load(output).graph, name) for name in WEIGHTS]


def _stored(graph: onnx.GraphProto, name: str) -> NDArray[Any]:
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] == name:
            (given,) = node.attribute
            return np.array(given.floats, np.float32) if given.floats else numpy_helper.to_array(given.t).ravel()
    array = numpy_helper.to_array(next(each for each in graph.initializer if each.name == name)).squeeze()
    return (array if array.shape == WEIGHTS[name].shape else array.T).ravel()


@pytest.mark.parametrize("method", [("wanda",), ("sparsegpt",), (None, ("least-squares",))], ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_weights_are_the_same(tmp_path, stored, method):
    plain = functools.partial(pruned, tmp_path, method=method)
    for one, other in zip(plain(parsed(PLAIN, WEIGHTS), X), plain(*STORED[stored]), strict=True):
        np.testing.assert_array_equal(one != 0, other != 0)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)
