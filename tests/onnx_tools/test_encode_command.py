"""`oxiprune encode`, `decode` and `inspect --encodings`."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.command import refused, run


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
    assert "1 weights decode to the same bits" in encoded.stdout
    assert packed.stat().st_size < 0.4 * pruned.stat().st_size
    decoded = run("decode", packed, "-o", back)
    assert (decoded.exit_code, decoded.stderr) == (0, "")
    assert back.read_bytes() == pruned.read_bytes()


def test_encode_prints_json(tmp_path, pruned):
    report = json.loads(run("encode", pruned, "-o", tmp_path / "o.onnx", "--json", "--no-verify").stdout)
    assert report["command"] == "encode"
    assert report["weights"][0]["encoding"] == "gaps4"
    assert [check["name"] for check in report["verification"]["checks"]] == ["decoded"]


def test_what_warns_is_on_standard_error(tmp_path, pruned):
    result = run("encode", pruned, "-o", tmp_path / "o.onnx", "--encoding", "sparse", "--quiet", "--no-verify")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("warning: sparse initializers: ")


def test_inspect_encodings(pruned):
    report = json.loads(run("inspect", pruned, "--encodings", "--load-time", "--json").stdout)
    assert report["weights"][0]["smallest"] == "gaps4"
    assert [way["encoding"] for way in report["models"]] == ["dense", "packed", "packed", "sparse"]
    assert report["models"][0]["bytes"] == pruned.stat().st_size
    assert report["models"][1]["load_ratio"] > 0
    assert "packed, prefer size" in run("inspect", pruned, "--encodings").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["encode", "MODEL", "-o", "MODEL", "-f"], "is the input"),
        (["encode", "MODEL", "-o", "o.onnx", "--encoding", "zip"], "unknown encoding 'zip'"),
        (["encode", "MODEL", "-o", "o.onnx", "--prefer", "beauty"], "use size or load"),
        (["encode", "MODEL", "-o", "o.onnx", "--least-saving", "1"], "must be in [0.0, 1.0)"),
        (["decode", "MODEL", "-o", "o.onnx"], "no weight is encoded"),
        (["inspect", "MODEL", "--load-time"], "goes with --encodings"),
        (["inspect", "MODEL", "--encodings", "--payoff"], "leave out --report and --payoff"),
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
