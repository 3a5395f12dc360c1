"""Constants added to what nodes give: into a bias where there is one, else by an Add."""

from __future__ import annotations

import pathlib

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_tools.compaction.constants.folds import Fold
from onnx_tools.compaction.mapping.tracing import map_channels
from onnx_tools.compaction.removing.folding import _rounded
from onnx_tools.model_file import DTYPES, ModelFile
from tests.onnx_tools.compacting import compare, feeds_of, half, removed, run, save, with_weights

NOTHING = np.zeros(0, np.int64)

CONV = "y = Conv <pads = [1, 1, 1, 1]> (x, w%s)"
MODELS = {
    "a bias": ("float[4, 2, 3, 3] w, float[4] b", CONV % ", b", ["Conv"]),
    "no bias": ("float[4, 2, 3, 3] w", CONV % "", ["Conv"]),
    "a shared bias": (
        "float[4, 2, 3, 3] w, float[4] b",
        "unused = Conv <pads = [1, 1, 1, 1]> (x, w, b) " + CONV % ", b",
        ["Conv", "Conv"],
    ),
    "a bias that is computed": (
        "float[4, 2, 3, 3] w, float[4] c",
        "b = Neg (c) " + CONV % ", b",
        ["Neg", "Conv", "Add"],
    ),
    "transposed": ("float[2, 4, 3, 3] w", "y = ConvTranspose <pads = [1, 1, 1, 1]> (x, w)", ["ConvTranspose"]),
    "a normalisation": (
        "float[2, 2, 3, 3] v, float[4, 2, 1, 1] w, float[4] s, float[4] b, float[4] m, float[4] n",
        "p = Conv (x, w) q = Abs (n) y = BatchNormalization (p, s, b, m, q)",
        ["Conv", "Abs", "BatchNormalization"],
    ),
    "no place for one": (
        "float[4, 2, 3, 3] w",
        "p = Conv <pads = [1, 1, 1, 1]> (x, w) y = Relu (p)",
        ["Conv", "Relu", "Add"],
    ),
}


def model_of(weights: str, nodes: str) -> onnx.ModelProto:
    head = '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 2, 5, 5] x) => (float[N, 4, 5, 5] y)'
    return with_weights(f"{head} <{weights}> {{ {nodes} }}")


def folded(file: ModelFile, values: np.ndarray, axis: int = 1, at: int = -1) -> pathlib.Path:
    """The model with `values` added to what its node at `at` gives."""
    channels = map_channels(file.skeleton)
    return removed(file, NOTHING, [Fold(channels.index.nodes[at], axis, values)], channels)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_added(tmp_path: pathlib.Path, name: str) -> None:
    weights, nodes, expected_nodes = MODELS[name]
    model = model_of(weights, nodes)
    file, feeds, values = save(model, tmp_path / "model.onnx"), feeds_of(model), np.arange(1.0, 5.0)
    output = folded(file, values)
    (before,), (after,) = run(file.path, feeds), run(output, feeds)
    np.testing.assert_allclose(after, before + values[:, None, None], rtol=0, atol=1e-5)
    onnx.checker.check_model(output, full_check=True)
    assert [node.op_type for node in onnx.load(output).graph.node] == expected_nodes


GEMM = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 6] x) => (float[N, 4] y)
<float[6, 4] w, %s b>
{ y = Gemm %s (x, w, b) }
"""


@pytest.mark.parametrize(
    ("bias", "options", "nodes"),
    [
        ("float[4]", "", ["Gemm"]),
        ("float[4]", "<beta = 0.5>", ["Gemm", "Add"]),
        ("float[1]", "", ["Gemm", "Add"]),
        ("float[1, 4]", "", ["Gemm", "Add"]),
    ],
)
def test_gemm(tmp_path: pathlib.Path, bias: str, options: str, nodes: list[str]) -> None:
    model = with_weights(GEMM % (bias, options))
    file, feeds = save(model, tmp_path / "model.onnx"), feeds_of(model)
    output = folded(file, np.arange(1.0, 5.0))
    np.testing.assert_allclose(run(output, feeds)[0], run(file.path, feeds)[0] + np.arange(1.0, 5.0), atol=1e-5)
    assert [node.op_type for node in onnx.load(output).graph.node] == nodes


OLD = """
<ir_version: 3, opset_import: ["" : 6]>
g (float[3, 2, 5, 5] x, float[4, 2, 3, 3] w) => (float[3, 4, 5, 5] y)
<float[4, 2, 3, 3] w>
{ p = Conv <pads = [1, 1, 1, 1]> (x, w) y = Relu (p) }
"""


@pytest.mark.parametrize("at", [0, 1])
def test_old_models(tmp_path: pathlib.Path, at: int) -> None:
    """Constants are inputs too where initializers had to be; Add was told the axis."""
    file = save(with_weights(OLD), tmp_path / "model.onnx")
    output = folded(file, np.full(4, 100.0), at=at)
    onnx.checker.check_model(output, full_check=True)
    smaller = onnx.load(output).graph
    assert [node.op_type for node in smaller.node] == ["Conv", "Relu"] + ["Add"] * at
    assert [info.name for info in smaller.input] == ["x", "w", smaller.initializer[-1].name]
    assert {a.name: a.i for a in smaller.node[-1].attribute} == ({"broadcast": 1, "axis": 1} if at else {})


BIASED = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 6] x) => (float[N, 3] y)
<float[6, 8] w, float[8] b, float[8, 3] v, float[3] c>
{ p = MatMul (x, w) q = Add (p, b) r = Sigmoid (q) s = MatMul (r, v) y = Add (s, c) }
"""


def test_a_constant_channel_that_leaves(tmp_path: pathlib.Path) -> None:
    """Channels that don't depend on the input are carried into what their reader gives."""
    model = with_weights(BIASED)
    channels = map_channels(model)
    gone = half(channels)
    stays = channels.without(gone).masks(channels.of(channels.index.tensors[0].value))[1]
    w, b, v = (numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer[:3])
    w[:, ~stays] = 0
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(w, "w"))
    constant = 1 / (1 + np.exp(-b.astype(np.float64)))
    values = (constant[:, None] * v)[~stays].sum(0)
    file = save(model, tmp_path / "model.onnx")
    fold = Fold(channels.index.nodes[3], 1, values / 2)
    output = removed(file, gone, [fold, fold], channels)
    compare(file.path, output, feeds_of(model))
    dims = {tensor.name: list(tensor.dims) for tensor in onnx.load(output).graph.initializer}
    assert dims["b"] == [4]


def test_values_of_channels_that_leave_are_left_out(tmp_path: pathlib.Path) -> None:
    model = with_weights(BIASED)
    channels = map_channels(model)
    gone, file = half(channels), save(model, tmp_path / "model.onnx")
    stays = channels.without(gone).masks(channels.of(channels.index.tensors[0].value))[1]
    values = np.where(stays, 0.0, np.nan)
    plain = removed(file, gone)
    output = removed(file, gone, [Fold(channels.index.nodes[0], 1, values)], channels, "other.onnx")
    assert output.read_bytes() == plain.read_bytes()


@pytest.mark.parametrize(
    ("weights", "nodes", "text"),
    [
        ("float[4, 2, 3, 3] w, int32[4] b", "y = Conv (x, w, b)", "its bias 'b' is not of floats"),
        ("float[4, 2, 3, 3] w", "y = Custom <v = float[1] {1.0}> (x, w)", "nothing can be added"),
        ("float[4, 2, 3, 3] w", "y = Custom (x)", "not known to be of floats"),
        ("float[4, 2, 3, 3] w", "z = Custom (w) y = Relu (x)", "the rank of what it gives is not known"),
    ],
)
def test_folds_that_cannot_be(tmp_path: pathlib.Path, weights: str, nodes: str, text: str) -> None:
    model = model_of(weights, nodes)
    model.graph.output[0].type.tensor_type.ClearField("elem_type")
    file = save(model, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=text):
        folded(file, np.ones(4), at=0)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("data_type", DTYPES)
def test_sums_are_rounded_once(data_type: int) -> None:
    """Halfway between two numbers of the type, and a little beside that."""
    dtype = DTYPES[data_type]
    step = float(ml_dtypes.finfo(dtype).eps)
    values = np.array(
        [1 + step / 2, 1 + step * 1.5, 1 + step / 2 * (1 + 1e-6), -1 - step / 2 * (1 - 1e-6), 0.0, np.inf]
    )
    expected = np.array([1.0, 1 + 2 * step, 1 + step, -1.0, 0.0, np.inf])
    if dtype.itemsize < 8:
        assert _rounded(values, data_type).astype(np.float64).tolist() == expected.tolist()
    assert _rounded(values[-2:], data_type).astype(np.float64).tolist() == [0.0, np.inf]
