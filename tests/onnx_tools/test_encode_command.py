"""`oxiprune encode`, `decode` and `inspect --encodings`."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnx_tools import OutputRefused, load_masks
from onnx_tools.renderers.json_renderer import report_schema
from tests.command import refused, run, tree


@pytest.fixture
def pruned(tmp_path):
    """A model with one weight, 80 % zeros."""
    random = np.random.default_rng(3)
    values = random.standard_normal((64, 48)).astype(np.float32)
    values[random.random(values.shape) < 0.8] = 0
    x, y = (helper.make_tensor_value_info(name, 1, [1, size]) for name, size in (("x", 64), ("y", 48)))
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(values, "w")])
    path = tmp_path / "pruned.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_encode_and_decode(tmp_path, pruned):
    packed, back = tmp_path / "packed.onnx", tmp_path / "back.onnx"
    encoded = run("encode", pruned, "-o", packed)
    assert (encoded.exit_code, encoded.stderr) == (0, "")
    assert "gaps4" in encoded.stdout
    assert "encoded weights: 1; all decode to the same bits" in encoded.stdout
    assert packed.stat().st_size < 0.4 * pruned.stat().st_size
    decoded = run("decode", packed, "-o", back)
    assert (decoded.exit_code, decoded.stderr) == (0, "")
    assert back.read_bytes() == pruned.read_bytes()


def test_encode_prints_json(tmp_path, pruned):
    report = json.loads(run("encode", pruned, "-o", tmp_path / "o.onnx", "--json", "--no-verify").stdout)
    jsonschema.validate(report, report_schema())
    assert report["command"] == "encode"
    assert report["weights"][0]["encoding"] == "gaps4"
    assert [check["name"] for check in report["verification"]["checks"]] == ["decoded"]
    decoded = json.loads(run("decode", tmp_path / "o.onnx", "-o", tmp_path / "back.onnx", "--json").stdout)
    jsonschema.validate(decoded, report_schema())
    assert (decoded["command"], decoded["weights"][0]["reason"]) == ("decode", "was gaps4")


def test_what_warns_is_on_standard_error(tmp_path, pruned):
    result = run("encode", pruned, "-o", tmp_path / "o.onnx", "--encoding", "sparse", "--quiet", "--no-verify")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("warning: sparse initializers: ")


def test_inspect_encodings(pruned):
    report = json.loads(run("inspect", pruned, "--encodings", "--load-time", "--json").stdout)
    jsonschema.validate(report, report_schema())
    assert report["weights"][0]["smallest"] == "gaps4"
    assert [way["encoding"] for way in report["models"]] == ["dense", "packed", "packed", "sparse"]
    assert report["models"][0]["bytes"] == pruned.stat().st_size
    assert report["models"][1]["load_ratio"] > 0
    assert "packed, prefer size" in run("inspect", pruned, "--encodings").stdout


WAYS = ["dense", "packed, prefer size", "packed, prefer load", "sparse"]


def shown_in_all(words, tmp_path):
    """Run a command, and return the encodings of its JSON report; every other format must have them too."""
    reports = {ending: tmp_path / f"r.{ending}" for ending in ("json", "md", "html")}
    result = run(*words, *(word for file in reports.values() for word in ("--report", file)))
    assert result.exit_code == 0, result.stderr
    for way in WAYS:
        assert all(way in text for text in (result.stdout, reports["md"].read_text(), reports["html"].read_text()))
    assert "Size by encoding" in reports["html"].read_text()
    report = json.loads(reports["json"].read_text())
    jsonschema.validate(report, report_schema())
    return report["encodings"]


@pytest.mark.parametrize("encoding", ["dense", "packed"])
def test_the_report_of_prune_compares_encodings(tmp_path, pruned, encoding):
    out = tmp_path / "out.onnx"
    words = ("-s", 0.9, "--encoding", encoding, "--compare-encodings", "--load-time")
    ways = shown_in_all(("prune", pruned, "-o", out, *words), tmp_path)
    assert ways[0 if encoding == "dense" else 1]["bytes"] == out.stat().st_size
    assert [way["load_ratio"] > 0 for way in ways] == [True] * 4


def test_the_report_of_inspect_compares_encodings(tmp_path, pruned):
    ways = shown_in_all(("inspect", pruned, "--encodings"), tmp_path)
    assert (ways[0]["bytes"], ways[0]["load_ratio"]) == (pruned.stat().st_size, None)


@pytest.mark.parametrize("encoding", ["packed", "sparse"])
def test_prune_and_encode(tmp_path, pruned, encoding):
    dense, packed, back = (tmp_path / name / "m.onnx" for name in ("dense", "packed", "back"))
    for path in (dense, packed, back):
        path.parent.mkdir()
    run("prune", pruned, "-o", dense, "-s", 0.9)
    kept = tmp_path / "r.json"
    run("prune", pruned, "-o", packed, "-s", 0.9, "--encoding", encoding, "--report", kept)
    report = json.loads(kept.read_text())
    jsonschema.validate(report, report_schema())
    assert report["files"][0]["bytes_after"] == packed.stat().st_size < dense.stat().st_size
    assert "decoded" in [check["name"] for check in report["verification"]["checks"]]
    assert sorted(file.name for file in packed.parent.iterdir()) == ["m.onnx"]
    run("decode", packed, "-o", back)
    assert back.read_bytes() == dense.read_bytes()


def test_prune_with_external_data_and_encode(tmp_path, external_file):
    out = tmp_path / "out" / "m.onnx"
    out.parent.mkdir()
    words = ("-s", 0.9, "--min-elements", 0, "--encoding", "packed", "--report", tmp_path / "r.json")
    result = run("prune", external_file, "-o", out, *words)
    assert result.exit_code == 0, result.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert [file["name_after"] for file in report["files"]] == ["m.onnx", "m.onnx.data"]
    assert [file["sha256_after"] is None for file in report["files"]] == [False, False]
    refused(run("prune", external_file, "-o", out, *words), 2, "exists")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["encode", "MODEL", "-o", "MODEL", "-f"], "is the input; choose another output name"),
        (["encode", "MODEL", "-o", "o.onnx", "--encoding", "zip"], "unknown encoding 'zip'"),
        (["encode", "MODEL", "-o", "o.onnx", "--prefer", "beauty"], "use size or load"),
        (["encode", "MODEL", "-o", "o.onnx", "--least-saving", "1"], "must be in [0.0, 1.0)"),
        (["prune", "MODEL", "-s", "0.5", "--in-place", "--encoding", "packed"], "writes a new file"),
        (["prune", "MODEL", "-s", "0.5", "-o", "o.onnx", "--encoding", "zip"], "use dense, packed or sparse"),
        (["decode", "MODEL", "-o", "o.onnx"], "no weight is encoded"),
        (["inspect", "MODEL", "--load-time"], "goes with --encodings"),
        (["prune", "MODEL", "-s", "0.5", "-o", "o.onnx", "--load-time"], "goes with --compare-encodings"),
        (
            [
                "prune",
                "MODEL",
                "-s",
                "0.5",
                "-o",
                "o.onnx",
                "--granularity",
                "channel",
                "--compact",
                "--compare-encodings",
            ],
            "does not go with --compact",
        ),
        (["inspect", "MODEL", "--encodings", "--payoff"], "shows something else than --payoff"),
    ],
)
def test_refusals(tmp_path, pruned, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    refused(run(*(pruned if word == "MODEL" else word for word in words)), 2, message)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["pruned.onnx"]


def test_an_encoded_model_is_refused(tmp_path, pruned):
    packed = tmp_path / "packed.onnx"
    run("encode", pruned, "-o", packed, "--no-verify")
    refused(run("encode", packed, "-o", tmp_path / "o.onnx"), 2, "encoded already; decode the model first")
    refused(run("inspect", packed, "--encodings"), 2, "encoded already")


def test_masks_of_a_run_that_fails_stay_what_they_were(tmp_path, pruned, monkeypatch):
    packed, masks = tmp_path / "packed.onnx", tmp_path / "masks.npz"
    run("encode", pruned, "-o", packed, "--no-verify")
    masks.write_bytes(b"old")
    before = tree(tmp_path)
    words = ("-o", tmp_path / "o.onnx", "-s", 0.9, "--encoding", "packed", "--save-masks", masks)
    refused(run("prune", packed, *words), 2, "encoded already; decode the model first")

    def refuse(*_: object, **__: object) -> None:
        raise OutputRefused("no")

    with monkeypatch.context() as patch:
        patch.setattr("onnx_tools.encodings.pruned.encode_file", refuse)
        refused(run("prune", pruned, *words), 2, "no")
    assert tree(tmp_path) == before
    assert run("prune", pruned, *words).exit_code == 0
    assert load_masks(masks)["w"].sum() == 308


def test_the_verdict_is_that_of_the_encoded_files(tmp_path, pruned):
    kept = tmp_path / "r.json"
    run("prune", pruned, "-o", tmp_path / "o.onnx", "-s", 0.9, "--encoding", "packed", "--report", kept, "-q")
    report = json.loads(kept.read_text())
    after, before = (report["files"][0][f"bytes_{when}"] for when in ("after", "before"))
    assert f"not faster, {round(100 * after / before)} % of the size" in report["payoff"]


def test_warnings_of_encoding_come_too_late_for_conditions(tmp_path, pruned):
    words = ("prune", pruned, "-o", tmp_path / "o.onnx", "-s", 0.9, "--fail-if", "warnings>9")
    refused(run(*words, "--encoding", "packed"), 2, "'warnings' is known only with --encoding dense")
    assert run(*words).exit_code == 0
