"""What single weights cost, and a sparsity dealt out by that."""

from __future__ import annotations

import itertools
import json
import math
import sys

import jsonschema
import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_tools import DataMethod, EvaluationFailed, Measured, Policy, Selection, prune_file, read_policy
from onnx_tools.cli import prune_options
from onnx_tools.errors import InvalidPolicy, NothingSelected
from onnx_tools.plain import keys_of, plain_value
from onnx_tools.policy_file import policy_text
from onnx_tools.renderers.curves_plot import plot_curves
from onnx_tools.renderers.json_renderer import report_schema
from onnx_tools.search.allocating import CURVES, Curves, predicted_drop, read_curves, sensitivity_policy
from onnx_tools.search.sensitivity import Sensitivity, measure_sensitivity
from onnx_tools.sensitivity_commands import sensitivity_text
from onnx_tools.sensitivity_report import CurvePoint, SensitivityReport, SensitivitySettings, WeightCurve
from oxiprune_gpu import InvalidOption, InvalidSparsity
from tests.command import refused, run

LAYERS = """<ir_version: 9, opset_import: ["": 19]> g (float[n, 8] x) => (float[n, 8] y) {
  a = MatMul (x, first)  b = Relu (a)  y = MatMul (b, second)
}"""
ALL = Selection(min_elements=0)
LEVELS = (0.25, 0.5, 0.75)


@pytest.fixture
def model(tmp_path):
    made = onnx.parser.parse_model(LAYERS)
    random = np.random.default_rng(3)
    for name, shape in (("first", (8, 16)), ("second", (16, 8))):
        made.graph.initializer.append(numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name))
    path = tmp_path / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def values(path):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


class Norms:
    """Minus the sum of squares that are gone from the model, `weights` of each tensor; a case each tensor."""

    text = "norms"

    def __init__(self, original, **weights):
        self._before = values(original)
        self._weights = weights
        self.used = 0

    def measure(self, path):
        self.used += 1
        after = values(path)
        lost = [
            self._weights.get(name, 1) * ((before - after[name]).astype(np.float64) ** 2).sum()
            for name, before in self._before.items()
        ]
        return Measured(float(-np.mean(lost)), -np.array(lost))


def asked(quality, **options):
    return Sensitivity(quality, **{"sparsities": LEVELS, "selection": ALL, **options})


def test_each_weight_is_pruned_alone(model):
    report = measure_sensitivity(model, asked(Norms(model)))
    assert [(curve.name, curve.parameters, curve.zeros) for curve in report.curves] == [
        ("first", 128, 0),
        ("second", 128, 0),
    ]
    for curve in report.curves:
        squares = np.sort(values(model)[curve.name].astype(np.float64).ravel() ** 2)
        assert [point.zeros for point in curve.points] == [32, 64, 96]
        expected = [squares[:count].sum() / 2 for count in (32, 64, 96)]
        assert [point.drop for point in curve.points] == pytest.approx(expected, rel=1e-6)
        assert all(point.low < point.drop < point.high for point in curve.points)
    assert (report.quality, report.cases) == (0, 2)


def test_granularities_with_a_sparsity_have_one_point(model):
    report = measure_sensitivity(model, asked(Norms(model), granularity="2:4"))
    assert [[(point.sparsity, point.zeros) for point in curve.points] for curve in report.curves] == [[(None, 64)]] * 2


def test_a_method_that_looks_at_data(model):
    data = {"x": np.random.default_rng(1).standard_normal((32, 8)).astype(np.float32)}
    report = measure_sensitivity(model, asked(Norms(model), method=DataMethod(data, "wanda"), sparsities=(0.5,)))
    assert [curve.points[0].zeros for curve in report.curves] == [64, 64]


def test_what_the_log_has_is_not_measured_again(model, tmp_path):
    log = tmp_path / "log.jsonl"
    quality = Norms(model)
    first = measure_sensitivity(model, asked(quality, log=log, sparsities=LEVELS[:2]))
    assert quality.used == 1 + 4
    with log.open("ab") as stream:
        stream.write(b'{"key": "cut')
    again = measure_sensitivity(model, asked(quality, log=log))
    assert quality.used == 1 + 4 + 1 + 2
    assert [curve.points[:2] for curve in again.curves] == [curve.points for curve in first.curves]
    assert "1 lines" in again.warnings[0]
    measure_sensitivity(model, asked(quality, log=log, metric="random:1"))
    assert quality.used == 8 + 1 + 6


def test_a_run_that_was_stopped_goes_on(model, tmp_path):
    quality = Norms(model)
    measure = quality.measure

    def fails(path):
        if quality.used == 3:
            raise EvaluationFailed("stopped")
        return measure(path)

    quality.measure = fails
    with pytest.raises(EvaluationFailed, match="stopped"):
        measure_sensitivity(model, asked(quality, log=tmp_path / "log"))
    quality.measure = measure
    measure_sensitivity(model, asked(quality, log=tmp_path / "log"))
    assert quality.used == 3 + 1 + 4


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"sparsities": ()}, InvalidOption, "no sparsities"),
        ({"sparsities": (1.0,)}, InvalidSparsity, "1"),
        ({"metric": "taler"}, InvalidOption, "taler"),
        ({"selection": Selection()}, NothingSelected, "no weight was selected"),
    ],
)
def test_what_makes_no_sense_is_refused(model, options, kind, said):
    with pytest.raises(kind, match=said):
        measure_sensitivity(model, asked(Norms(model), **options))


def test_cases_that_change_are_refused(model):
    class Growing(Norms):
        def measure(self, path):
            super().measure(path)
            return Measured(0.0, np.zeros(self.used))

    with pytest.raises(InvalidOption, match="2 cases of a pruned model, 1 of"):
        measure_sensitivity(model, asked(Growing(model)))


def curve(name, parameters, *drops, zeros=0, levels=LEVELS):
    points = [
        CurvePoint(level, math.floor(level * parameters), -drop, drop, None, None)
        for level, drop in zip(levels, drops, strict=True)
    ]
    return WeightCurve(name, ("MatMul",), parameters, zeros, tuple(points))


def sparsities_of(policy):
    return [rule.sparsity if rule.prune else 0 for rule in policy.rules]


@pytest.mark.parametrize("seed", range(20))
def test_no_other_choice_loses_less(seed):
    random = np.random.default_rng(seed)
    sizes = [int(size) for size in random.integers(1, 50, 5)]
    curves = Curves(
        tuple(curve(f"w{i}", size, *random.normal(0.3, 1, 3).cumsum()) for i, size in enumerate(sizes)),
        "unstructured",
        "l1",
    )
    for sparsity in (0, 0.25, 0.4, 0.6, 0.75):
        policy = sensitivity_policy(curves, sparsity)
        assert fallen(sizes, sparsities_of(policy)) >= sparsity * sum(sizes)
        drops = [{0: 0.0, **{point.sparsity: point.drop for point in each.points}} for each in curves.curves]
        best = min(
            sum(drop[level] for drop, level in zip(drops, levels, strict=True))
            for levels in itertools.product((0, *LEVELS), repeat=5)
            if fallen(sizes, levels) >= sparsity * sum(sizes)
        )
        assert predicted_drop(curves, policy) == pytest.approx(best, abs=1e-12)


def fallen(sizes, levels):
    """Elements that fall, each weight rounded up."""
    return sum(math.ceil(size * level) for size, level in zip(sizes, levels, strict=True))


def test_the_policy_prunes_as_it_says(model, tmp_path):
    report = measure_sensitivity(model, asked(Norms(model, second=100)))
    (tmp_path / "policy.toml").write_text(policy_text(sensitivity_policy(Curves.of(report), 0.5)))
    policy = read_policy(tmp_path / "policy.toml")
    pruned = prune_file(model, tmp_path / "out.onnx", config=policy, selection=ALL)
    assert {weight.name: weight.sparsity_after for weight in pruned.weights} == {"first": 0.75, "second": 0.25}


def test_points_that_are_not_finite_are_not_chosen():
    curves = Curves((curve("a", 8, 0, 0, -math.inf), curve("b", 8, 9, math.nan, math.inf)), "unstructured", "l1")
    assert sparsities_of(sensitivity_policy(curves, 0.25)) == [0.5, 0]
    with pytest.raises(InvalidOption, match=r"0\.375 is reached"):
        sensitivity_policy(curves, 0.5)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, math.nan])
def test_sparsities_out_of_range(sparsity):
    with pytest.raises(InvalidSparsity):
        sensitivity_policy(Curves((curve("a", 8, 0, 0, 0),), "unstructured", "l1"), sparsity)


def test_curves_are_read_back(model, tmp_path):
    report = measure_sensitivity(model, asked(Norms(model)))
    (tmp_path / "curves.json").write_text(json.dumps(plain_value(report)))
    found = read_curves(tmp_path / "curves.json")
    assert [each.points for each in found.curves] == [each.points for each in report.curves]
    assert policy_text(sensitivity_policy(found, 0.6)) == policy_text(sensitivity_policy(Curves.of(report), 0.6))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        '{"command": "prune", "settings": {}, "curves": []}',
        '{"command": "sensitivity", "settings": {"granularity": "2:4", "metric": "l1"}, "curves": [{"points": 3}]}',
        '{"command": "sensitivity", "settings": {"granularity": "2:4", "metric": "l1"}, '
        '"curves": [{"name": "a", "points": [], "parameters": -1, "zeros": 0}]}',
    ],
)
def test_files_that_are_no_curves(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(InvalidPolicy, match=r"c\.json"):
        read_curves(tmp_path / "c.json")
    with pytest.raises(InvalidPolicy, match="cannot be read"):
        read_curves(tmp_path / "none.json")


def test_the_table_begins_with_what_drops_most(model):
    report = measure_sensitivity(model, asked(Norms(model, second=100)))
    rows = [line.split()[0] for line in sensitivity_text(report).splitlines()[3:]]
    assert rows == ["Weight", "second", "first"]


def test_the_command(model, tmp_path):
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(1).standard_normal((40, 8)).astype(np.float32))
    given = ["sensitivity", model, "--data", tmp_path / "data.npz", "--eval", "cosine", "--min-elements", "0"]
    shown = run(*given, "--sparsities", "0.5,0.75", "-s", "0.6", "-o", tmp_path / "p.toml", "--json")
    assert shown.exit_code == 0, shown.output
    content = json.loads(shown.stdout)
    jsonschema.validate(content, report_schema())
    assert [len(each["points"]) for each in content["curves"]] == [2, 2]
    assert isinstance(read_policy(tmp_path / "p.toml"), Policy)


def test_the_command_with_a_method_that_looks_at_data(model, tmp_path):
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(1).standard_normal((40, 8)).astype(np.float32))
    given = ["sensitivity", model, "--data", tmp_path / "data.npz", "--eval", "cosine", "--min-elements", "0", "--json"]
    shown = run(*given, "--sparsities", "0.5", "--metric", "wanda", "--repair")
    content = json.loads(shown.stdout)
    assert content["cases"] == 32
    assert content["settings"]["method"].startswith("wanda + least-squares")


@pytest.fixture
def curves_file(model, tmp_path):
    report = measure_sensitivity(model, asked(Norms(model, second=100)))
    (tmp_path / "curves.json").write_text(json.dumps(plain_value(report)))
    return tmp_path / "curves.json"


def test_prune_deals_out_by_curves(model, tmp_path, curves_file):
    given = ["prune", model, "-o", tmp_path / "out.onnx", "--min-elements", "0", "--json"]
    shown = run(*given, "-s", "0.5", "--allocation", f"{CURVES}{curves_file}")
    assert shown.exit_code == 0, shown.output
    found = {weight["name"]: weight["sparsity_after"] for weight in json.loads(shown.stdout)["weights"]}
    assert found == {"first": 0.75, "second": 0.25}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--granularity", "2:4"], "leave out granularity, which the curves have"),
        (["-s", "0.5", "--granularity", "channel"], "allocation"),
        (["-s", "0.5", "--metric", "l2"], "leave out metric, which the curves have"),
        (["-s", "0.9"], "sparsity 0.9 is more than was measured"),
    ],
)
def test_what_does_not_go_with_curves(model, tmp_path, curves_file, more, said):
    given = ["prune", model, "-o", tmp_path / "out.onnx", "--allocation", f"{CURVES}{curves_file}"]
    refused(run(*given, *more), 2, said)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["-s", "0.5"], "--sparsity and --output go together"),
        (["--sparsities", "0.5,two"], "'two' is not a number"),
        (["--report", "x.html"], "the ending must be .json"),
        (["--plot", "x.gif"], "the ending of a plot must be one of"),
        (["--metric", "taylor:g.npz"], "unknown metric"),
        (["--granularity", "channel"], "does not go with single weights"),
        (["--metric", "wanda"], "give --calibration"),
    ],
)
def test_wrong_usage_of_the_command(model, more, said):
    refused(run("sensitivity", model, "--eval", "nowhere:f", *more), 2, said)


def test_plots(model, tmp_path):
    pytest.importorskip("matplotlib")
    report = measure_sensitivity(model, asked(Norms(model)))
    for name in ("a.svg", "b.svg", "c.png"):
        plot_curves(report, tmp_path / name)
    first, again, picture = ((tmp_path / name).read_bytes() for name in ("a.svg", "b.svg", "c.png"))
    assert first == again
    assert b"<!-- second -->" in first
    assert picture.startswith(b"\x89PNG")


def test_plots_without_matplotlib(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    given = ["sensitivity", model, "--eval", "nowhere:f", "--plot", tmp_path / "a.svg"]
    refused(run(*given), 2, "matplotlib", "pip install 'oxiprune-gpu[plot]'")


def test_the_command_knows_the_name_of_curves():
    assert prune_options.CURVES == CURVES


@pytest.mark.parametrize("kind", [SensitivityReport, SensitivitySettings, WeightCurve, CurvePoint])
def test_the_schema_has_every_field(kind):
    described = report_schema()["$defs"][kind.__name__]
    assert tuple(described["properties"]) == tuple(described["required"]) == keys_of(kind)
