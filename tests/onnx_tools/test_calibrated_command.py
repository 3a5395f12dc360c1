"""`oxiprune prune` with methods that look at data: what it writes, reports and refuses."""

from __future__ import annotations

import csv
import errno
import io
import json
import pathlib
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

from onnx_tools import DataMethod, Policy, Selection, load_masks, policy_file, prune_channels, prune_file
from onnx_tools.calibration.methods import METHODS, ORDERS, REPAIRS
from onnx_tools.calibration.notes import Outcome
from onnx_tools.cli import calibration_options
from onnx_tools.compaction.choice.config import ChannelConfig
from onnx_tools.renderers.json_renderer import report_schema
from onnx_tools.terminal import WORTH_A_BAR, always_shown
from oxiprune_gpu import PruningConfig
from tests.command import refused, run, tree, weight_of

TWO_LAYERS = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 12] x) => (float[N, 6] y)
    { h = Gemm (x, w, b) r = Relu (h) y = MatMul (r, v) }"""
ONE_BRANCH = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 12] x, bool c) => (float[N, 6] y)
    { h = Gemm (x, w, b) y = If (c) <then_branch = t () => (p) { r = Relu (h) p = MatMul (r, v) },
                                     else_branch = e () => (q) { q = MatMul (h, v) }> }"""
SIZES = {"w": (12, 16), "b": (16,), "v": (16, 6)}
ALL = ("--min-elements", 0)
EVERY_SIZE = Selection(min_elements=0)


def written(path: pathlib.Path, text: str = TWO_LAYERS, **changed: Any) -> pathlib.Path:
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(1)
    tensors = {name: random.standard_normal(shape).astype("f4") for name, shape in SIZES.items()} | changed
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in tensors.items())
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def model(tmp_path: pathlib.Path) -> pathlib.Path:
    return written(tmp_path / "m.onnx")


@pytest.fixture
def x() -> np.ndarray:
    """Inputs that go together, as real ones do."""
    random = np.random.default_rng(2)
    return (random.standard_normal((60, 12)) @ random.standard_normal((12, 12))).astype("f4")


@pytest.fixture
def data(tmp_path: pathlib.Path, x: np.ndarray) -> pathlib.Path:
    """An .npz, with labels beside the input."""
    path = tmp_path / "inputs.npz"
    np.savez(path, x=x, labels=np.arange(60))
    return path


def report_of(*words: object) -> dict[str, Any]:
    result = run("prune", *words, *ALL, "--json")
    assert result.exit_code == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    return report


WAYS: dict[str, tuple[tuple[object, ...], dict[str, Any], Any]] = {
    "wanda": (("-s", 0.5, "--metric", "wanda"), {"choice": "wanda"}, PruningConfig(0.5)),
    "sparsegpt, all at once": (
        ("-s", 0.5, "--metric", "sparsegpt", "--order", "once", "--damping", 0.1),
        {"order": "once", "damping": 0.1},
        PruningConfig(0.5),
    ),
    "2:4": (("--granularity", "2:4", "--metric", "wanda"), {"choice": "wanda"}, PruningConfig(granularity="2:4")),
    "magnitude, repaired": (("-s", 0.5, "--repair"), {"choice": None, "repair": True}, PruningConfig(0.5)),
    "biases and normalisations": (
        ("-s", 0.5, "--repair", "--repair-by", "bias,batch-norm"),
        {"choice": None, "repair": ("bias", "batch-norm")},
        PruningConfig(0.5),
    ),
    "rows, repaired": (
        ("-s", 0.5, "--repair", "--granularity", "row", "--metric", "l2"),
        {"choice": None, "repair": True},
        PruningConfig(0.5, "l2", "row"),
    ),
    "an allocation": (
        ("-s", 0.5, "--metric", "sparsegpt", "--allocation", "erk"),
        {},
        Policy(sparsity=0.5, allocation="erk"),
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_command_writes_what_the_library_does(way, model, data, tmp_path):
    words, options, config = WAYS[way]
    report = report_of(model, "-o", tmp_path / "a.onnx", "--calibration", data, *words)
    values = DataMethod(data, **options).new_values(model, config, EVERY_SIZE)
    prune_file(model, tmp_path / "b.onnx", config=values, selection=EVERY_SIZE)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert report["configuration"]["calibration"]["data"] == "inputs.npz"
    assert str(tmp_path).encode() not in (tmp_path / "a.onnx").read_bytes()


def test_masks_are_repaired(model, data, tmp_path):
    run("prune", model, "-o", tmp_path / "a.onnx", "-s", 0.5, *ALL, "--save-masks", tmp_path / "k.npz")
    words = ("--repair", "--calibration", data, "--save-masks", tmp_path / "after.npz")
    run("prune", model, "-o", tmp_path / "b.onnx", "--masks", tmp_path / "k.npz", *words)
    before, after = (load_masks(tmp_path / name) for name in ("k.npz", "after.npz"))
    assert all(np.array_equal(before[name], after[name]) for name in ("w", "v"))
    assert not np.array_equal(weight_of(tmp_path / "a.onnx", "v"), weight_of(tmp_path / "b.onnx", "v"))


def test_a_policy_says_how_much(model, data, tmp_path):
    policy = tmp_path / "p.toml"
    policy.write_text('sparsity = 0.5\n[[rule]]\nmatch = "v"\nsparsity = 0.25\n')
    words = ("--policy", policy, "--metric", "sparsegpt", "--calibration", data)
    weights = report_of(model, "-o", tmp_path / "o.onnx", *words)["weights"]
    assert [(each["pruned"], each["metric"]) for each in weights] == [(96, "sparsegpt"), (24, "sparsegpt")]
    policy.write_text('sparsity = 0.5\n[[rule]]\nmatch = "v"\nmetric = "l2"\n')
    refused(run("prune", model, "-n", *words, *ALL), 2, "rule 'v' gives the metric l2, but sparsegpt chooses in all")


def outputs(path: pathlib.Path, x: np.ndarray) -> np.ndarray:
    found: np.ndarray = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    return found


def test_whole_channels_are_repaired_and_removed(model, data, x, tmp_path):
    words = (model, "-s", 0.5, "--granularity", "channel", "-q")
    repaired = (*words, "--repair", "--calibration", data)
    for name, more in {"zeros": words, "repaired": repaired, "small": (*repaired, "--compact")}.items():
        assert run("prune", "-o", tmp_path / f"{name}.onnx", *more).exit_code == 0
    zeros, masked, small = (tmp_path / f"{name}.onnx" for name in ("zeros", "repaired", "small"))
    for name in SIZES:
        assert np.array_equal(weight_of(zeros, name) == 0, weight_of(masked, name) == 0)
    assert weight_of(small, "v").shape == (8, 6)
    np.testing.assert_allclose(outputs(small, x), outputs(masked, x), rtol=1e-5, atol=1e-4)
    gaps = [np.square(outputs(each, x) - outputs(model, x)).sum() for each in (masked, zeros)]
    assert gaps[0] < 0.6 * gaps[1]


def test_progress_goes_on_through_the_runs(model, data, tmp_path):
    told: list[tuple[str, int, int]] = []
    method = DataMethod(data, None, repair=True)
    prune_channels(
        model,
        tmp_path / "o.onnx",
        config=ChannelConfig(0.5),
        refit=method.new_values,
        progress=lambda *each: told.append(each),
    )
    done = [each[1] for each in told]
    assert done == sorted(done)
    assert {each[2] for each in told} == {done[-1]}


def test_a_bar_is_shown_however_few_the_runs_are():
    told: list[tuple[str, int, int]] = []
    tell = always_shown(lambda *each: told.append(each))
    assert tell is not None
    tell("w", 1, 2)
    assert told == [("w", WORTH_A_BAR, 2 * WORTH_A_BAR)]
    assert always_shown(None) is None


def test_every_report_tells_of_the_data(model, data, tmp_path):
    reports = {ending: tmp_path / f"r.{ending}" for ending in ("json", "md", "html", "csv")}
    words = [word for file in reports.values() for word in ("--report", file)]
    shown = run(
        *("prune", model, "-o", tmp_path / "o.onnx", "-s", 0.5, "--metric", "sparsegpt", "--repair", *ALL),
        *("--calibration", data, *words),
    ).stdout
    report = json.loads(reports["json"].read_text())
    jsonschema.validate(report, report_schema())
    assert report["configuration"]["calibration"] == {
        **{"data": "inputs.npz", "runs": 4, "order": "layers", "repair": ["least-squares", "bias"]},
        **{"damping": 0.1, "most_damping": 0.1, "backend": "cpu"},
    }
    refitted = {each["name"]: each["refitted"] for each in report["weights"]}
    assert refitted == {"w": 96, "v": 48, "b": 16}
    assert (report["totals"]["weights"], report["totals"]["sparsity_after"]) == (2, 0.5)
    assert [each["scores"] for each in report["weights"][:2]] == [None, None]
    assert "(unstructured, sparsegpt, sparsity 0.5, repaired)" in shown
    assert "refitted" in shown
    rows = list(csv.DictReader(io.StringIO(reports["csv"].read_text())))
    assert [(row["status"], row["refitted"]) for row in rows] == [
        ("pruned", "96"),
        ("pruned", "48"),
        ("refitted", "16"),
    ]
    for ending in ("md", "html"):
        text = reports[ending].read_text()
        parts = ("Refitted", "refitted only", "inputs.npz (4 runs of the model)", *map(str, refitted.values()))
        assert [part for part in parts if part not in text] == []


def test_what_is_not_seen_is_told(tmp_path, x):
    model = written(tmp_path / "m.onnx", ONE_BRANCH)
    np.savez(tmp_path / "d.npz", x=x, c=np.array(True))
    words = (model, "-n", "-s", 0.5, "--calibration", tmp_path / "d.npz")
    report = report_of(*words, "--metric", "wanda")
    assert report["warnings"][0].startswith("'v', 96 parameters, stayed dense, as data does not show")
    assert [each["name"] for each in report["weights"]] == ["w"]
    report = report_of(*words, "--repair")
    assert report["warnings"][0].startswith("'v': pruned, and not repaired: ")
    assert {each["name"]: each["pruned"] for each in report["weights"]} == {"w": 96, "v": 48, "b": 0}


def test_codes_are_not_repaired(tmp_path, data):
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 12] x) => (float[N, 16] y)
        { d = DequantizeLinear (w, s) y = MatMul (x, d) }"""
    codes = np.random.default_rng(4).integers(-99, 99, (12, 16)).astype(np.int8)
    model = written(tmp_path / "q.onnx", text, w=codes, s=np.array(0.1, np.float32))
    report = report_of(model, "-n", "-s", 0.5, "--calibration", data, "--metric", "sparsegpt")
    assert report["warnings"][0].startswith("'w': quantised, so pruned by wanda, and not repaired")
    assert report["weights"][0]["metric"] == "wanda"


def test_damping_that_grew_is_told(model, tmp_path):
    one = np.random.default_rng(5).standard_normal((60, 1)).astype("f4")
    np.savez(tmp_path / "d.npz", x=np.repeat(one, 12, axis=1))
    words = ("-s", 0.5, "--metric", "sparsegpt", "--damping", 1e-30, "--calibration", tmp_path / "d.npz")
    found = report_of(model, "-n", *words)["warnings"]
    assert found[0].startswith("'w': the Hessian was not positive definite, so its damping grew from 1e-30 to 1e-1")
    assert Outcome((), {}, {}, {}).notes(0.01, refits=True) == ()


def test_a_dry_run_and_other_forms_write_what_they_should(model, data, tmp_path):
    words = ("-s", 0.5, "--metric", "sparsegpt", "--calibration", data, *ALL, "-q")
    before = tree(tmp_path)
    assert run("prune", model, "-n", *words).exit_code == 0
    assert tree(tmp_path) == before
    assert run("prune", model, "-o", tmp_path / "dense.onnx", "--verify", *words).exit_code == 0
    encoded = ("--encoding", "packed", "--verify")
    assert run("prune", model, "-o", tmp_path / "packed.onnx", *encoded, *words).exit_code == 0
    met = run("prune", model, "-o", tmp_path / "no.onnx", "--fail-if", "refitted>100", *words)
    assert met.exit_code == 1
    assert not (tmp_path / "no.onnx").exists()
    assert run("prune", model, "--in-place", *words).exit_code == 0
    assert model.read_bytes() == (tmp_path / "dense.onnx").read_bytes()


def test_conditions_on_weights_are_not_about_biases(model, data):
    words = ("-s", 0.5, "--repair", "--calibration", data, *ALL, "-n", "-q", "--fail-if")
    assert run("prune", model, *words, "weight.sparsity<0.5").exit_code == 0
    assert run("prune", model, *words, "weight.sparsity<0.6").exit_code == 1


def test_each_model_has_its_data(model, data, tmp_path):
    other = written(tmp_path / "other.onnx", TWO_LAYERS.replace("x", "image"))
    words = ("-s", 0.5, "--metric", "wanda", *ALL, "-q", "-o", f"{tmp_path}/out/")
    result = run("prune", model, other, *words, "--calibration", data)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {other}: {data}: no array for the input 'image'")
    assert result.stderr.count("\n") == 1
    assert sorted(tree(tmp_path / "out")) == ["m.onnx"]
    np.savez(tmp_path / "m.npz", x=np.load(data)["x"])
    np.savez(tmp_path / "other.npz", image=np.load(data)["x"])
    assert run("prune", model, other, *words, "-f", "--calibration", f"{tmp_path}/{{stem}}.npz").exit_code == 0
    assert sorted(tree(tmp_path / "out")) == ["m.onnx", "other.onnx"]


BAD_DATA: dict[str, tuple[Any, str]] = {
    "another name": ({"y": np.ones((3, 12), "f4")}, "no array for the input 'x'"),
    "another shape": ({"x": np.ones((3, 11), "f4")}, "the input 'x' wants float32 of shape (N, 12)"),
    "another type": ({"x": np.ones((3, 12))}, "the array is float64 of shape (3, 12)"),
    "NaN": ({"x": np.full((3, 12), np.nan, "f4")}, "the array for the input 'x' holds 36 NaN"),
    "empty": ({"x": np.ones((0, 12), "f4")}, "the array for the input 'x' is empty"),
    "no file": (None, "cannot be read: No such file or directory"),
}


@pytest.mark.parametrize("case", BAD_DATA)
@pytest.mark.parametrize("order", ORDERS)
def test_data_that_does_not_fit_is_refused(case, order, model, tmp_path):
    arrays, part = BAD_DATA[case]
    if arrays is not None:
        np.savez(tmp_path / "d.npz", **arrays)
    before = tree(tmp_path)
    words = ("-s", 0.5, "--repair", "--order", order, "--calibration", tmp_path / "d.npz")
    refused(run("prune", model, "-o", tmp_path / "o.onnx", *words, *ALL), 2, "d.npz", part)
    assert tree(tmp_path) == before


def test_what_is_refused_later_is_refused_before_the_runs(model, tmp_path):
    (tmp_path / "o.onnx").write_bytes(b"mine")
    words = ("-s", 0.5, "--repair", "--calibration", tmp_path / "missing.npz")
    refused(run("prune", model, "-o", tmp_path / "o.onnx", *words), 2, "--force")
    np.savez(tmp_path / "d.npz", x=np.ones((3, 12), "f4"))
    words = ("-s", 0.5, "--repair", "--calibration", tmp_path / "d.npz")
    refused(run("prune", model, "-o", tmp_path / "d.npz", "-f", *words), 2, "is an input of this run")


def test_a_full_disk_in_the_cache(model, data, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = tmp_path / "cache"
    words = ("-s", 0.5, "--repair", "--order", "once", "--calibration", data, "--calibration-cache", cache, *ALL)
    with monkeypatch.context() as patched:
        patched.setattr("onnx_tools.calibration.store.np.savez", full)
        refused(run("prune", model, "-o", tmp_path / "o.onnx", *words), 2, "cannot be written: the disk is full")
    assert list(cache.iterdir()) == []
    assert not (tmp_path / "o.onnx").exists()
    assert run("prune", model, "-n", *words).exit_code == 0
    assert len(list(cache.iterdir())) == 2


USAGE: dict[str, tuple[tuple[object, ...], str]] = {
    "no data": (("--metric", "wanda"), "--metric wanda looks at data: give --calibration DATA: an .npz with"),
    "nothing to repair with": (("--repair",), "--repair looks at data: give --calibration DATA"),
    "nothing looks": (("--calibration", "d.npz"), "nothing looks at the data of --calibration: give --metric wanda"),
    "order alone": (("--order", "once"), "--order goes with --calibration"),
    "order": (("--repair", "--calibration", "d", "--order", "all"), "unknown order 'all': use layers or once"),
    "repair": (("--repair", "--repair-by", "luck"), "unknown repair 'luck': use least-squares, bias, batch-norm"),
    "repair by alone": (("--metric", "wanda", "--repair-by", "bias"), "--repair-by goes with --repair"),
    "damping": (("--repair", "--calibration", "d", "--damping", "-1"), "-1 must be a number above 0"),
    "damping of wanda": (
        ("--metric", "wanda", "--calibration", "d", "--damping", 1),
        "--damping goes with --metric sp",
    ),
    "memory": (("--repair", "--calibration", "d", "--calibration-memory", "much"), "'much': give a size, as in"),
    "cache": (("--repair", "--calibration", "d", "--calibration-cache", "c"), "goes with --order once"),
    "rows": (
        ("--metric", "wanda", "--calibration", "d", "--granularity", "row"),
        "--granularity row does not go with --metric wanda",
    ),
    "channels": (
        ("--metric", "sparsegpt", "--calibration", "d", "--granularity", "channel"),
        "--granularity channel does not go with --metric sparsegpt",
    ),
    "provider": (
        ("--repair", "--calibration", "random:0:1", "--provider", "Abacus"),
        "this onnxruntime has no provider 'Abacus'; there are: ",
    ),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_is_one_line(case, model):
    words, part = USAGE[case]
    refused(run("prune", model, "-n", "-s", 0.5, *words, *ALL), 2, part)


def test_the_names_of_the_command_are_those_of_the_library():
    assert calibration_options.DATA_METRICS == policy_file.OF_DATA == METHODS
    assert calibration_options.ORDERS == ORDERS
    assert calibration_options.REPAIRS == REPAIRS
