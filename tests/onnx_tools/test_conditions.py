"""Conditions of --fail-if: what they may be, what they look at, and what a command makes of them."""

from __future__ import annotations

import json
import math
import pathlib
import re

import pytest

from onnx_tools import Selection, file_facts, prune_file
from onnx_tools.cli import options
from onnx_tools.conditions import FIGURES, OUTPUT, RUNTIME, VERIFY, WRITTEN, outcomes_of, read_conditions
from onnx_tools.report import Check, OutputDrift, VerificationReport
from onnx_tools.rewrite import Extras
from oxiprune_gpu import InvalidOption, PruningConfig
from tests.command import refused, run, weight_of
from tests.onnx_tools.test_report import inspect_report, prune_report, weight

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "reports.md"


def outcome(text: str, report: object, command: str = "prune"):
    (found,) = outcomes_of(read_conditions([text], command), report)
    return found


def met(text: str, report: object, command: str = "prune") -> bool:
    return outcome(text, report, command).met


def drifted(*drifts: OutputDrift) -> object:
    return prune_report(verification=VerificationReport((Check("drift", "measured"),), drifts))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sparsity<0.5", False),
        ("sparsity<=0.5", True),
        ("sparsity==0.5", True),
        ("sparsity!=0.5", False),
        (" sparsity  >  4e-1 ", True),
        ("sparsity>=+.5", True),
        ("zeros>-1", True),
        ("weights>2", False),
        ("bytes_ratio>1.09", True),
        ("compressed_ratio>0.6", False),
        ("newly_zero<4", False),
    ],
)
def test_figures_of_a_report(text, expected):
    assert met(text, prune_report()) is expected


@pytest.mark.parametrize("command", FIGURES)
def test_the_examples_of_the_help_work(command):
    option = {"verify": options.VerifyFailIf, "compact": options.CompactFailIf}.get(command, options.FailIf)
    examples = re.findall("'(.*?)'", option.__metadata__[0].help)
    assert [condition.text for condition in read_conditions(examples, command)] == examples
    assert len(examples) == 2
    assert examples[0] in run(command, "--help").stdout


NO_CONDITIONS = """sparsity
sparsity<
<0.5
sparsity<x
sparsity<nan
sparsity<1e999
sparsity=0.5
sparsity<0.5 or 1
__import__('os')<1
sparsity<0.5<0.6
sparsity < 1.0.0"""


@pytest.mark.parametrize("text", ["", *NO_CONDITIONS.splitlines(), "9" * 10_000])
def test_what_is_no_condition(text):
    with pytest.raises(InvalidOption, match="must be a name, one of < <= > >= == !=, and a number") as info:
        read_conditions([text], "prune")
    assert len(str(info.value)) < 500


def test_unknown_names_list_the_known_ones():
    with pytest.raises(InvalidOption, match="unknown name 'sparsty'; use sparsity, sparsity_before, "):
        read_conditions(["sparsty<1"], "prune")
    with pytest.raises(InvalidOption, match="unknown name 'drift'; use sparsity, "):
        read_conditions(["drift>1"], "inspect")


def test_figures_that_will_not_be_known_are_refused():
    for name, missing in (("drift", VERIFY), ("bytes", OUTPUT), ("compressed_ratio", WRITTEN)):
        with pytest.raises(InvalidOption, match=f"'{name}' is known only with {missing}"):
            read_conditions([f"{name}>1"], "prune", [missing])
    with pytest.raises(InvalidOption, match="'max_abs' is known only with onnxruntime"):
        read_conditions(["max_abs>1"], "verify", [RUNTIME])


def test_a_figure_of_weights_names_the_first_that_meets_it():
    report = prune_report(weights=(weight("a", after=4), weight("b", after=1), weight("c", after=0)))
    found = outcome("weight.sparsity>0.8", report)
    assert (found.met, found.value, found.weight) == (True, 0.875, "b")
    found = outcome("weight.sparsity<0.5", report)
    assert (found.met, found.value, found.weight) == (False, None, None)


def test_figures_of_inspection():
    assert met("weight.sparsity>0.9", inspect_report(), "inspect")
    assert not met("parameters<12", inspect_report(), "inspect")


@pytest.mark.parametrize("limit", ["drift>0.5", "drift<0.5"])
@pytest.mark.parametrize("drift", [(), (OutputDrift("y", None, None, None, "its shape differs"),), "none"])
def test_what_is_not_known_meets_everything(limit, drift):
    report = prune_report(verification=None) if drift == "none" else drifted(*drift)
    found = outcome(limit, report)
    assert found.met or (found.value == math.inf and limit == "drift<0.5")


def test_drift_is_that_of_the_worst_output():
    report = drifted(OutputDrift("y", 0.25, 3.0, 1.0, "", 0.25), OutputDrift("text", None, None, None, "", 0.5))
    assert outcome("drift>0", report).value == 0.5
    assert outcome("max_abs>0", report).value == 3.0


def test_a_model_that_stays_as_it_is_has_no_drift():
    assert not met("drift>0", prune_report(changed=False, verification=None))


def test_the_page_lists_every_figure():
    page = PAGE.read_text(encoding="utf-8")
    missing = [
        (name, command)
        for command, figures in FIGURES.items()
        for name, figure in figures.items()
        if not any(
            line.startswith(f"| `{name}` |") and command in line and figure.meaning in line for line in page.split("\n")
        )
    ]
    assert missing == []


def test_inspect_fails(small_file, tmp_path):
    report = tmp_path / "report.json"
    result = run("inspect", small_file, "--fail-if", "sparsity<0.1", "--fail-if", "zeros>9", "--report", report, "-q")
    assert result.exit_code == 1
    assert result.stderr == "error: --fail-if 'sparsity<0.1' is met: it is 0\n"
    kept = json.loads(report.read_text(encoding="utf-8"))["conditions"]
    assert [(entry["condition"], entry["met"], entry["value"]) for entry in kept] == [
        ("sparsity<0.1", True, 0.0),
        ("zeros>9", False, 0),
    ]


def test_inspect_passes(small_file):
    result = run("inspect", small_file, "--fail-if", "weight.sparsity>0.1")
    assert result.exit_code == 0
    assert "not met" in result.stdout


def test_each_of_several_models_is_named(small_file, tmp_path):
    other = tmp_path / "other.onnx"
    other.write_bytes(small_file.read_bytes())
    result = run("inspect", small_file, other, "--fail-if", "weight.nonzero>1", "-q")
    assert result.exit_code == 1
    assert [line.count(" has 512") for line in result.stderr.splitlines()] == [1, 1]
    assert str(other) in result.stderr


@pytest.mark.parametrize("model", ["small_file", "external_file"])
@pytest.mark.parametrize("name", ["out.onnx", None])
def test_each_file_is_compressed_once(model, name, request, tmp_path, monkeypatch):
    path, compressed, compress = request.getfixturevalue(model), [], file_facts._compressed_size
    monkeypatch.setattr(file_facts, "_compressed_size", lambda file: compressed.append(file.name) or compress(file))
    output, conditions = name and tmp_path / name, read_conditions(["sparsity<0.1"], "prune")
    report = prune_file(
        path,
        output,
        config=PruningConfig(0.5),
        selection=Selection(min_elements=1),
        conditions=conditions,
        extras=Extras(compressed=True),
    )
    assert len(compressed) == 2 * len(report.files)
    written = [(output or path).with_name(file.name_after) for file in report.files]
    assert [file.compressed_after for file in report.files] == [compress(file) for file in written]


def test_usage_of_inspect(small_file):
    refused(run("inspect", small_file, "--fail-if", "sparsity"), 2, "must be a name")
    refused(run("inspect", small_file, "--fail-if", "compressed>1"), 2, "known only with --compressed-sizes")


def test_verify_fails(small_file):
    pytest.importorskip("onnxruntime")
    result = run("verify", small_file, small_file, "--fail-if", "drift>=0", "--json")
    assert result.exit_code == 1
    assert "error: --fail-if 'drift>=0' is met: it is 0\n" in result.stderr
    assert json.loads(result.stdout)["conditions"][0]["met"] is True
    refused(run("verify", small_file, small_file, "--no-runtime", "--fail-if", "drift>0"), 2, "onnxruntime")


def prune(file: pathlib.Path, *words: object):
    return run("prune", file, "-s", "0.5", "--min-elements", "1", *words)


def test_prune_writes_nothing_where_a_condition_is_met(small_file, tmp_path):
    before = sorted(tmp_path.iterdir())
    result = prune(small_file, "-o", tmp_path / "out.onnx", "--fail-if", "weight.sparsity>0.4", "-q")
    assert result.exit_code == 1
    assert result.stderr == "error: --fail-if 'weight.sparsity>0.4' is met: weight 'weight' has 0.5\n"
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("where", ["out", "in place", "dry run"])
def test_the_report_of_a_refused_model_is_written(small_file, tmp_path, where):
    stored = small_file.read_bytes()
    target = {"out": ("-o", tmp_path / "out.onnx"), "in place": ("--in-place",), "dry run": ("--dry-run",)}[where]
    reports = [word for ending in ("json", "md", "html", "csv") for word in ("--report", tmp_path / f"r.{ending}")]
    result = prune(small_file, *target, *reports, "--fail-if", "sparsity>0.4")
    assert result.exit_code == 1
    assert "Refused by a condition: nothing was written." in result.stdout
    kept = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert (kept["output"], kept["conditions"][0]["met"]) == (None, True)
    assert "sparsity&gt;0.4" in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "sparsity>0.4" in (tmp_path / "r.md").read_text(encoding="utf-8")
    assert small_file.read_bytes() == stored
    assert not (tmp_path / "out.onnx").exists()


def test_prune_goes_on_where_no_condition_is_met(small_file, tmp_path):
    conditions = ["sparsity<0.4", "bytes_ratio>2", "weight.sparsity<0.4", "left_alone>100", "warnings>0"]
    words = [word for condition in conditions for word in ("--fail-if", condition)]
    result = prune(small_file, "-o", tmp_path / "out.onnx", *words)
    assert result.exit_code == 0, result.output
    assert (weight_of(tmp_path / "out.onnx") == 0).mean() == 0.5


def test_prune_knows_the_bytes_before_it_commits(external_file, tmp_path):
    result = prune(external_file, "-o", tmp_path / "out.onnx", "--fail-if", "bytes>2048", "-q")
    assert result.exit_code == 1
    size = int(result.stderr.rsplit(" ", 1)[1].strip())
    sizes = external_file.stat().st_size + (tmp_path / "weights.bin").stat().st_size
    assert sizes < size < sizes + 1000
    assert not (tmp_path / "out.onnx.data").exists()


def test_prune_looks_at_the_drift(small_file, tmp_path):
    pytest.importorskip("onnxruntime")
    words = ("-o", tmp_path / "out.onnx", "--verify", "--fail-if", "drift>0.0001")
    result = prune(small_file, *words)
    assert result.exit_code == 1
    assert "'drift>0.0001' is met: it is 0." in result.stderr
    assert not (tmp_path / "out.onnx").exists()


def test_a_model_in_which_nothing_falls(small_file, tmp_path):
    result = run("prune", small_file, "-s", "0", "--min-elements", "1", "--in-place", "--fail-if", "newly_zero<1", "-q")
    assert result.exit_code == 1
    result = run(
        *("prune", small_file, "-s", "0", "--min-elements", "1", "-o", tmp_path / "out.onnx"),
        *("--fail-if", "newly_zero<1", "-q"),
    )
    assert result.exit_code == 1
    assert not (tmp_path / "out.onnx").exists()


def test_usage_of_prune(small_file, tmp_path):
    out = ("-o", tmp_path / "out.onnx")
    refused(prune(small_file, *out, "--fail-if", "drift>0"), 2, "known only with --verify")
    refused(prune(small_file, "--dry-run", "--fail-if", "bytes>0"), 2, "known only with an output")
    refused(prune(small_file, *out, "--fail-if", "sparsity<a"), 2, "must be a name")
    assert not (tmp_path / "out.onnx").exists()
