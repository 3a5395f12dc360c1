"""Weights that are lists of floats in attributes, pruned in a file and in memory, and compared."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, helper

from onnx_tools import Selection, inspect_file, prune_file, prune_model, verify_files
from onnx_tools.verification.byte_check import compare_bytes
from oxiprune_gpu import PruningConfig

SELECTION = Selection(min_elements=0, linear_models=True)
HALF = PruningConfig(0.5)
VALUES = [3.0, -1.0, 2.0, 0.5, -4.0, 0.25]
PRUNED = [3.0, 0.0, 2.0, 0.0, -4.0, 0.0]


def model() -> onnx.ModelProto:
    """A linear model and a product, each of which holds six numbers."""
    nodes = [
        helper.make_node("LinearRegressor", ["x"], ["a"], domain="ai.onnx.ml", coefficients=VALUES, targets=2),
        helper.make_node("Constant", [], ["w"], value_floats=VALUES),
        helper.make_node("Constant", [], ["s"], value_ints=[2, 3]),
        helper.make_node("Reshape", ["w", "s"], ["v"]),
        helper.make_node("MatMul", ["a", "v"], ["y"]),
    ]
    inputs, outputs = ([helper.make_tensor_value_info(name, 1, ["N", 3])] for name in ("x", "y"))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs), opset_imports=opsets, ir_version=8)


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(model().SerializeToString())
    return path


def test_the_classes_of_a_linear_classifier_are_its_rows(tmp_path: pathlib.Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    weights = np.array([[3, 1, 2], [5, 4, 6], [0.5, 0.25, 0.125]], np.float32)
    node = helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        coefficients=weights.ravel().tolist(),
        intercepts=[0.0] * 3,
        classlabels_ints=[0, 1, 2],
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", 1, ["N", 3])],
        [helper.make_tensor_value_info("label", 7, ["N"]), helper.make_tensor_value_info("scores", 1, ["N", 3])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    classifier = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    prune_model(classifier, config=PruningConfig(0.67, "l1", "row"), selection=SELECTION)
    session = ort.InferenceSession(classifier.SerializeToString(), providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"x": np.ones((1, 3), np.float32)})
    assert scores.tolist() == [[0, 15, 0]]


def lists(model: onnx.ModelProto) -> list[list[float]]:
    found: list[AttributeProto] = [attribute for node in model.graph.node for attribute in node.attribute]
    return [list(attribute.floats) for attribute in found if attribute.floats]


def test_lists_are_pruned_in_a_file(file: pathlib.Path) -> None:
    out = file.with_name("out.onnx")
    report = prune_file(file, out, config=HALF, selection=SELECTION)
    assert [(weight.name, weight.nonzero_after) for weight in report.weights] == [("a.coefficients", 3), ("w", 3)]
    pruned = onnx.load(out)
    assert lists(pruned) == [PRUNED, PRUNED]
    del pruned.metadata_props[:]
    for node in pruned.graph.node[:2]:
        next(attribute for attribute in node.attribute if attribute.floats).floats[:] = VALUES
    assert pruned == model(), "nothing else changed"
    assert not verify_files(file, out, runtime=False).failed


def test_lists_are_pruned_in_memory() -> None:
    changed = model()
    prune_model(changed, config=HALF, selection=SELECTION)
    assert lists(changed) == [PRUNED, PRUNED]


@pytest.mark.parametrize(
    ("granularity", "left"), [("row", [3.0, -1.0, 2.0, 0, 0, 0]), ("column", [3.0, -1.0, 0, 0.5, -4.0, 0])]
)
def test_units_of_a_linear_model(granularity: str, left: list[float]) -> None:
    changed = model()
    config = PruningConfig(0.5, "l1", granularity)
    prune_model(changed, config=config, selection=Selection(min_elements=0, linear_models=True, include=("a.*",)))
    assert lists(changed)[0] == left


def test_lists_are_inspected(file: pathlib.Path) -> None:
    prune_file(file, None, config=HALF, selection=SELECTION)
    assert [(weight.name, weight.zeros) for weight in inspect_file(file).weights] == [("a.coefficients", 3), ("w", 3)]


def changed_copy(file: pathlib.Path, node: int, values: list[float]) -> pathlib.Path:
    other = onnx.load(file)
    next(attribute for attribute in other.graph.node[node].attribute if attribute.floats).floats[:] = values
    out = file.with_name("other.onnx")
    onnx.save(other, out)
    return out


def test_new_zeros_are_told_from_other_changes(file: pathlib.Path) -> None:
    out = changed_copy(file, 0, PRUNED)
    assert [(z.name, z.newly_zero) for z in compare_bytes(file, out).zeroed] == [("coefficients", 3)]
    assert not compare_bytes(file, out).violations
    assert len(compare_bytes(file, out, allowed=()).violations) == 1


@pytest.mark.parametrize("values", [[9.0, *VALUES[1:]], VALUES[:5], [*VALUES, 0.0], [-0.0] * 6])
def test_other_changes_are_violations(file: pathlib.Path, values: list[float]) -> None:
    assert compare_bytes(file, changed_copy(file, 1, values)).violations


def test_onnxruntime_computes_with_the_zeros(file: pathlib.Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    out = file.with_name("out.onnx")
    prune_file(file, out, config=HALF, selection=SELECTION)
    x = np.array([[1, 2, 3]], np.float32)
    (y,) = ort.InferenceSession(out, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    weights = np.array(PRUNED, np.float32).reshape(2, 3)
    assert np.array_equal(y, x @ weights.T @ weights)
