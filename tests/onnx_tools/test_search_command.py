"""`oxiprune search`: what it writes, what it says, and what it refuses."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_tools.cli import search_options
from onnx_tools.quality import reading
from onnx_tools.renderers.json_renderer import report_schema
from onnx_tools.search.options import OBJECTIVES
from tests.command import refused, run, tree

pytest.importorskip("onnxruntime")

NETWORK = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,16] x) => (float[N,8] y) { h = MatMul (x, a)  r = Relu (h)  y = MatMul (r, b) }"""


@pytest.fixture
def model(tmp_path):
    made = onnx.parser.parse_model(NETWORK)
    random = np.random.default_rng(4)
    arrays = {"a": random.standard_normal((16, 48)), "b": random.standard_normal((48, 8))}
    arrays["a"] *= random.random((16, 48)) ** 3
    made.graph.initializer.extend(
        numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return path


@pytest.fixture
def data(model, tmp_path):
    """Inputs, and what the model makes of them as labels."""
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(model).graph.initializer}
    x = np.random.default_rng(5).standard_normal((400, 16)).astype(np.float32)
    y = (np.maximum(x @ weights["a"], 0) @ weights["b"]).argmax(1)
    path = tmp_path / "data.npz"
    np.savez(path, x=x, y=y)
    return path


FEW = ("--resolution", 0.05, "--max-trials", 25, "--min-elements", 0)


def search(model, *words):
    return run("search", model, "-o", model.with_name("out.onnx"), *FEW, *words)


def test_finds_writes_and_tells(model, data, tmp_path):
    files = {name: tmp_path / name for name in ("policy.toml", "r.html", "r.md", "r.csv", "r.json")}
    reports = [word for name in files if name != "policy.toml" for word in ("--report", files[name])]
    words = ("--data", data, "--eval", "top1", "--max-drop", 0.1, "--policy-out", files["policy.toml"], *reports)
    result = search(model, *words)
    assert result.exit_code == 0, result.stderr
    told = json.loads(files["r.json"].read_text())
    jsonschema.validate(told, report_schema())
    assert told["policy"] == files["policy.toml"].read_text()
    assert told["best"]["sparsity"] > 0.2
    assert told["confirmed"]["quality"] == 1 - told["confirmed"]["drop"] >= 0.9 - 1e-9
    assert (told["confirmed"]["cases"], told["confirmed_held_out"]["cases"]) == (280, 120)
    for part in ("the answer", "Quality on cases held out", "oxiprune prune model.onnx -o out.onnx --policy"):
        assert part in " ".join(result.stdout.split())
    again = run("prune", model, "-o", tmp_path / "again.onnx", "--policy", files["policy.toml"], "--min-elements", 0)
    assert again.exit_code == 0
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()


def test_goes_on_from_its_log_and_prints_json(model, data):
    words = ("--data", data, "--eval", "top1", "--max-drop", 0.1, "--json", "--log", model.with_name("l.jsonl"))
    first, second = (json.loads(search(model, *words, "-f").stdout) for _ in range(2))
    assert first == second
    assert len(model.with_name("l.jsonl").read_text().splitlines()) == len(first["trials"])


@pytest.mark.parametrize("metric", ["wanda", "sparsegpt"])
def test_methods_with_data(model, data, tmp_path, metric):
    words = (
        "--data",
        data,
        "--eval",
        "top1",
        "--max-drop",
        0.1,
        "--metric",
        metric,
        "--repair",
        "--allocation",
        "uniform",
    )
    told = json.loads(search(model, *words, "--json").stdout)
    how = f"{metric} + least-squares + bias, order once, damping 0.1, on part:0:data.npz"
    assert told["settings"]["method"].startswith(how)
    assert told["confirmed"]["cases"] + told["confirmed_held_out"]["cases"] == 320
    assert told["confirmed"]["drop"] <= 0.1
    assert set(tree(tmp_path)) == {"model.onnx", "data.npz", "out.onnx", "out.onnx.search.jsonl"}


@pytest.mark.parametrize("how", [("--metric", "wanda"), ("--metric", "sparsegpt", "--repair"), ("--repair",)])
def test_the_command_in_the_report_makes_the_output_again(model, data, tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    words = ("--data", data, "--eval", "top1", "--max-drop", 0.2, "--calibration", data, "--policy-out", "POLICY.toml")
    told = json.loads(search(model, *words, *how, "--max-trials", 3, "--json").stdout)
    assert told["warnings"][0].startswith("400 cases of --calibration are in --data too")
    out = (tmp_path / "out.onnx").read_bytes()
    assert run(*told["reproduce"].split()[1:], "--force").exit_code == 0
    assert (tmp_path / "out.onnx").read_bytes() == out != model.read_bytes()


def test_what_calibrated_is_named_in_the_command(model, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--data", data, "--eval", "top1", "--max-drop", 0.2, "--policy-out", "POLICY.toml", "--seed", 7)
    told = json.loads(search(model, *words, "--metric", "sparsegpt", "--max-trials", 3, "--json").stdout)
    assert "--calibration part:7:data.npz " in told["reproduce"]
    assert told["warnings"][1:] == []
    out = (tmp_path / "out.onnx").read_bytes()
    assert b"80 cases to calibrate" in out
    assert run(*told["reproduce"].split()[1:], "--force").exit_code == 0
    assert (tmp_path / "out.onnx").read_bytes() == out
    words = ("prune", model, "-o", "o.onnx", "-s", 0.5, "--min-elements", 0, "--metric", "wanda", "--calibration")
    for wrong, says in (("part:x:data.npz", "part:SEED:DATA"), ("part:0:", "part:SEED"), ("part:0:no.npz", "no.npz")):
        refused(run(*words, wrong), 2, says)


def test_channels_that_leave_are_made_up_for(model, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--eval", "drift", "--data", "data.npz", "--max-drop", 0.3, "--granularity", "channel")
    looking = (
        "--repair",
        "--calibration",
        "{parent}/../data.npz",
        "--damping",
        0.02,
        "--provider",
        "CPUExecutionProvider",
    )
    (tmp_path / tmp_path.name).mkdir()
    plain = json.loads(search(model, *words, "--json").stdout)
    told = json.loads(search(model, *words, *looking, "--json", "--force", "--log", "l.jsonl").stdout)
    assert told["best"]["sparsity"] > plain["best"]["sparsity"]
    assert "least-squares + bias, order once, damping 0.02, on data.npz" in told["settings"]["method"]
    out = (tmp_path / "out.onnx").read_bytes()
    assert run(*told["reproduce"].split()[1:], "--force").exit_code == 0
    assert (tmp_path / "out.onnx").read_bytes() == out


def test_a_confidence_makes_the_bar_hold_beyond_the_cases(model, data):
    words = ("--data", data, "--eval", "top1", "--max-drop", 0.1, "--json", "-f")
    risky, sure = (json.loads(search(model, *words, *more).stdout) for more in ((), ("--confidence", 0.95)))
    assert sure["best"]["sparsity"] < risky["best"]["sparsity"]
    assert sure["settings"]["confidence"] == 0.95
    assert sure["confirmed"]["drop"] < sure["confirmed"]["high"] < 0.11
    assert {trial["key"] for trial in risky["trials"]} & {trial["key"] for trial in sure["trials"]}


def test_cases_that_calibrate_and_score_are_told(model, data, tmp_path):
    arrays = dict(np.load(data))
    np.savez(tmp_path / "some.npz", x=arrays["x"][390:])
    np.savez(tmp_path / "other.npz", x=arrays["x"] + 1)

    def warned(command, *words):
        words = (*words, "--data", data, "--eval", "drift", "--repair", "--min-elements", 0, "--json")
        result = run(command, model, *words)
        return [text for text in json.loads(result.stdout)["warnings"] if "--calibration" in text]

    sensitivity = ("sensitivity", "--sparsities", 0.5, "--calibration")
    (told,) = warned(*sensitivity, tmp_path / "some.npz")
    assert told.startswith("10 cases of --calibration are in --data too")
    assert warned(*sensitivity, tmp_path / "other.npz") == []
    assert warned("sensitivity", "--sparsities", 0.5) == []


def test_the_command_is_told_in_one_line_however_long(model, data, tmp_path):
    words = ("--data", data, "--eval", "top1", "--max-drop", 0.2, "--report", tmp_path / "r.json")
    told = search(model, *words, "--include", "*" * 80).stdout.splitlines()[-1]
    assert told == "The same again: " + json.loads((tmp_path / "r.json").read_bytes())["reproduce"]


def test_repair_keeps_more_than_magnitude(model, data):
    def most(*more):
        words = ("--data", data, "--eval", "drift", "--max-drop", 0.3, "--calibration", data, "--allocation", "uniform")
        return json.loads(search(model, *words, "--json", "-f", "--no-climb", *more).stdout)["best"]["sparsity"]

    words = ("--data", data, "--eval", "drift", "--max-drop", 0.3, "--allocation", "uniform", "--no-climb", "--json")
    magnitude = json.loads(search(model, *words).stdout)["best"]["sparsity"]
    assert most("--repair") > magnitude
    assert most("--metric", "sparsegpt") > magnitude


def function(folder, name, body):
    (folder / f"{name}.py").write_text(f"import onnx\ndef score(path):\n    {body}\n", encoding="utf-8")
    return f"{name}:score"


def test_an_own_function(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    body = "return -sum(bytes(t.raw_data).count(bytes(4)) for t in onnx.load(path).graph.initializer)"
    told = json.loads(
        search(model, "--eval", function(tmp_path, "searched_zeros", body), "--max-drop", 300, "--json").stdout
    )
    zeros = sum(weight["parameters"] - weight["kept"] for weight in told["weights"])
    assert 250 < zeros <= 300
    assert told["confirmed"] == {"quality": -zeros, "drop": zeros, "low": None, "high": None, "cases": None}


@pytest.mark.parametrize(
    ("name", "body", "says"),
    [
        ("searched_raises", "raise ValueError('no labels')", "it raised ValueError: no labels"),
        ("searched_text", "return 'good'", "must give a number"),
        ("searched_nan", "return float('nan')", "gave NaN"),
    ],
)
def test_a_function_that_fails(model, tmp_path, monkeypatch, name, body, says):
    monkeypatch.chdir(tmp_path)
    text = function(tmp_path, name, body)
    refused(search(model, "--eval", text, "--max-drop", 1), 2, f"{name}:score on", "model.onnx", says)
    assert not model.with_name("out.onnx").exists()


def test_a_function_that_fails_in_a_trial_is_logged(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    body = "return 1.0 if not onnx.load(path).metadata_props else None"
    refused(
        search(model, "--eval", function(tmp_path, "searched_once", body), "--max-drop", 1), 2, "searched_once:score"
    )
    (line,) = model.with_name("out.onnx.search.jsonl").read_text().splitlines()
    assert json.loads(line)["error"].startswith("uniform 0.5: searched_once:score on")


def test_nothing_within_the_bar(model, data):
    words = ("--data", data, "--eval", "drift", "--max-drop", 0)
    refused(search(model, *words), 1, "trials drops by 0 or less", "Nothing was written")


TOP1 = ("--eval", "top1", "--max-drop", 0.1)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (TOP1, "give --data"),
        (("--eval", "top1", "--data", "data.npz"), "--max-drop"),
        ((*TOP1, "--data", "none.npz"), "none.npz"),
        ((*TOP1, "--data", "data.npz", "--granularity", "2:4"), "nothing to search"),
        ((*TOP1, "--data", "data.npz", "--objective", "macs"), "goes with --granularity channel"),
        ((*TOP1, "--data", "data.npz", "--objective", "speed"), "sparsity, bytes, macs"),
        ((*TOP1, "--data", "data.npz", "--metric", "taylor:g.npz"), "unknown metric"),
        ((*TOP1, "--data", "data.npz", "--allocation", "best"), "best"),
        ((*TOP1, "--data", "data.npz", "--calibration", "data.npz"), "nothing looks at the data of --calibration"),
        ((*TOP1, "--data", "data.npz", "--granularity", "channel", "--metric", "wanda"), "does not go with --metric"),
        ((*TOP1, "--data", "data.npz", "--repair-by", "bias"), "--repair-by goes with --repair"),
        ((*TOP1, "--data", "data.npz", "--damping", "0.5"), "--damping goes with"),
        ((*TOP1, "--data", "data.npz", "--granularity", "channel", "--policy-out", "p.toml"), "--policy-out"),
        ((*TOP1, "--data", "data.npz", "--input-shape", "x=1,16"), "--input-shape"),
        (("--eval", "json:loads", "--max-drop", 1, "--metric", "wanda"), "give --calibration"),
        ((*TOP1, "--data", "data.npz", "--policy-out", "model.onnx"), "--policy-out model.onnx"),
        ((*TOP1, "--data", "data.npz", "--log", "data.npz"), "--log data.npz: a model, its data or an input"),
        ((*TOP1, "--data", "data.npz", "--log", "none/l.jsonl"), "--log none/l.jsonl: the folder none does not exist"),
        ((*TOP1, "--data", "data.npz", "--log", "l", "--policy-out", "l"), "--policy-out l: --log writes there too"),
        ((*TOP1, "--data", "data.npz", "--confidence", 1), "--confidence"),
        (("--eval", "drift", "--max-drop", 0.1, "--data", "data.npz", "--confidence", 0.9), "differences case by case"),
        ((*TOP1, "--data", "data.npz", "--order", "never"), "use layers or once"),
    ],
)
def test_what_is_refused(model, data, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    refused(search(model, *words), 2, says)
    assert tree(tmp_path) == before


def test_data_that_does_not_fit(model, tmp_path):
    for name, arrays, says in (
        ("input", {"z": np.zeros((3, 16), np.float32), "y": np.zeros(3, int)}, "'x'"),
        ("shape", {"x": np.zeros((3, 15), np.float32), "y": np.zeros(3, int)}, "'x'"),
        ("labels", {"x": np.zeros((3, 16), np.float32)}, "labels"),
        ("nan", {"x": np.full((3, 16), np.nan, np.float32), "y": np.zeros(3, int)}, "NaN"),
        ("empty", {"x": np.zeros((0, 16), np.float32), "y": np.zeros(0, int)}, "empty"),
    ):
        path = tmp_path / f"{name}.npz"
        np.savez(path, **arrays)
        refused(search(model, *TOP1, "--data", path), 2, f"{name}.npz", says)


def test_the_command_knows_what_the_library_knows():
    assert search_options.OBJECTIVES == OBJECTIVES
    assert search_options.QUALITIES == reading.NAMES
