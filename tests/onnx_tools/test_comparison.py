"""Two models compared, against values that are known."""

from __future__ import annotations

import csv
import io
import json

import jsonschema
import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_tools.comparison import compare_files
from onnx_tools.errors import OnnxToolsError
from onnx_tools.renderers import RENDERERS, json_renderer
from onnx_tools.report import to_dict
from onnx_tools.value_comparison import ValueChanges, compare_values
from oxiprune_gpu import ArrayBlocks
from tests.command import refused, run
from tests.onnx_tools.quantised_models import model_of, tensor

VALIDATOR = jsonschema.Draft202012Validator(json_renderer.report_schema())


def saved(folder, name, model, change=None):
    """The model in a file, after `change` was made to a copy of it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if change is not None:
        change(copy)
    path = folder / name
    path.write_bytes(copy.SerializeToString())
    return path


@pytest.fixture
def compared(tmp_path, small_model):
    """Compares `small_model` with itself after a change."""

    def compare(change):
        return compare_files(saved(tmp_path, "a.onnx", small_model), saved(tmp_path, "b.onnx", small_model, change))

    return compare


def with_weight(change):
    """Changes the values of `weight`."""

    def apply(model):
        tensor = model.graph.initializer[1]
        values = numpy_helper.to_array(tensor).copy()
        tensor.CopyFrom(numpy_helper.from_array(change(values), "weight"))

    return apply


def set_at(places, value):
    def change(values):
        values.reshape(-1)[places] = value
        return values

    return with_weight(change)


def test_equal_models(compared):
    report = compared(lambda model: None)
    assert [(weight.name, weight.verdict) for weight in report.weights] == [("weight", "equal")]
    assert (report.others, report.metadata) == ((), ())
    assert report.equal_others == 4
    assert report.totals.equal == 1


def test_more_zeros(compared):
    (weight,) = compared(set_at(slice(0, 100), 0)).weights
    assert (weight.verdict, weight.newly_zero, weight.newly_nonzero, weight.changed) == ("more zeros", 100, 0, 0)
    assert (weight.sparsity_before, weight.sparsity_after) == (0, 100 / 512)


def test_other_values(compared):
    def change(values):
        values.reshape(-1)[:4] += np.float32(0.5)
        values[1, 1] = 0
        return values

    (weight,) = compared(with_weight(change)).weights
    assert (weight.verdict, weight.newly_zero, weight.changed) == ("other values", 1, 4)
    assert weight.max_abs == pytest.approx(0.5)


def test_fewer_zeros(tmp_path, small_model):
    dense = saved(tmp_path, "dense.onnx", small_model)
    sparse = saved(tmp_path, "sparse.onnx", small_model, set_at(slice(0, 7), 0))
    (weight,) = compare_files(sparse, dense).weights
    assert (weight.verdict, weight.newly_nonzero, weight.newly_zero) == ("fewer zeros", 7, 0)


def test_the_sign_of_a_zero_differs_and_is_no_change(tmp_path, small_model):
    old = saved(tmp_path, "a.onnx", small_model, set_at(3, 0.0))
    new = saved(tmp_path, "b.onnx", small_model, set_at(3, -0.0))
    (weight,) = compare_files(old, new).weights
    assert (weight.equal, weight.verdict, weight.changed) == (False, "other values", 0)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_types_are_compared_by_value(compared, dtype):
    (weight,) = compared(with_weight(lambda values: values.astype(dtype))).weights
    assert weight.verdict == "other type"
    assert weight.newly_zero == 0
    assert weight.max_abs < 0.02
    assert (weight.changed == 0) == (dtype is np.float64)


@pytest.mark.parametrize(("codes", "equal"), [([[1, 2], [3, 5]], False), ([[1, 2], [3, 4]], True)])
def test_other_codes_of_the_same_values_are_not_equal(tmp_path, codes, equal):
    def quantised(name, values):
        stored = {"w": tensor(values, TensorProto.INT8), "scale": tensor(np.float32(0))}
        model = model_of("f = DequantizeLinear(w, scale) y = MatMul(x, f)", **stored)
        return saved(tmp_path, name, model)

    (weight,) = compare_files(quantised("a.onnx", [[1, 2], [3, 4]]), quantised("b.onnx", codes)).weights
    assert (weight.equal, weight.changed) == (equal, 0)


def test_other_shapes_are_not_compared(compared):
    (weight,) = compared(with_weight(lambda values: np.concatenate([values, values * 0]))).weights
    assert (weight.verdict, weight.shape_before, weight.shape_after) == ("other shape", (16, 32), (32, 32))
    assert (weight.changed, weight.zeros_before, weight.zeros_after) == (None, 0, 512)
    assert weight.sparsity_after == 0.5


def test_names_that_only_one_has(compared):
    def rename(model):
        model.graph.initializer[1].name = "other"
        model.graph.node[1].input[1] = "other"

    report = compared(rename)
    assert [(weight.name, weight.verdict) for weight in report.weights] == [
        ("other", "only after"),
        ("weight", "only before"),
    ]
    assert (report.totals.only_before, report.totals.only_after) == (1, 1)


def test_other_tensors_and_metadata(compared):
    def change(model):
        model.graph.initializer[0].float_data[0] = 9
        model.graph.node[0].attribute[0].t.CopyFrom(numpy_helper.from_array(np.array([-1, 16]), "value"))
        model.metadata_props.add(key="author", value="x")
        model.producer_name = "else"

    report = compared(change)
    assert [(tensor.kind, tensor.changed) for tensor in report.others] == [("other", 1), ("other", None)]
    assert [(entry.what, entry.before, entry.after) for entry in report.metadata] == [
        ("producer_name", "test", "else"),
        ("metadata author", None, "x"),
    ]


def test_sparse_tensors(tmp_path):
    def model(values):
        graph = onnx.parser.parse_graph("g (float[N, 4] x) => (float[N, 4] y) { y = MatMul (x, w) }")
        stored = numpy_helper.from_array(np.array(values, np.float32), "w")
        places = numpy_helper.from_array(np.arange(len(values)), "places")
        graph.sparse_initializer.append(helper.make_sparse_tensor(stored, places, [4, 4]))
        return helper.make_model(graph)

    one, same, other = (
        saved(tmp_path, f"{number}.onnx", model(values)) for number, values in enumerate(([1, 2], [1, 2], [1, 3]))
    )
    assert compare_files(one, same).others == ()
    assert [tensor.name for tensor in compare_files(one, other).others] == ["w"]


@pytest.mark.parametrize("values", ["ints = [1, 3]", 'strings = ["a", "c"]', "float = 2.0"])
def test_lists_in_attributes(tmp_path, values):
    text = '<ir_version: 8, opset_import: ["" : 17]> g () => (float[N] y) { y = Constant <value_%s> () }'
    first = {"ints": "ints = [1, 2]", "strings": 'strings = ["a", "b"]', "float": "float = 1.0"}[values.split()[0]]
    one, other = (
        saved(tmp_path, f"{number}.onnx", onnx.parser.parse_model(text % content))
        for number, content in enumerate((first, values))
    )
    assert compare_files(one, one).others == ()
    assert [tensor.verdict for tensor in compare_files(one, other).others] == ["other values"]


def test_external_data(external_file, tmp_path):
    assert run("prune", external_file, "-o", tmp_path / "p.onnx", "-s", "0.5", "--min-elements", "1").exit_code == 0
    report = compare_files(external_file, tmp_path / "p.onnx")
    (weight,) = report.weights
    assert (weight.verdict, weight.newly_zero) == ("more zeros", 256)
    assert [(file.model, file.role) for file in report.files] == [
        *(("before", "model"), ("before", "data")),
        *(("after", "model"), ("after", "data")),
    ]
    assert [entry.what for entry in report.metadata] == ["metadata oxiprune"]


def test_values_that_are_not_finite():
    before = np.array([1, np.nan, np.inf, 2, np.nan], np.float32)
    after = np.array([1, np.nan, np.inf, np.inf, 0], np.float32)
    changes = compare_values(ArrayBlocks(before), ArrayBlocks(after))
    assert changes == ValueChanges(0, 1, 1, 0, 1, np.inf, 2)
    other = compare_values(ArrayBlocks(before), ArrayBlocks(before.astype(np.float64)))
    assert other == ValueChanges()


def test_nan_that_signals():
    signals = np.array([0x7F800001, 0], np.uint32).view(np.float32)
    assert compare_values(ArrayBlocks(signals), ArrayBlocks(signals)) == ValueChanges(1, 1)
    quiet = ArrayBlocks(np.array([np.nan, 0]))
    assert compare_values(ArrayBlocks(signals), quiet) == ValueChanges(1, 1)


def test_files_that_are_no_models(small_file, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\xff" * 100)
    with pytest.raises(OnnxToolsError, match="broken"):
        compare_files(small_file, broken)
    refused(run("compare", small_file, broken), 2, "broken.onnx")
    refused(run("compare", small_file, tmp_path / "none.onnx"), 2, "none.onnx")


@pytest.fixture
def pair(tmp_path, small_model):
    def change(model):
        set_at(slice(0, 256), 0)(model)
        model.graph.initializer[0].float_data[0] = 9
        model.doc_string = "<script>alert(1)</script>"

    return saved(tmp_path, "a.onnx", small_model), saved(tmp_path, "b.onnx", small_model, change)


def test_every_format(pair, tmp_path):
    words = [word for name in RENDERERS for word in ("--report", tmp_path / f"r.{name}")]
    result = run("compare", *pair, *words)
    assert result.exit_code == 0, result.output
    assert "more zeros" in result.stdout
    assert "0.0000 -> 0.5000" in result.stdout
    texts = {name: (tmp_path / f"r.{name}").read_text(encoding="utf-8") for name in RENDERERS}
    assert list(VALIDATOR.iter_errors(json.loads(texts["json"]))) == []
    rows = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert [(row["kind"], row["name"], row["newly_zero"]) for row in rows] == [
        ("weight", "weight", "256"),
        ("other", "bias", "0"),
    ]
    assert "| weight | more zeros | 0.0000 | 0.5000 | 256 |" in texts["md"]
    assert "Comparison of two models" in texts["html"]
    assert "alert(1)</script>" not in texts["html"] + texts["md"]


def test_json_on_standard_output(pair):
    shown = json.loads(run("compare", *pair, "--json").stdout)
    assert shown["totals"]["newly_zero"] == 256
    assert shown == shown | json.loads(json_renderer.dumps(to_dict(compare_files(*pair))))


def test_conditions(pair):
    assert run("compare", *pair, "--fail-if", "newly_nonzero>0", "-q").exit_code == 0
    result = run("compare", *pair, "--fail-if", "weight.sparsity>=0.5", "--fail-if", "others_differing>0", "-q")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "error: --fail-if 'weight.sparsity>=0.5' is met: weight 'weight' has 0.5",
        "error: --fail-if 'others_differing>0' is met: it is 1",
    ]


def test_a_report_over_one_of_the_models_is_refused(pair):
    for model in pair:
        refused(run("compare", *pair, "--report", model.rename(model.with_suffix(".json"))), 2)
        model.with_suffix(".json").rename(model)
