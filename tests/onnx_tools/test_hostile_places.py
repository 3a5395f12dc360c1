"""Models that are hostile in where they keep their weights, through the command: listed or refused, nothing lost."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.command import refused, run, tree
from tests.onnx_tools.test_graph_index import limits
from tests.onnx_tools.test_weights import sparse_of

SMALL = ("--sparsity", 0.5, "--min-elements", 0)
HEADER = '<ir_version: 10, opset_import: ["": 20, "my": 1]> g (float[N, 4] x) => (float[N, 4] y)'


def file_of(folder: pathlib.Path, body: str, *functions: str) -> pathlib.Path:
    """A model that stores `w`."""
    texts = (f'<opset_import: ["": 20, "my": 1], domain: "my"> {function}' for function in functions)
    model = onnx.parser.parse_model(f"{HEADER} {{ {body} }} {' '.join(texts)}")
    model.graph.initializer.append(numpy_helper.from_array(np.arange(16, dtype=np.float32).reshape(4, 4), "w"))
    return saved(folder, model)


def saved(folder: pathlib.Path, model: onnx.ModelProto) -> pathlib.Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def reasons(path: pathlib.Path) -> dict[str, str]:
    report = json.loads(run("inspect", path, "--json").stdout)
    return {tensor["name"]: tensor["reason"] for tensor in report["left_alone"]}


@pytest.mark.parametrize(
    ("body", "functions", "expected"),
    [
        ("y = my.F(x, w)", ["F (a, b) => (c) { c = my.F(a, b) }"], "whose calls never end"),
        (
            "y = my.F(x, w)",
            ["F (a, b) => (c) { c = my.G(a, b) }", "G (a, b) => (c) { c = my.F(b, a) }"],
            "whose calls never end",
        ),
        (
            "y = my.F(x, w)",
            ["F (a, b) => (c) { c = If (a) <then_branch = t () => (d) { d = my.F(a, b) }> }"],
            "whose calls never end",
        ),
        ("y = my.F(x, w)", ["F (a, a) => (c) { c = MatMul(a, a) }"], ""),
        ('y = Einsum <equation = "ij,jk->"> (x, w)', [], ""),
        ('y = Einsum <equation = "->->,,"> (x, w)', [], "operand that is summed with no other of Einsum"),
        ('y = Einsum <equation = "...,...->..."> (x, w)', [], "operand that is summed with no other of Einsum"),
        ('y = Einsum <equation = "ij,j...k...->ik"> (x, w)', [], "operand that is summed with no other of Einsum"),
        ("y = Loop(x, x, w) <body = b (a, a, a) => (a, a) {}>", [], "state that the body changes of Loop"),
        ("y = Scan(w) <body = b (a) => () {}>", [], "state that the body changes, or entries one by one, of Scan"),
        ("y = Gather <axis = -9> (w, x)", [], ""),
        ("y = com.microsoft.MoE(x, x, w)", [], ""),
    ],
)
def test_nothing_crashes(body: str, functions: list[str], expected: str, tmp_path: pathlib.Path) -> None:
    path = file_of(tmp_path, body, *functions)
    before = path.read_bytes()
    with limits():
        assert expected in reasons(path).get("w", "")
        for granularity in ("unstructured", "row", "column"):
            out = tmp_path / f"{granularity}.onnx"
            done = run("prune", path, "-o", out, *SMALL, "--granularity", granularity, "--embeddings")
            assert (done.exit_code, out.exists()) in ((0, True), (1, False)), done.output
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("places", "dims"), [([99, -5], [2, 2]), ([0, 0], [2, 2]), ([0, 1], [-2, 2]), ([0, 1], []), ([0, 1], [2**62, 4])]
)
def test_sparse_tensors_that_make_no_sense_come_through_whole(
    places: list[int], dims: list[int], tmp_path: pathlib.Path
) -> None:
    sparse = sparse_of("s", 2, 2, 2)
    sparse.indices.int64_data[:] = places
    sparse.dims[:] = dims
    model = onnx.load(file_of(tmp_path, "y = MatMul(x, w) z = MatMul(x, s)"))
    model.graph.sparse_initializer.append(sparse)
    path, out = saved(tmp_path, model), tmp_path / "out.onnx"
    assert reasons(path)["s"] == "stored sparse: decode it first"
    assert run("prune", path, "-o", out, *SMALL).exit_code == 0
    assert onnx.load(out).graph.sparse_initializer == model.graph.sparse_initializer


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_in_lists_that_are_not_finite(number: float, tmp_path: pathlib.Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["list"], value_floats=[1.0, number, 2.0, 3.0]),
        helper.make_node("MatMul", ["x", "list"], ["y"]),
    ]
    path = saved(tmp_path, helper.make_model(helper.make_graph(nodes, "g", [], [])))
    before = tree(tmp_path)
    done = run("prune", path, "--in-place", *SMALL)
    if number == number:
        assert done.exit_code == 0
        return
    refused(done, 2, "list")
    assert tree(tmp_path) == before


def test_a_list_that_a_call_gives_is_no_weight(tmp_path: pathlib.Path) -> None:
    function = (
        "F <coefficients> (a) => (c) { c = ai.onnx.ml.LinearRegressor <coefficients: floats = @coefficients> (a) }"
    )
    path = file_of(tmp_path, "y = my.F <coefficients = [1.0, 2.0]> (x)", function)
    assert reasons(path)["y.coefficients"] == "attribute 'coefficients' of F"


def test_a_tensor_named_like_a_function_and_an_input(tmp_path: pathlib.Path) -> None:
    model = onnx.load(file_of(tmp_path, "F = my.F(x, w) y = MatMul(F, F)", "F (F, w) => (F) { G = MatMul(F, w) }"))
    model.graph.initializer.append(helper.make_tensor("F", TensorProto.FLOAT, [1], [1.0]))
    assert reasons(saved(tmp_path, model))["F"] == "its name is defined twice in one graph"
