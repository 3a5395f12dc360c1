"""prune_file and prune_model: values against slow oracles on every layout, dtype and storage; what a file goes through.

Long, because the oracle, the layouts it knows and the tests that use both belong together.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_tools import Extras, Selection, find_weights, prune_file, prune_model
from onnx_tools.errors import InvalidTensor, NothingSelected, OutputRefused, VerificationFailed
from onnx_tools.report import Check, PruneReport, VerificationReport
from onnx_tools.verification.byte_check import compare_bytes
from onnx_tools.verify import verify_files
from onnx_tools.wire import Path
from oxiprune_gpu import (
    InvalidOption,
    InvalidSparsity,
    NonFiniteWeight,
    PruningConfig,
    ShapeMismatch,
    __version__,
)
from tests import oracles
from tests.storages import STORAGES

Array = NDArray[Any]
Units = Callable[[Array], list[Array]]
EVERY_SIZE = Selection(min_elements=0)


def model_of(body: str, weights: dict[str, Array], inputs: str = "float[N] x") -> onnx.ModelProto:
    """A model from text, with these initializers."""
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g ({inputs}) => (float[N] y) {{ {body} }}'
    )
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return model


def saved(path: pathlib.Path, model: onnx.ModelProto) -> pathlib.Path:
    path.write_bytes(model.SerializeToString())
    return path


def values_of(model: onnx.ModelProto | pathlib.Path) -> dict[str, Array]:
    """Initializers and Constants of the main graph by name, as onnx itself reads them."""
    loaded = onnx.load(model) if isinstance(model, pathlib.Path) else model
    constants = {node.output[0]: node.attribute[0].t for node in loaded.graph.node if node.op_type == "Constant"}
    stored = {tensor.name: tensor for tensor in loaded.graph.initializer} | constants
    return {name: numpy_helper.to_array(tensor) for name, tensor in stored.items()}


def normals(*shape: int, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def expected(weight: Array, sparsity: float, metric: str, units: Units | None, **gradient: Array) -> Array:
    """What pruning must give: `units` lists the element numbers of each unit; without, each element is one."""
    if units is None:
        scores = oracles.element_scores(weight, metric, **gradient)
        return oracles.zeroed(weight, oracles.lowest(scores, wanted(sparsity, scores.size)))
    groups = [numbers.reshape(-1) for numbers in units(np.arange(weight.size).reshape(weight.shape))]
    scores = oracles.unit_scores(weight, groups, metric, **gradient)
    return oracles.zeroed(weight, oracles.fallen_units(weight.size, groups, scores, wanted(sparsity, len(groups))))


def wanted(sparsity: float, units: int) -> int:
    return int(np.floor(np.float32(sparsity) * np.float32(units)))


def assert_same_bits(found: Array, right: Array) -> None:
    assert (found.dtype, found.shape) == (right.dtype, right.shape)
    assert found.tobytes() == right.tobytes()


def prune_both_ways(folder: pathlib.Path, model: onnx.ModelProto, config: PruningConfig, **options: Any) -> Array:
    """Prune in a file and in memory, which must give the same; return the weight `w`."""
    path = saved(folder / "model.onnx", model)
    report = prune_file(path, folder / "pruned.onnx", config=config, selection=EVERY_SIZE, **options)
    in_memory = prune_model(model, config=config, selection=EVERY_SIZE, **options)
    assert in_memory.weights == report.weights
    weights = values_of(folder / "pruned.onnx")
    for name, array in values_of(model).items():
        assert_same_bits(weights[name], array)
    assert not compare_bytes(path, folder / "pruned.onnx").violations
    assert onnx.load(folder / "pruned.onnx") == model
    return weights["w"]


def along(axis: int) -> Units:
    """Each slice along one axis is a unit."""
    return lambda n: [n.take(i, axis) for i in range(n.shape[axis])]


def inside_groups(groups: int) -> Units:
    """Axis 0 in groups, each with units of its own along axis 1."""
    return lambda n: [part[:, i] for part in np.split(n, groups) for i in range(n.shape[1])]


def directions(axis: int) -> Units:
    return lambda n: [part.take(i, axis) for part in n for i in range(part.shape[axis])]


def seen_as(*shape: int, axis: int) -> Units:
    return lambda n: along(axis)(n.reshape(shape))


LAYOUTS: dict[str, tuple[str, tuple[int, ...], Units, Units]] = {
    "Conv 1-D": ("y = Conv(x, w)", (8, 6, 5), along(0), along(1)),
    "Conv 2-D": ("y = Conv(x, w)", (8, 6, 3, 3), along(0), along(1)),
    "Conv 3-D": ("y = Conv(x, w)", (8, 3, 2, 3, 2), along(0), along(1)),
    "Conv grouped": ("y = Conv <group = 2> (x, w)", (8, 6, 3, 3), along(0), inside_groups(2)),
    "ConvTranspose": ("y = ConvTranspose(x, w)", (8, 6, 3), along(1), along(0)),
    "ConvTranspose grouped": ("y = ConvTranspose <group = 4> (x, w)", (8, 6, 3), inside_groups(4), along(0)),
    "Gemm": ("y = Gemm(x, w)", (12, 10), along(1), along(0)),
    "Gemm transB": ("y = Gemm <transB = 1> (x, w)", (12, 10), along(0), along(1)),
    "Gemm left": ("y = Gemm(w, x)", (12, 10), along(0), along(1)),
    "Gemm left transA": ("y = Gemm <transA = 1> (w, x)", (12, 10), along(1), along(0)),
    "MatMul right": ("y = MatMul(x, w)", (12, 10), along(1), along(0)),
    "MatMul left": ("y = MatMul(w, x)", (12, 10), along(0), along(1)),
    "MatMul batched": ("y = MatMul(x, w)", (3, 8, 6), along(2), along(1)),
    "MatMul batched left": ("y = MatMul(w, x)", (3, 8, 6), along(1), along(2)),
    "LSTM W": (
        'y = LSTM <hidden_size = 3, direction = "bidirectional"> (x, w, x)',
        (2, 12, 5),
        directions(0),
        directions(1),
    ),
    "GRU R": ("y = GRU <hidden_size = 4> (x, x, w)", (1, 12, 4), directions(0), directions(1)),
    "behind Transpose": ("v = Transpose(w) y = MatMul(x, v)", (12, 10), along(0), along(1)),
    "behind Transpose, Conv": (
        "v = Transpose <perm = [3, 2, 0, 1]> (w) y = Conv(x, v)",
        (3, 3, 6, 8),
        along(3),
        along(2),
    ),
    "behind Reshape": (
        "s = Constant <value = int64[2] {-1, 10}> () v = Reshape(w, s) y = MatMul(x, v)",
        (4, 3, 2, 10),
        seen_as(24, 10, axis=1),
        seen_as(24, 10, axis=0),
    ),
    "behind Cast": ("v = Cast <to = 10> (w) y = MatMul(x, v)", (12, 10), along(1), along(0)),
}


@pytest.mark.parametrize("granularity", ["unstructured", "row", "column"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout(tmp_path: pathlib.Path, name: str, granularity: str) -> None:
    body, shape, rows, columns = LAYOUTS[name]
    weight = normals(*shape)
    units = {"unstructured": None, "row": rows, "column": columns}[granularity]
    for metric, sparsity in (("l1", 0.5), ("l2", 0.3)):
        found = prune_both_ways(tmp_path, model_of(body, {"w": weight}), PruningConfig(sparsity, metric, granularity))
        (tmp_path / "pruned.onnx").unlink()
        assert_same_bits(found, expected(weight, sparsity, metric, units))


@pytest.mark.parametrize("granularity", ["unstructured", "row", "column"])
@pytest.mark.parametrize("metric", ["taylor", "random:7"])
def test_other_metrics(tmp_path: pathlib.Path, metric: str, granularity: str) -> None:
    body, shape, rows, columns = LAYOUTS["Conv grouped"]
    weight = normals(*shape)
    units = {"unstructured": None, "row": rows, "column": columns}[granularity]
    found = prune_both_ways(tmp_path, model_of(body, {"w": weight}), PruningConfig(0.4, metric, granularity))
    assert_same_bits(found, expected(weight, 0.4, metric, units))


def move_values(tensor: onnx.TensorProto, field: str) -> None:
    """Store the values of a tensor in another field."""
    if field == "raw_data":
        return
    array = numpy_helper.to_array(tensor)
    tensor.ClearField("raw_data")
    getattr(tensor, field).extend((array.view(np.uint16) if field == "int32_data" else array).ravel().tolist())


@pytest.mark.parametrize("granularity", ["unstructured", "row"])
@pytest.mark.parametrize("shape", [(4, 6), (40, 30)], ids=["in the skeleton", "a payload"])
@pytest.mark.parametrize(("dtype", "field"), STORAGES)
def test_dtypes_and_fields(
    tmp_path: pathlib.Path, dtype: Any, field: str, shape: tuple[int, ...], granularity: str
) -> None:
    weight = normals(*shape, dtype=dtype)
    model = model_of("y = MatMul(x, w)", {"w": weight})
    move_values(model.graph.initializer[0], field)
    found = prune_both_ways(tmp_path, model, PruningConfig(0.5, "l1", granularity))
    assert_same_bits(found, expected(weight, 0.5, "l1", None if granularity == "unstructured" else along(1)))


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("one_file", [True, False])
def test_external_data(tmp_path: pathlib.Path, one_file: bool, in_place: bool) -> None:
    weights = {"w": normals(30, 40), "v": normals(40, 20, dtype=np.float16), "left": np.arange(300, dtype=np.int64)}
    model = model_of("h = MatMul(x, w) y = MatMul(h, v)", weights)
    path, target = tmp_path / "model.onnx", None if in_place else tmp_path / "out" / "pruned.onnx"
    (tmp_path / "out").mkdir()
    onnx.save(model, path, save_as_external_data=True, all_tensors_to_one_file=one_file, size_threshold=0)
    kept = {file: file.read_bytes() for file in tmp_path.iterdir() if file.is_file() and file != path}

    report = prune_file(path, target, config=PruningConfig(0.5), selection=EVERY_SIZE)

    found = values_of(target or path)
    assert_same_bits(found["w"], expected(weights["w"], 0.5, "l1", None))
    assert_same_bits(found["v"], expected(weights["v"], 0.5, "l1", None))
    assert_same_bits(found["left"], weights["left"])
    assert len(kept) == (1 if one_file else 3)
    assert all(file.read_bytes() == content for file, content in kept.items())
    assert [file.role for file in report.files] == ["model"] + ["data"] * len(kept)


def aliased(folder: pathlib.Path, body: str) -> pathlib.Path:
    """A model whose external tensors `a` and `b`, each 40 x 40, lie on the same bytes."""
    weight = normals(40, 40)
    model = model_of(body, {"a": weight, "c": normals(40, 40), "b": weight})
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, size_threshold=0)
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    first, _, second = model.graph.initializer
    del second.external_data[:]
    second.external_data.extend(first.external_data)
    return saved(folder / "model.onnx", model)


def test_weights_on_the_same_bytes_are_pruned_once(tmp_path: pathlib.Path) -> None:
    path = aliased(tmp_path, "h = MatMul(x, a) k = MatMul(h, c) y = Gemm <transB=1> (k, b)")
    before = values_of(path)
    report = prune_file(path, tmp_path / "out.onnx", config=PruningConfig(0.5, "l2", "row"), selection=EVERY_SIZE)
    found = values_of(tmp_path / "out.onnx")
    assert_same_bits(found["a"], expected(before["a"], 0.5, "l2", along(1)))
    assert_same_bits(found["a"], found["b"])
    assert [weight.name for weight in report.weights] == ["a", "c"]
    assert [item.reason for item in report.left_alone if item.name == "b"] == [
        "has bytes in common with 'a', which is pruned"
    ]


def test_a_weight_on_the_bytes_of_something_else_is_left_alone(tmp_path: pathlib.Path) -> None:
    path = aliased(tmp_path, "h = MatMul(x, a) k = MatMul(h, c) y = Add(k, b)")
    before = values_of(path)
    report = prune_file(path, config=PruningConfig(0.5), selection=EVERY_SIZE)
    assert_same_bits(values_of(path)["a"], before["a"])
    assert [weight.name for weight in report.weights] == ["c"]
    assert "has bytes in common with 'b', which is not pruned" in {item.reason for item in report.left_alone}


def test_only_a_weight_on_the_bytes_of_something_else(external_file: pathlib.Path) -> None:
    model = onnx.load(external_file, load_external_data=False)
    alias = model.graph.initializer.add()
    alias.CopyFrom(model.graph.initializer[1])
    alias.name = "alias"
    saved(external_file, model)
    before = files_of(external_file.parent)
    with pytest.raises(NothingSelected, match="has bytes in common with 'alias', which is not pruned"):
        prune_file(external_file, config=PruningConfig(0.5), selection=EVERY_SIZE)
    assert files_of(external_file.parent) == before


@pytest.mark.parametrize(
    ("data_type", "shape", "offset"),
    [
        (onnx.TensorProto.FLOAT, (40, 20), 0),
        (onnx.TensorProto.FLOAT, (39, 40), 2),
        (onnx.TensorProto.FLOAT16, (80, 40), 0),
        (onnx.TensorProto.FLOAT16, (40, 40), 0),
        (onnx.TensorProto.DOUBLE, (20, 40), 0),
    ],
)
@pytest.mark.parametrize("granularity", ["unstructured", "row"])
def test_weights_that_see_the_same_bytes_in_other_ways_are_left_alone(
    tmp_path: pathlib.Path, data_type: int, shape: tuple[int, ...], offset: int, granularity: str
) -> None:
    path = aliased(tmp_path, "h = MatMul(x, a) k = MatMul(h, c) m = Cast <to = 1> (b) y = MatMul(k, m)")
    model = onnx.load(path, load_external_data=False)
    first, _, second = model.graph.initializer
    second.data_type, second.dims[:] = data_type, shape
    length = int(np.prod(shape)) * {1: 4, 10: 2, 11: 8}[data_type]
    place = {entry.key: entry.value for entry in first.external_data}
    place |= {"offset": str(int(place["offset"]) + offset), "length": str(length)}
    del second.external_data[:]
    for key, value in place.items():
        second.external_data.add(key=key, value=value)
    saved(path, model)
    before = values_of(path)

    report = prune_file(path, config=PruningConfig(0.5, "l1", granularity), selection=EVERY_SIZE)

    found = values_of(path)
    assert_same_bits(found["a"], before["a"])
    assert_same_bits(found["b"], before["b"])
    assert [weight.name for weight in report.weights] == ["c"]
    reasons = {item.name: item.reason for item in report.left_alone}
    assert reasons["a"] == "has bytes in common with 'b', which has other elements there"
    assert reasons["b"] == "has bytes in common with 'a', which has other elements there"


def files_of(folder: pathlib.Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_zeros_denormals_and_infinities(tmp_path: pathlib.Path) -> None:
    weight = normals(8, 9)
    weight.flat[:6] = [-0.0, 1e-42, -1e-42, np.inf, -np.inf, 0.0]
    model = model_of("y = MatMul(x, w)", {"w": weight})
    found = prune_both_ways(tmp_path, model, PruningConfig(0.05))
    assert_same_bits(found, expected(weight, 0.05, "l1", None))
    assert found.flat[2] == np.float32(-1e-42)


@pytest.mark.parametrize("granularity", ["unstructured", "row", "column"])
def test_gradients(tmp_path: pathlib.Path, granularity: str) -> None:
    body, shape, rows, columns = LAYOUTS["ConvTranspose grouped"]
    weight, gradient = normals(*shape), normals(*shape[::-1]).reshape(shape)
    units = {"unstructured": None, "row": rows, "column": columns}[granularity]
    config = PruningConfig(0.5, "l1", granularity)
    found = prune_both_ways(tmp_path, model_of(body, {"w": weight}), config, gradients={"w": gradient, "other": weight})
    assert_same_bits(found, expected(weight, 0.5, "taylor", units, gradient=gradient))


@pytest.mark.parametrize(
    ("gradients", "error", "text"),
    [
        ({"W": np.ones((12, 10))}, InvalidOption, "no gradient for weight 'w'"),
        ({"w": np.ones((10, 12))}, ShapeMismatch, r"shape \[10, 12\], the weight \[12, 10\]"),
        ({"w": np.full((12, 10), np.nan)}, NonFiniteWeight, "'w' holds 120 NaN"),
    ],
)
def test_gradients_that_do_not_fit(tmp_path: pathlib.Path, gradients: Any, error: type, text: str) -> None:
    path = saved(tmp_path / "model.onnx", model_of("y = MatMul(x, w)", {"w": normals(12, 10)}))
    before = files_of(tmp_path)
    with pytest.raises(error, match=text):
        prune_file(path, config=PruningConfig(0.5), selection=EVERY_SIZE, gradients=gradients)
    assert files_of(tmp_path) == before


def test_a_constant_node(tmp_path: pathlib.Path) -> None:
    weight = normals(30, 20)
    model = model_of("y = MatMul(x, w)", {})
    tensor = numpy_helper.from_array(weight)
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=tensor))
    assert_same_bits(prune_both_ways(tmp_path, model, PruningConfig(0.5)), expected(weight, 0.5, "l1", None))


def test_an_initializer_that_is_a_graph_input(tmp_path: pathlib.Path) -> None:
    weight = normals(30, 20)
    model = model_of("y = MatMul(x, w)", {"w": weight}, "float[N] x, float[30, 20] w")
    assert_same_bits(prune_both_ways(tmp_path, model, PruningConfig(0.5)), expected(weight, 0.5, "l1", None))


def test_a_shared_weight_keeps_one_mask(tmp_path: pathlib.Path) -> None:
    weight = normals(20, 20)
    model = model_of("h = MatMul(x, w) y = MatMul(h, w)", {"w": weight})
    assert_same_bits(prune_both_ways(tmp_path, model, PruningConfig(0.5)), expected(weight, 0.5, "l1", None))


def test_a_weight_captured_by_a_subgraph_and_one_inside(tmp_path: pathlib.Path) -> None:
    weight, inner = normals(30, 20), normals(20, 25)
    body = """y = If (c) <
        then_branch = t () => (float[N] o) { o = MatMul(x, w) },
        else_branch = e () => (float[N] o) { o = MatMul(x, inner) }
    >"""
    model = model_of(body, {"w": weight}, "float[N] x, bool c")
    model.graph.node[0].attribute[1].g.initializer.append(numpy_helper.from_array(inner, "inner"))
    assert_same_bits(prune_both_ways(tmp_path, model, PruningConfig(0.5)), expected(weight, 0.5, "l1", None))
    after = onnx.load(tmp_path / "pruned.onnx").graph.node[0].attribute[1].g.initializer[0]
    assert_same_bits(numpy_helper.to_array(after), expected(inner, 0.5, "l1", None))


def test_a_model_that_is_serialised_anew(tmp_path: pathlib.Path) -> None:
    """A singular message given twice can't be patched."""
    weight = normals(30, 20)
    model = model_of("y = MatMul(x, w)", {"w": weight})
    path = tmp_path / "model.onnx"
    again = onnx.ModelProto(graph=onnx.GraphProto(doc_string="x"))
    path.write_bytes(model.SerializeToString() + again.SerializeToString())
    prune_file(path, config=PruningConfig(0.5), selection=EVERY_SIZE)
    assert_same_bits(values_of(path)["w"], expected(weight, 0.5, "l1", None))


def test_in_memory_external_data_must_be_loaded(external_file: pathlib.Path) -> None:
    model = onnx.load(external_file, load_external_data=False)
    with pytest.raises(InvalidTensor, match="not loaded"):
        prune_model(model, config=PruningConfig(0.5), selection=EVERY_SIZE)


def two_weights(folder: pathlib.Path, **changed: Array) -> pathlib.Path:
    """A file with the weights `w` (30, 40) and `v` (40, 20), in this order."""
    weights = {"w": normals(30, 40), "v": normals(40, 20)} | changed
    return saved(folder / "model.onnx", model_of("h = MatMul(x, w) y = MatMul(h, v)", weights))


def prune(path: pathlib.Path, output: pathlib.Path | None = None, sparsity: float = 0.5, **options: Any) -> PruneReport:
    """Prune unstructured, with no lower limit for the size of a weight."""
    return prune_file(path, output, config=PruningConfig(sparsity), selection=EVERY_SIZE, **options)


def our_metadata(path: pathlib.Path) -> list[str]:
    return [entry.value for entry in onnx.load(path).metadata_props if entry.key == "oxiprune"]


def test_in_place_gives_what_an_output_gives(tmp_path: pathlib.Path) -> None:
    path = two_weights(tmp_path)
    before = path.read_bytes()
    to_output = prune(path, tmp_path / "pruned.onnx")
    assert path.read_bytes() == before
    in_place = prune(path)
    assert path.read_bytes() == (tmp_path / "pruned.onnx").read_bytes() != before
    assert sorted(files_of(tmp_path)) == ["model.onnx", "pruned.onnx"]
    assert (to_output.output, in_place.output) == ("pruned.onnx", "model.onnx")
    assert to_output.weights == in_place.weights


def test_metadata_says_what_was_done(tmp_path: pathlib.Path) -> None:
    path = two_weights(tmp_path)
    selection = Selection(include=("w",), min_elements=1)
    prune_file(path, config=PruningConfig(0.25, "random:9", "row", 2), selection=selection)
    (text,) = our_metadata(path)
    assert json.loads(text) == {
        "version": __version__,
        "sparsity": 0.25,
        "metric": "random:9",
        "granularity": "row",
        "min_nonzero": 2,
        "include": ["w"],
        "exclude": [],
        "min_elements": 1,
        "depthwise": False,
        "embeddings": False,
        "linear_models": False,
        "allocation": "uniform",
        "floor": 0.0,
        "ceiling": 1.0,
        "target": "weights",
        "rules": [],
        "channels": None,
        "calibration": None,
        "weights": 1,
        "parameters": 1200,
        "zeros_before": 0,
        "zeros_after": 300,
    }
    assert str(tmp_path) not in text


def test_pruned_twice_there_is_one_entry_of_ours(tmp_path: pathlib.Path) -> None:
    model = onnx.load(two_weights(tmp_path))
    model.metadata_props.add(key="author", value="me")
    path = saved(tmp_path / "model.onnx", model)
    for sparsity in (0.25, 0.5):
        prune(path, sparsity=sparsity)
        prune_model(model, config=PruningConfig(sparsity), selection=EVERY_SIZE)
    (text,) = our_metadata(path)
    assert [json.loads(text)[key] for key in ("sparsity", "zeros_before", "zeros_after")] == [0.5, 500, 1000]
    assert [entry.key for entry in onnx.load(path).metadata_props] == ["author", "oxiprune"]
    assert onnx.load(path) == model


PRUNE_IN_A_PROCESS = """
import sys
from onnx_tools import Selection, prune_file
from oxiprune_gpu import PruningConfig
prune_file(sys.argv[1], sys.argv[2], config=PruningConfig(0.5, "l2", "row"), selection=Selection(min_elements=0))
"""


def test_equal_input_and_arguments_give_equal_bytes(tmp_path: pathlib.Path) -> None:
    path = two_weights(tmp_path)
    contents = set()
    for seed, folder in enumerate(("one", "two")):
        (tmp_path / folder).mkdir()
        output = tmp_path / folder / "pruned.onnx"
        variables = {**os.environ, "PYTHONHASHSEED": f"{seed + 1}", "OXIPRUNE_NUM_THREADS": f"{seed + 1}"}
        subprocess.run([sys.executable, "-c", PRUNE_IN_A_PROCESS, path, output], check=True, env=variables)
        contents.add(output.read_bytes())
    prune_file(path, config=PruningConfig(0.5, "l2", "row"), selection=EVERY_SIZE)
    assert contents == {path.read_bytes()}


@pytest.mark.parametrize(
    ("zeros", "sparsity", "warning"),
    [(0, 0.0, "at this sparsity no element falls"), (40, 0.5, "all that would fall is zero already")],
)
def test_selected_but_unchanged(tmp_path: pathlib.Path, zeros: int, sparsity: float, warning: str) -> None:
    weights = {"w": normals(30, 40), "v": normals(40, 20)}
    for array in weights.values():
        array[:zeros] = 0
    path = two_weights(tmp_path, **weights)
    before, time = path.read_bytes(), path.stat().st_mtime_ns
    in_memory = onnx.load(path)

    reports = [
        prune(path, tmp_path / "pruned.onnx", sparsity),
        prune(path, None, sparsity),
        prune(path, None, sparsity, dry_run=True),
        prune_model(in_memory, config=PruningConfig(sparsity), selection=EVERY_SIZE),
    ]

    assert (tmp_path / "pruned.onnx").read_bytes() == path.read_bytes() == before
    assert path.stat().st_mtime_ns == time
    assert in_memory.SerializeToString() == before
    for report in reports:
        assert not report.changed
        assert [warning in text for text in report.warnings] == [True]


def test_selected_but_unchanged_with_external_data(external_file: pathlib.Path) -> None:
    output = external_file.with_name("pruned.onnx")
    report = prune(external_file, output, 0.0)
    assert not report.changed
    assert not our_metadata(output)
    assert not compare_bytes(external_file, output, allowed=()).violations
    assert (external_file.parent / "pruned.onnx.data").read_bytes() == (
        external_file.parent / "weights.bin"
    ).read_bytes()


@pytest.mark.parametrize("external", [False, True])
def test_what_is_unchanged_is_checked_too(request: pytest.FixtureRequest, external: bool) -> None:
    path = request.getfixturevalue("external_file" if external else "small_file")
    verify = partial(verify_files, runtime=False)
    before = files_of(path.parent)
    with pytest.raises(VerificationFailed, match="too far"):
        prune(path, path.with_name("pruned.onnx"), 0.0, verify=refusing)
    assert files_of(path.parent) == before

    report = prune(path, path.with_name("pruned.onnx"), 0.0)
    assert outcomes(report) == {"bytes": "passed"}
    report = prune(path, path.with_name("pruned.onnx"), 0.0, verify=verify, force=True)
    assert outcomes(report) == {"bytes": "passed", "checker": "passed", "runtime": "skipped", "drift": "skipped"}
    equal = "the output equals the input"
    assert report.warnings[0].endswith(f"{equal} but for the name of its data file" if external else equal)

    assert outcomes(prune(path, None, 0.0)) == {"bytes": "skipped"}
    report = prune(path, None, 0.0, verify=verify)
    assert outcomes(report) == dict.fromkeys(("bytes", "checker", "runtime", "drift"), "skipped")
    assert report.verification is not None
    assert {check.detail for check in report.verification.checks} == {"unchanged"}
    assert "output" not in report.warnings[0]


def outcomes(report: PruneReport) -> dict[str, str]:
    assert report.verification is not None
    return {check.name: check.outcome for check in report.verification.checks}


@pytest.mark.parametrize("damage", ["given twice", "negative"])
def test_memory_refuses_what_a_file_refuses(tmp_path: pathlib.Path, damage: str) -> None:
    weight = normals(30, 40, dtype=ml_dtypes.bfloat16)
    model = model_of("y = MatMul(x, w)", {"w": weight})
    tensor = model.graph.initializer[0]
    tensor.int32_data.extend(weight.view(np.uint16).ravel().tolist())
    if damage == "negative":
        tensor.ClearField("raw_data")
        tensor.int32_data[7] = -3
    before = model.SerializeToString()
    for prune_it in (partial(prune_model, model), partial(prune_file, saved(tmp_path / "m", model))):
        with pytest.raises(InvalidTensor, match="given twice" if damage == "given twice" else "does not fit 16 bits"):
            prune_it(config=PruningConfig(0.5), selection=EVERY_SIZE)
    assert model.SerializeToString() == (tmp_path / "m").read_bytes() == before


def test_what_an_output_of_equal_weights_says(tmp_path: pathlib.Path) -> None:
    """Unchanged, the output keeps the entry of the run before."""
    path = two_weights(tmp_path)
    prune(path)
    prune(path, tmp_path / "again.onnx", 0.25)
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("output", [None, "pruned.onnx"])
@pytest.mark.parametrize(
    ("model", "text"),
    [
        (model_of("y = MatMul(x, w)", {"w": normals(30, 20)}), "1 x fewer than 2,048 elements"),
        (model_of("y = Relu(x)", {}), "stores no tensors"),
        (model_of("y = Add(x, w)", {"w": normals(3000)}), "1 x read only by Add"),
        (
            model_of("y = Conv <group = 2100> (x, w)", {"w": normals(2100, 1, 3)}),
            "1 x depthwise kernel",
        ),
    ],
)
def test_nothing_selected(tmp_path: pathlib.Path, model: onnx.ModelProto, text: str, output: str | None) -> None:
    path = saved(tmp_path / "model.onnx", model)
    before = files_of(tmp_path)
    for dry_run in (False, True):
        with pytest.raises(NothingSelected, match=f"^no weight was selected, nothing was written.*{text}"):
            prune_file(path, output and tmp_path / output, config=PruningConfig(0.5), dry_run=dry_run)
    assert files_of(tmp_path) == before
    with pytest.raises(NothingSelected, match=text):
        prune_model(model, config=PruningConfig(0.5))
    assert model.SerializeToString() == before["model.onnx"]


def test_weights_without_the_axis_asked_for_are_left_alone(tmp_path: pathlib.Path) -> None:
    weights = {"w": normals(30, 40), "vector": normals(40)}
    path = saved(tmp_path / "model.onnx", model_of("h = MatMul(x, w) y = MatMul(h, vector)", weights))
    report = prune_file(path, config=PruningConfig(0.5, "l1", "row"), selection=EVERY_SIZE)
    assert [weight.name for weight in report.weights] == ["w"]
    assert [(item.name, item.reason) for item in report.left_alone] == [
        ("vector", "no rows: MatMul 'y' gives a tensor of 1 axes no output axis")
    ]
    assert_same_bits(values_of(path)["vector"], weights["vector"])
    with pytest.raises(NothingSelected, match="1 x no rows"):
        prune_file(path, config=PruningConfig(0.5, "l1", "row"), selection=Selection(("vector",), (), 0))


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("bad", ["w", "v"])
@pytest.mark.parametrize("options", [{}, {"output": "pruned.onnx"}, {"dry_run": True}], ids=str)
def test_nan_writes_nothing(tmp_path: pathlib.Path, bad: str, external: bool, options: dict[str, Any]) -> None:
    """Also when the weights before it have been pruned in the copy already."""
    broken = normals(30, 40) if bad == "w" else normals(40, 20)
    broken[3, 4:6] = np.nan
    path = two_weights(tmp_path, **{bad: broken})
    model = onnx.load(path)
    if external:
        onnx.save(onnx.load(path), path, save_as_external_data=True, location="data.bin", size_threshold=0)
    before, serialised = files_of(tmp_path), model.SerializeToString()
    if "output" in options:
        options = {"output": tmp_path / options["output"]}
    with pytest.raises(NonFiniteWeight, match=f"'{bad}' holds 2 NaN"):
        prune(path, **options)
    assert files_of(tmp_path) == before
    with pytest.raises(NonFiniteWeight, match=f"'{bad}' holds 2 NaN"):
        prune_model(model, config=PruningConfig(0.5), selection=EVERY_SIZE)
    assert model.SerializeToString() == serialised


@pytest.mark.parametrize(
    ("config", "error"),
    [
        (PruningConfig(1.0), InvalidSparsity),
        (PruningConfig(float("nan")), InvalidSparsity),
        (PruningConfig(-0.1), InvalidSparsity),
        (PruningConfig(0.5, "l1", "axis:0"), InvalidOption),
        (PruningConfig(granularity="2:4@0"), InvalidOption),
        (PruningConfig(0.5, min_nonzero=801), InvalidOption),
    ],
    ids=str,
)
def test_configurations_that_are_refused(tmp_path: pathlib.Path, config: PruningConfig, error: type) -> None:
    path = two_weights(tmp_path)
    before = files_of(tmp_path)
    for dry_run in (False, True):
        with pytest.raises(error):
            prune_file(path, config=config, selection=EVERY_SIZE, dry_run=dry_run)
    assert files_of(tmp_path) == before


def test_min_nonzero_keeps_whole_units(tmp_path: pathlib.Path) -> None:
    path = two_weights(tmp_path)
    report = prune_file(path, tmp_path / "e.onnx", config=PruningConfig(0.9, min_nonzero=700), selection=EVERY_SIZE)
    assert [weight.nonzero_after for weight in report.weights] == [700, 700]
    config = PruningConfig(0.9, "l1", "row", min_nonzero=700)
    report = prune_file(path, tmp_path / "r.onnx", config=config, selection=EVERY_SIZE)
    assert [weight.nonzero_after for weight in report.weights] == [24 * 30, 18 * 40]


def test_dry_run_counts_and_writes_nothing(small_file: pathlib.Path, external_file: pathlib.Path) -> None:
    for path in (small_file, external_file):
        before = files_of(path.parent)
        dry = prune(path, path.with_name("pruned.onnx"), dry_run=True)
        assert files_of(path.parent) == before
        done = prune(path, path.with_name("pruned.onnx"))
        assert (dry.dry_run, dry.output, dry.verification) == (True, None, None)
        assert (dry.changed, dry.weights, dry.left_alone) == (done.changed, done.weights, done.left_alone)
        assert [file.name_after for file in dry.files] == [None] * len(done.files)
        for name in set(files_of(path.parent)) - set(before):
            (path.parent / name).unlink()


class Interrupted(Exception):
    pass


def interrupted(before: pathlib.Path, after: pathlib.Path, allowed: Collection[Path]) -> VerificationReport:
    raise Interrupted


def refusing(before: pathlib.Path, after: pathlib.Path, allowed: Collection[Path]) -> VerificationReport:
    return VerificationReport((Check("drift", "failed", "too far"),))


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("output", [None, "pruned.onnx"])
@pytest.mark.parametrize(("verify", "error"), [(interrupted, Interrupted), (refusing, VerificationFailed)])
def test_a_check_that_fails_writes_nothing(
    request: pytest.FixtureRequest, verify: Any, error: type, output: str | None, external: bool
) -> None:
    path = request.getfixturevalue("external_file" if external else "small_file")
    if output:
        (path.parent / output).write_bytes(b"an old output")
    before = files_of(path.parent)
    with pytest.raises(error):
        prune(path, output and path.parent / output, verify=verify, force=True)
    assert files_of(path.parent) == before


def test_verify_sees_the_finished_model_before_it_has_its_name(external_file: pathlib.Path) -> None:
    output, seen = external_file.with_name("pruned.onnx"), []

    def look(before: pathlib.Path, after: pathlib.Path, allowed: Collection[Path]) -> VerificationReport:
        assert not output.exists()
        seen.append((values_of(before)["weight"], values_of(after)["weight"]))
        return verify_files(before, after, allowed, runtime=False)

    report = prune(external_file, output, verify=look)
    assert_same_bits(seen[0][1], expected(seen[0][0], 0.5, "l1", None))
    assert report.verification is not None
    assert [(check.name, check.outcome) for check in report.verification.checks[:2]] == [
        ("bytes", "passed"),
        ("checker", "passed"),
    ]


def test_the_check_of_bytes_counts_no_zeros_that_were_there(tmp_path: pathlib.Path) -> None:
    weight = normals(30, 40)
    weight[:5] = -0.0
    report = prune(saved(tmp_path / "m.onnx", model_of("y = MatMul(x, w)", {"w": weight})))
    assert report.verification is not None
    detail = report.verification.checks[0].detail
    assert detail == "400 values became zero and 200 negative zeros became +0.0, every other byte is as it was"
    assert report.totals.zeros_after - report.totals.zeros_before == 400


def test_bytes_are_compared_whatever_else_is_verified(small_file: pathlib.Path) -> None:
    def content(before: pathlib.Path, after: pathlib.Path, allowed: Collection[Path]) -> VerificationReport:
        return VerificationReport((Check("mine", "passed"),))

    report = prune(small_file, verify=content)
    assert report.verification is not None
    assert [check.name for check in report.verification.checks] == ["bytes", "mine"]


def test_a_further_check_knows_what_may_change_and_compares_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, compared = two_weights(tmp_path), []

    def compare(*words: Any, allowed: Any, **more: Any) -> Any:
        compared.append(allowed)
        return compare_bytes(*words, allowed=allowed, **more)

    monkeypatch.setattr("onnx_tools.rewrite.compare_bytes", compare)
    monkeypatch.setattr("onnx_tools.verify.compare_bytes", compare)
    chosen = Selection(min_elements=0, include=("v",))
    report = prune_file(path, config=PruningConfig(0.5), selection=chosen, verify=partial(verify_files, runtime=False))
    assert [weight.name for weight in report.weights] == ["v"]
    assert compared == [{(("graph", 0), ("initializer", 1))}]


def test_an_output_that_exists_needs_force(tmp_path: pathlib.Path) -> None:
    path = two_weights(tmp_path)
    output = tmp_path / "pruned.onnx"
    output.write_bytes(b"old")
    with pytest.raises(OutputRefused):
        prune(path, output)
    assert output.read_bytes() == b"old"
    prune(path, output, force=True)
    assert our_metadata(output)


def test_the_report_of_a_file(small_file: pathlib.Path) -> None:
    report = prune_file(
        small_file,
        small_file.with_name("pruned.onnx"),
        config=PruningConfig(0.5, "l2", "row"),
        selection=EVERY_SIZE,
        extras=Extras(statistics=True, hashes=True, compressed=True),
    )
    (weight,) = report.weights
    assert (weight.name, weight.op_types, weight.consumers) == ("weight", ("MatMul",), ("h",))
    assert (weight.shape, weight.dtype, weight.parameters, weight.bytes) == ((16, 32), "float32", 512, 2048)
    assert (weight.nonzero_before, weight.nonzero_after, weight.pruned) == (512, 256, 256)
    assert weight.target_sparsity == 0.5
    assert weight.scores is not None
    scores = oracles.element_scores(values_of(small_file)["weight"], "l2")
    assert (weight.scores.min, weight.scores.max) == (scores.min(), scores.max())
    (file,) = report.files
    assert (file.role, file.name_before, file.name_after) == ("model", "model.onnx", "pruned.onnx")
    assert file.bytes_before == small_file.stat().st_size
    assert file.bytes_after == small_file.with_name("pruned.onnx").stat().st_size
    assert file.sha256_before != file.sha256_after is not None
    assert file.compressed_before > file.compressed_after
    found = find_weights(onnx.load(small_file))
    assert [item.name for item in report.left_alone] == [item.name for item in found.left_alone]
    assert (report.input, report.output, report.changed, report.warnings) == ("model.onnx", "pruned.onnx", True, ())
    assert report.configuration.granularity == "row"
    assert report.versions.oxiprune == __version__


def test_the_report_with_gradients(tmp_path: pathlib.Path) -> None:
    path = two_weights(tmp_path)
    report = prune(path, gradients=values_of(path))
    assert report.configuration.metric == "taylor:gradients"
    assert json.loads(our_metadata(path)[0])["metric"] == "taylor:gradients"


@pytest.mark.parametrize("dry_run", [True, False])
def test_progress_is_told(tmp_path: pathlib.Path, dry_run: bool) -> None:
    told: list[tuple[str, int, int]] = []
    prune(two_weights(tmp_path), dry_run=dry_run, progress=lambda *what: told.append(what))
    assert told == [("w", 0, 2000), ("v", 1200, 2000), ("", 2000, 2000)]


MODELS = (
    "basic_pitch",
    "digits_cnn_bn",
    "digits_resnet_ext",
    "digits_resnet_fp16",
    "digits_vit",
    "gtcrn",
    "magika_v3_3",
    "mnist_cntk",
    "silero_vad",
    "skl_mlp_zipmap",
    "superres_ppp_customop",
    "ultraface_rfb320",
)


def corpus_model(corpus: list[pathlib.Path], name: str) -> pathlib.Path:
    return next(path for path in corpus if path.parent.name == name)


def test_every_model_of_the_corpus_is_here(corpus: list[pathlib.Path]) -> None:
    assert {path.parent.name for path in corpus} == {*MODELS, "digits_resnet_int8_qdq"}


@pytest.mark.parametrize("granularity", ["unstructured", "row"])
@pytest.mark.parametrize("name", MODELS)
def test_real_models(corpus: list[pathlib.Path], tmp_path: pathlib.Path, name: str, granularity: str) -> None:
    pytest.importorskip("onnxruntime")
    model, output = corpus_model(corpus, name), tmp_path / "pruned.onnx"
    report = prune_file(model, output, config=PruningConfig(0.5, "l1", granularity), verify=verify_files)

    chosen = {weight.name for weight in report.weights}
    weights = [w for w in find_weights(onnx.load(model, load_external_data=False)).weights if w.name in chosen]
    comparison = compare_bytes(model, output, allowed=[weight.path for weight in weights])
    assert not comparison.violations
    newly_zero = report.totals.zeros_after - report.totals.zeros_before
    assert comparison.newly_zero == newly_zero
    unchanged = name == "gtcrn" and granularity == "unstructured"
    assert report.changed == (newly_zero > 0) == (not unchanged)
    if unchanged:
        assert output.read_bytes() == model.read_bytes()
    elif granularity == "unstructured":
        wanted_zeros = sum(wanted(0.5, weight.parameters) for weight in report.weights)
        assert report.totals.pruned == wanted_zeros
        assert report.totals.zeros_after >= wanted_zeros
    assert report.verification is not None
    outcomes = {check.name: check.outcome for check in report.verification.checks}
    assert not report.verification.failed
    assert unchanged or outcomes["runtime"] == ("warning" if name == "superres_ppp_customop" else "passed")


def test_real_models_agree_with_the_oracle(corpus: list[pathlib.Path], tmp_path: pathlib.Path) -> None:
    model = corpus_model(corpus, "mnist_cntk")
    report = prune_file(model, tmp_path / "pruned.onnx", config=PruningConfig(0.5), selection=EVERY_SIZE)
    before, after = values_of(model), values_of(tmp_path / "pruned.onnx")
    assert len(report.weights) == 3
    for weight in report.weights:
        assert_same_bits(after[weight.name], expected(before[weight.name], 0.5, "l1", None))
