"""`oxiprune compact` and `compact_file`: what leaves, what is checked and reported, and what is refused."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_tools import AlreadyEncoded, compact_file
from onnx_tools.compaction.choice.config import ChannelConfig
from onnx_tools.compaction.choice.pruning import prune_channels
from onnx_tools.renderers.json_renderer import report_schema
from onnx_tools.verify import verify_files
from oxiprune_gpu import InvalidOption
from tests.command import refused, run, tree

NETWORK = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,3,H,W] x) => (float[N,5] y)
{ c = Conv (x, w, b)  r = Relu (c)  p = GlobalAveragePool (r)  f = Flatten (p)  y = Gemm <transB=1> (f, v) }"""
GONE = [1, 4, 6]


def network(text=NETWORK, gone=GONE):
    """A convolution of 8 channels and a product that reads them; those `gone` are zero in both."""
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(5)
    w, b, v = (random.standard_normal(shape).astype(np.float32) for shape in ((8, 3, 3, 3), (8,), (5, 8)))
    w[gone], b[gone], v[:, gone] = 0, 0, 0
    model.graph.initializer.extend(map(numpy_helper.from_array, (w, b, v), "wbv"))
    return model


def stored(path, model):
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def masked(tmp_path):
    return stored(tmp_path / "masked.onnx", network())


def test_compacts_and_checks(masked, tmp_path):
    pytest.importorskip("onnxruntime")
    small = tmp_path / "small.onnx"
    result = run("compact", masked, "-o", small, "--input-shape", "x=1,3,8,8")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "8 -> 5" in result.stdout
    assert "onnxruntime loads both" in result.stdout
    shapes = {tensor.name: list(tensor.dims) for tensor in onnx.load(small).graph.initializer}
    assert shapes == {"w": [5, 3, 3, 3], "b": [5], "v": [5, 5]}


def test_json_report(masked, tmp_path):
    shown = json.loads(run("compact", masked, "-o", tmp_path / "o.onnx", "--json", "--no-verify").stdout)
    shown.pop("argument")
    jsonschema.Draft202012Validator(report_schema()).validate(shown)
    layers = {layer["op_type"]: layer for layer in shown["layers"]}
    assert (layers["Conv"]["channels_before"], layers["Conv"]["channels_after"]) == (8, 5)
    assert (layers["Gemm"]["macs_before"], layers["Gemm"]["macs_after"]) == (40, 25)
    assert shown["open_inputs"] == ["axis 2 of 'x' (H)", "axis 3 of 'x' (W)"]
    assert shown["totals"]["removed"] == 3
    assert shown["totals"]["parameters_after"] == 5 * 27 + 5 + 25
    assert shown["staying"][0]["reason"] == "'y' is an output of the model"


def test_a_dry_run_writes_nothing_and_says_the_same(masked, tmp_path):
    before = tree(tmp_path)
    dry = json.loads(run("compact", masked, "--dry-run", "--json").stdout)
    assert tree(tmp_path) == before
    real = json.loads(run("compact", masked, "-o", tmp_path / "o.onnx", "--json").stdout)
    assert (dry["output"], real["output"]) == (None, "o.onnx")
    assert dry["layers"] == real["layers"]
    assert dry["totals"]["parameters_after"] == real["totals"]["parameters_after"]


def test_in_place(masked):
    size = masked.stat().st_size
    assert run("compact", masked, "--in-place", "--quiet").exit_code == 0
    assert masked.stat().st_size < size


def test_nothing_to_remove_is_a_warning_and_a_copy(tmp_path):
    whole = stored(tmp_path / "whole.onnx", network(gone=[]))
    result = run("compact", whole, "-o", tmp_path / "same.onnx", "--quiet")
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: nothing removed: ")
    assert (tmp_path / "same.onnx").read_bytes() == whole.read_bytes()


def test_several_models_and_reports(masked, tmp_path):
    other = stored(tmp_path / "other.onnx", network(gone=[0]))
    result = run("compact", masked, other, "-o", f"{tmp_path}/small/", "--report", f"{tmp_path}/{{stem}}.html", "-q")
    assert result.exit_code == 0
    assert {path.name for path in tmp_path.rglob("*")} >= {"small", "masked.html", "other.html"}
    assert len(list((tmp_path / "small").iterdir())) == 2


def test_latency(masked, tmp_path):
    pytest.importorskip("onnxruntime")
    result = run("compact", masked, "-o", tmp_path / "o.onnx", "--latency", "--json", "--input-shape", "x=1,3,8,8")
    found = json.loads(result.stdout)["latency"]
    assert found["low"] <= found["ratio"] <= found["high"]
    assert found["before"] > 0


def test_a_condition_that_is_met_leaves_no_model(masked, tmp_path):
    result = run("compact", masked, "-o", tmp_path / "o.onnx", "--fail-if", "parameters_ratio<0.9", "--quiet")
    assert result.exit_code == 1
    assert "'parameters_ratio<0.9' is met" in result.stderr
    assert not (tmp_path / "o.onnx").exists()


def test_a_limit_that_nothing_can_keep_leaves_no_model(masked, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("onnx_tools.compaction.compact.write_without", _writes_another(network(gone=[0])))
    result = run("compact", masked, "-o", tmp_path / "o.onnx", "--input-shape", "x=1,3,8,8")
    refused(result, 1, "drift", "Nothing was written")
    assert not (tmp_path / "o.onnx").exists()


def _writes_another(model):
    def write(original, channels, gone, folds, output, *, check, **others):
        check(stored(output.with_name("another.onnx"), model))

    return write


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("-o", "masked.onnx"), ("is the input",)),
        (("-o", "exists.onnx"), ("exists", "--force")),
        (("-o", "no/such/o.onnx"), ("does not exist",)),
        ((), ("where to?",)),
        (("-o", "o.onnx", "--in-place"), ("not both",)),
        (("-o", "o.onnx", "--input-shape", "z=1,2"), ("no input 'z'", "'x'")),
        (("-o", "o.onnx", "--input-shape", "x=1,4,8,8"), ("'x' can't have the shape 1x4x8x8",)),
        (("-o", "o.onnx", "--input-shape", "x=1,3,0,8"), ("'x' can't have the shape 1x3x0x8: sizes are from 1",)),
        (("-o", "o.onnx", "--input-shape", f"x=1,3,{10**24},8"), ("sizes are from 1 to 9223372036854775807",)),
        (("-o", "o.onnx", "--input-shape", "x=1,a"), ("x=1,a",)),
        (("-o", "o.onnx", "--constants", "some"), ("use keep or drop",)),
        (("-o", "o.onnx", "--max-drift", "-1"), ("0 or more",)),
        (("-o", "o.onnx", "--fail-if", "sparsity<1"), ("unknown name 'sparsity'",)),
        (("--dry-run", "--latency"), ("--dry-run",)),
        (("-o", "o.onnx", "--report", "r.doc"), (".html",)),
    ],
)
def test_what_is_refused(words, parts, masked, tmp_path, monkeypatch):
    (tmp_path / "exists.onnx").write_bytes(b"mine")
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    refused(run("compact", "masked.onnx", *words), 2, *parts)
    assert tree(tmp_path) == before


HEAD = '<ir_version: 8, opset_import: ["" : 17, "custom" : 1]>\n'
CYCLE = HEAD + "g (float[1,3] x) => (float[1,3] y) { a = Add (x, b)  b = Relu (a)  y = Relu (b) }"
CUSTOM = NETWORK.replace('"" : 17', '"" : 17, "custom" : 1').replace("r = Relu (c)", "r = custom.Odd (c)")
NO_SHAPE = NETWORK.replace("float[N,3,H,W] x", "float[] x")


def test_a_cycle_is_refused(tmp_path):
    path = stored(tmp_path / "odd.onnx", onnx.parser.parse_model(CYCLE))
    refused(run("compact", path, "-o", tmp_path / "o.onnx"), 2, "Add 'a' waits for what is made of its own result")
    assert not (tmp_path / "o.onnx").exists()


def test_an_unknown_operator_holds_its_channels(tmp_path):
    path = stored(tmp_path / "odd.onnx", network(CUSTOM))
    result = run("compact", path, "-o", tmp_path / "o.onnx")
    assert result.exit_code == 0
    assert "no rule says how channels pass Odd of custom" in " ".join(result.stdout.split())
    assert (tmp_path / "o.onnx").read_bytes() == path.read_bytes()


def test_missing_shapes_and_sizes_are_no_error(tmp_path):
    path = stored(tmp_path / "open.onnx", network(NO_SHAPE))
    result = run("compact", path, "-o", tmp_path / "o.onnx", "--json", "--no-verify")
    assert result.exit_code == 0
    assert {layer["macs_before"] for layer in json.loads(result.stdout)["layers"]} >= {None}


def test_a_data_type_that_nobody_knows_is_refused_by_its_number(tmp_path):
    model = network()
    model.graph.initializer[0].data_type = 99
    path = stored(tmp_path / "odd.onnx", model)
    refused(run("compact", path, "-o", tmp_path / "o.onnx"), 2, "tensor 'w': values of data type 99 can't be cut")
    assert not (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x08\x3a\xff"])
def test_files_that_are_no_models(content, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(content)
    refused(run("compact", tmp_path / "bad.onnx", "-o", tmp_path / "o.onnx"), 2, "bad.onnx")


def test_encoded_models_are_decoded_first(tmp_path):
    zeros = np.zeros((64, 64), np.float32)
    model = onnx.parser.parse_model(HEAD + "g (float[1,64] x) => (float[1,64] y) { y = MatMul (x, w) }")
    model.graph.initializer.append(numpy_helper.from_array(zeros, "w"))
    path = stored(tmp_path / "m.onnx", model)
    assert run("encode", path, "-o", tmp_path / "packed.onnx", "--no-verify").exit_code == 0
    with pytest.raises(AlreadyEncoded, match="decode the model first"):
        compact_file(tmp_path / "packed.onnx", tmp_path / "o.onnx")


def test_unknown_constants_are_refused(masked):
    with pytest.raises(InvalidOption, match="keep or drop"):
        compact_file(masked, dry_run=True, constants="some")


def test_the_help_teaches():
    shown = run("compact", "--help").stdout
    assert "oxiprune compact zeros.onnx -o small.onnx" in shown


def test_progress_grows_through_all_steps(masked, tmp_path):
    told = []
    compact_file(masked, tmp_path / "o.onnx", verify=None, progress=lambda *what: told.append(what))
    names = [name for name, _, _ in told if name]
    assert names == ["channels that go together", "w", "v", "w", "b", "v", "checking"]
    done = [done for _, done, _ in told]
    assert done == sorted(done)
    assert {total for _, _, total in told} == {4 * masked.stat().st_size} == {done[-1]}


def test_progress_of_pruning_channels(masked, tmp_path):
    told = []
    config = ChannelConfig(sparsity=0.5)
    prune_channels(masked, tmp_path / "o.onnx", config=config, progress=lambda *what: told.append(what))
    done = [done for _, done, _ in told]
    assert done == sorted(done)
    assert {total for _, _, total in told} == {3 * masked.stat().st_size} == {done[-1]}


def test_verify_compares_what_can_be_compared_with_a_compacted_model(masked, tmp_path):
    pytest.importorskip("onnxruntime")
    whole, small = stored(tmp_path / "whole.onnx", network(gone=[])), tmp_path / "small.onnx"
    run("compact", masked, "-o", small)
    shown = json.loads(run("verify", whole, small, "--json").stdout)
    checks = {check["name"]: (check["outcome"], check["detail"]) for check in shown["checks"]}
    assert {name: outcome for name, (outcome, _) in checks.items()} == {
        "bytes": "skipped",
        "checker": "passed",
        "runtime": "passed",
        "drift": "measured",
    }
    assert "small.onnx is compacted, 3 groups of channels have left" in checks["bytes"][1]
    assert "those of the masked model can" in checks["bytes"][1]
    assert shown["drifts"][0]["relative_l2"] > 0.01
    assert run("verify", whole, small, "--max-drift", "0.001").exit_code == 1
    assert run("verify", masked, small, "--max-drift", "0.001").exit_code == 0


def test_verify_compares_the_bytes_of_models_that_the_same_channels_have_left(masked, tmp_path):
    run("compact", masked, "-o", tmp_path / "small.onnx", "--no-verify")
    run("compact", masked, "-o", tmp_path / "same.onnx", "--no-verify")
    result = run("verify", tmp_path / "small.onnx", tmp_path / "same.onnx", "--no-runtime")
    assert (result.exit_code, "every byte is equal" in result.stdout) == (0, True)
    result = run("verify", tmp_path / "small.onnx", masked, "--no-runtime")
    assert result.exit_code == 1


def test_masks_are_not_those_of_a_compacted_model(masked, tmp_path):
    whole, small = stored(tmp_path / "whole.onnx", network(gone=[])), tmp_path / "small.onnx"
    run("compact", masked, "-o", small, "--no-verify")
    shown = verify_files(whole, small, masks={"w": np.ones((8, 3, 3, 3), bool)}, runtime=False)
    assert [check.outcome for check in shown.checks if check.name == "masks"] == ["failed"]


NONSENSE = [
    "3",
    '{"compacted": "many"}',
    '{"compacted": -5}',
    '{"compacted": 1e9999}',
    f'{{"compacted": {"9" * 4300}}}',
]


@pytest.mark.parametrize("entry", NONSENSE)
def test_what_others_write_into_the_metadata_does_no_harm(masked, tmp_path, entry):
    model = onnx.load(masked)
    model.metadata_props.add(key="oxiprune", value=entry)
    path, small = stored(tmp_path / "model.onnx", model), tmp_path / "small.onnx"
    assert run("compact", path, "-o", small, "--no-verify").exit_code == 0
    assert verify_files(path, small, runtime=False).checks[0].outcome == "skipped"
    assert verify_files(path, masked, runtime=False).checks[0].outcome == "passed"
