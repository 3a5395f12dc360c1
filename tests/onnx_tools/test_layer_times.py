"""Times of layers: what is read out of a profile of onnxruntime, and whose they are."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_tools import compact_file
from onnx_tools.compaction.costs import layer_times
from onnx_tools.compaction.costs.kernels import by_label, kernel_times, name_nodes
from onnx_tools.compaction.costs.layer_times import LayerTimes, Profiled, measure_layers
from onnx_tools.graph_index import GraphIndex
from onnx_tools.model_file import ModelFile

NETWORK = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,3,16,16] x) => (float[N,2,32] y, float[N,8] z)
{ c = Conv <pads=[1,1,1,1]> (x, w)  n = BatchNormalization (c, s, s, m, s)  r = Relu (n)
  d = Conv <pads=[1,1,1,1]> (r, v)  p = GlobalAveragePool (d)  f = Flatten (p)
  q = MatMul (f, a)  t = Add (q, b)  u = Relu (t)  z = Gemm (u, e)
  k = Reshape (u, shape)  y = MatMul (k, h) }"""
"""Its nodes have no names, as in text they seldom do."""
BRANCHES = """<ir_version: 8, opset_import: ["" : 17]>
g (float[4,64] x, bool cond) => (float[4,64] y)
{ y = If (cond) <then_branch = yes () => (float[4,64] o) { o = MatMul (x, w) },
                 else_branch = no () => (float[4,64] p) { p = MatMul (x, v) }> }"""
SHAPES = {"w": (64, 3, 3, 3), "v": (64, 64, 3, 3), "a": (64, 128), "b": (128,), "e": (128, 8), "h": (64, 32)}
GONE = [1, 4, 6, 33]


def masked(folder: pathlib.Path, *, external: bool = False) -> pathlib.Path:
    """Channels of the first convolution are zero in all that reads them."""
    model = onnx.parser.parse_model(NETWORK)
    random = np.random.default_rng(7)
    values = {name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    values |= {"s": np.ones(64, np.float32), "m": np.zeros(64, np.float32), "shape": np.array([-1, 2, 64])}
    values["w"][GONE] = values["v"][:, GONE] = 0
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in values.items())
    path = folder / "masked.onnx"
    onnx.save(model, path, save_as_external_data=external, location="masked.data", size_threshold=64)
    return path


def kernel(name: str, microseconds: int) -> dict[str, object]:
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": microseconds, "args": {}}


RUN = {"cat": "Session", "name": "model_run", "dur": 99}


def profiled(*runs: dict[str, int]) -> list[dict[str, object]]:
    loaded: list[dict[str, object]] = [{"cat": "Session", "name": "model_loading_uri", "dur": 7}]
    return loaded + [event for run in runs for event in (*(kernel(*pair) for pair in run.items()), RUN)]


@pytest.mark.parametrize(
    ("runs", "found"),
    [
        ([{"oxiprune.0": 900}, {"oxiprune.0": 3}, {"oxiprune.0": 9}, {"oxiprune.0": 5}], {0: 5.0}),
        ([{"oxiprune.2/MatMulAddFusion": 4}], {2: 4.0}),
        ([{"oxiprune.2/GemmSumFusion/oxiprune.3": 4}], {2: 4.0}),
        ([{"oxiprune.2": 4, "oxiprune.21": 5}], {2: 4.0, 21: 5.0}),
        ([{"fused oxiprune.2": 4, "oxiprune.2_nchwc": 4, "oxiprune.2/x": 4, "Conv_2": 4, "oxiprune.": 4}], {}),
        ([], {}),
    ],
    ids=["median of the last three", "fused", "fused with a layer", "prefix", "others", "no run"],
)
def test_kernel_times(runs, found):
    assert kernel_times(profiled(*runs), 3) == found


def test_all_kernels_of_a_run_count_and_runs_that_did_not_end_do_not():
    events = [kernel("oxiprune.1", 2), kernel("oxiprune.1", 3), RUN, kernel("oxiprune.1", 100)]
    assert kernel_times(events, 3) == {1: 5.0}


def test_a_label_that_two_nodes_have_is_no_ones():
    nodes = GraphIndex(onnx.parser.parse_model(BRANCHES.replace("(float[4,64] p) { p", "(float[4,64] o) { o"))).nodes
    assert sorted(node.label for node in nodes) == ["o", "o", "y"]
    assert by_label(dict.fromkeys(range(3), 1.0), nodes) == {"y": 1.0}


def test_nodes_of_branches_are_named_and_those_of_functions_are_not():
    model = onnx.parser.parse_model(BRANCHES)
    function = onnx.FunctionProto(name="f", domain="own", input=["i"], output=["j"])
    function.node.add(op_type="Relu", input=["i"], output=["j"])
    model.functions.append(function)
    model.graph.node.add(op_type="f", domain="own", input=["y"], output=["z"])
    nodes = GraphIndex(onnx.ModelProto.FromString(model.SerializeToString())).nodes
    name_nodes(model, nodes)
    branch = next(attribute for attribute in model.graph.node[0].attribute if attribute.name == "then_branch")
    assert nodes[int(branch.g.node[0].name.removeprefix("oxiprune."))].label == "o"
    assert model.functions[0].node[0].name == ""


@pytest.mark.parametrize("external", [False, True])
def test_every_layer_that_multiplies_has_a_time(tmp_path, external):
    pytest.importorskip("onnxruntime")
    model = masked(tmp_path, external=external)
    report = compact_file(model, tmp_path / "small.onnx", latency=True, input_shapes={"x": (8, 3, 16, 16)})
    assert (report.removed, report.warnings) == (len(GONE), ())
    found = {layer.name: (layer.microseconds_before, layer.microseconds_after) for layer in report.layers}
    assert all(time is not None and time > 0 for name in "cdqzy" for time in found[name])
    assert found["n"] == (None, None)  # it is part of the convolution


PRODUCTS = """<ir_version: 8, opset_import: ["" : 17]>
g (float[64,64] x) => (float[64,64] y) { o = MatMul (x, x)  y = MatMul (o, x) }"""


def measured(folder: pathlib.Path, *texts: str) -> LayerTimes | str:
    pytest.importorskip("onnxruntime")
    given = []
    for number, text in enumerate(texts):
        path = folder / f"{number}.onnx"
        path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
        opened = ModelFile.open(path)
        given.append(Profiled(opened, GraphIndex(opened.skeleton)))
    return measure_layers(*given, None, 0)


def test_a_layer_that_is_gone_has_no_time_after(tmp_path):
    times = measured(tmp_path, PRODUCTS, PRODUCTS.replace("o = MatMul (x, x)  y = MatMul (o, x)", "y = MatMul (x, x)"))
    assert (set(times.before), set(times.after)) == ({"o", "y"}, {"y"})


@pytest.mark.parametrize(
    ("after", "most", "why"),
    [(PRODUCTS.replace("MatMul (o", "Unheard (o"), 1 << 20, "Unheard"), (PRODUCTS, 10, "more than 10 bytes")],
    ids=["does not load", "too long"],
)
def test_why_layers_were_not_timed_is_said_and_no_profile_stays(tmp_path, monkeypatch, after, most, why):
    monkeypatch.setattr(layer_times, "_MOST_BYTES", most)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = measured(tmp_path, PRODUCTS, after)
    assert isinstance(found, str)
    assert found.startswith("latency of layers not measured: ")
    assert why in found
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.onnx", "1.onnx"]
