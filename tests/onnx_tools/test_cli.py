"""The command as its users meet it: help, usage, what it prints and writes, exit codes, signals and lost streams."""

from __future__ import annotations

import errno
import io
import json
import os
import pathlib
import signal
import sys

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnx_tools import temporaries, terminal
from onnx_tools.renderers.json_renderer import report_schema
from tests.command import START, finish, refused, run, spawn, tree, weight_of, zeros

DEMO = pathlib.Path(__file__).parents[2] / "demo" / "digits_cnn.onnx"
SMALL = ("--sparsity", 0.5, "--min-elements", 0)
COMMANDS = ["prune", "inspect", "encode", "decode", "verify", "doctor"]
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and streams")


@pytest.fixture
def two_models(tmp_path: pathlib.Path, small_model: onnx.ModelProto) -> list[pathlib.Path]:
    """The same model as a/model.onnx and b/model.onnx."""
    paths = [tmp_path / name / "model.onnx" for name in "ab"]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(small_model.SerializeToString())
    return paths


def test_no_arguments_show_the_help() -> None:
    result = run()
    assert result.exit_code == 2
    assert "Usage: oxiprune [OPTIONS] COMMAND" in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_teaches(command: str, option: str) -> None:
    result = run(command, option)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Examples:\n    oxiprune" in result.stdout
    assert "Exit codes: 0 done" in result.stdout
    assert result.stdout.isascii()
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_every_default_is_in_the_help() -> None:
    words = " ".join(run("prune", "--help").stdout.split())
    defaults = ("(l1)", "(unstructured)", "auto", "(1); x>=0", "2048; x>=0", "no-depthwise", "0; x>=0")
    assert [default for default in defaults if f"[default: {default}]" not in words] == []
    assert "Default: all" in words
    assert "Default: none" in words


def test_version() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout.split()[0]) == (0, "oxiprune")


HEAVY = {"numpy", "onnx", "onnxruntime", "ml_dtypes", "rich", "pydantic"}


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        (["--help"], set()),
        ([], set()),
        (["prune", "--help"], set()),
        (["doctor", "--help"], set()),
        (["prune", "model.onnx"], set()),
        (["prune", "model.onnx", "-s", "1.0", "-o", "out.onnx"], set()),
        (["prune", "model.onnx", "-s", "0.5"], set()),
        (["prune", "model.onnx", "-s", "0.5", "-n", "--report", "report.xml"], set()),
        (["prune", "missing.onnx", "-s", "0.5", "-n"], {"numpy", "onnx", "ml_dtypes"}),
    ],
)
def test_help_and_errors_of_usage_import_little(words: list[str], heavy: set[str]) -> None:
    code = f"""
import sys
from onnx_tools.cli import main
try:
    main()
finally:
    print("imported:", *sorted({HEAVY} & sys.modules.keys()), file=sys.stderr)
"""
    _, _, err = finish(spawn(*words, code=code))
    assert set(err.splitlines()[-1].split()[1:]) == heavy


USAGE = {
    "no command of that name": (["shrink"], "No such command 'shrink'. `"),
    "almost a command": (["prunee"], "Did you mean 'prune'? `oxiprune --help`"),
    "no model": (["prune", "-s", 0.5, "-n"], "MODEL"),
    "no sparsity": (["prune", "m.onnx", "-n"], "--sparsity"),
    "option that is none": (["prune", "m.onnx", "-s", 0.5, "--colour"], "--colour"),
    "no place": (["prune", "m.onnx", "-s", 0.5], "--in-place"),
    "two places": (["prune", "m.onnx", "-s", 0.5, "-o", "p.onnx", "--in-place"], "not both"),
    "several models, one name": (["prune", "a.onnx", "b.onnx", "-s", 0.5, "-o", "p.onnx"], "{stem}"),
    "sparsity 1.0": (["prune", "m.onnx", "-s", "1.0", "-n"], "sparsity 1.0 must be in [0.0, 1.0)"),
    "sparsity -0.1": (["prune", "m.onnx", "-s", "-0.1", "-n"], "sparsity -0.1 must"),
    "sparsity nan": (["prune", "m.onnx", "-s", "nan", "-n"], "sparsity nan must"),
    "sparsity inf": (["prune", "m.onnx", "-s", "inf", "-n"], "sparsity inf must"),
    "sparsity abc": (["prune", "m.onnx", "-s", "abc", "-n"], "'abc' is not a number"),
    "sparsity 50": (["prune", "m.onnx", "-s", "50", "-n"], "for 50 percent give 0.5"),
    "sparsity 50%": (["prune", "m.onnx", "-s", "50%", "-n"], "sparsity 50% must be in [0.0, 1.0); for 50 percent give"),
    "sparsity 100%": (["prune", "m.onnx", "-s", "100%", "-n"], "must be in [0.0, 1.0). `oxi"),
    "metric": (["prune", "m.onnx", "-s", 0.5, "-n", "--metric", "l3"], "unknown metric 'l3': use l1, l2"),
    "granularity": (["prune", "m.onnx", "-s", 0.5, "-n", "--granularity", "bloc"], "or N:M as in 2:4. `oxi"),
    "N:M": (["prune", "m.onnx", "-s", 0.5, "-n", "--granularity", "2:4@0"], "along the reduction axis"),
    "backend": (
        ["prune", "m.onnx", "-s", 0.5, "-n", "--backend", "gpu"],
        "unknown backend 'gpu': use auto, cpu or cuda",
    ),
    "min-nonzero": (["prune", "m.onnx", "-s", 0.5, "-n", "--min-nonzero", "-1"], "--min-nonzero"),
    "old data": (["prune", "m.onnx", "-s", 0.5, "-n", "--delete-old-data"], "--in-place"),
    "drift alone": (["prune", "m.onnx", "-s", 0.5, "-n", "--max-drift", "0.1"], "--verify"),
    "drift nan": (["prune", "m.onnx", "-s", 0.5, "-n", "--verify", "--max-drift", "nan"], "nan must be a number"),
    "data that is missing": (["verify", "a.onnx", "b.onnx", "--data", "no.npz"], "no.npz"),
    "drift without runtime": (["verify", "a.onnx", "b.onnx", "--no-runtime", "--max-drift", "1"], "--no-runtime"),
    "report": (["prune", "m.onnx", "-s", 0.5, "-n", "--report", "r.xml"], "r.xml: the ending must be one of .json"),
    "one model to verify": (["verify", "a.onnx"], "AFTER"),
    "seed of random": (["prune", "m.onnx", "-s", 0.5, "-n", "--metric", "random"], "as in random:42; got ''. `oxi"),
    "names that command a terminal": (["prune", "m.onnx", "-s", 0.5, "-n", "--metric", "\x1b[31m\n"], r"\x1b[31m"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_is_one_line(case: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words, part = USAGE[case]
    refused(run(*words), 2, part)
    assert tree(tmp_path) == {}


def test_prune_to_an_output(small_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    before = tree(tmp_path)
    result = run("prune", small_file, "-o", tmp_path / "out.onnx", *SMALL)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "weight" in result.stdout
    assert "256" in result.stdout
    assert zeros(tmp_path / "out.onnx") == 256
    assert tree(tmp_path).items() >= before.items()


def test_equal_calls_give_equal_bytes(external_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for folder in ("one/", "two/"):
        assert run("prune", external_file, "-o", f"{tmp_path}/{folder}", *SMALL, "-q").exit_code == 0
    assert tree(tmp_path / "one") == tree(tmp_path / "two") != {}


def test_an_output_that_exists_needs_force(small_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out.onnx"
    out.write_text("precious")
    refused(run("prune", small_file, "-o", out, *SMALL), 2, "out.onnx", "exists")
    assert out.read_text() == "precious"
    assert run("prune", small_file, "-o", out, *SMALL, "--force").exit_code == 0
    assert zeros(out) == 256


def test_in_place(external_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert run("prune", external_file, "--in-place", *SMALL, "--delete-old-data", "-q").exit_code == 0
    assert zeros(external_file) == 256
    assert set(tree(tmp_path)) == {"model.onnx", "model.onnx.data"}


def test_in_place_names_the_data_that_stays(external_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    before = set(tree(tmp_path))
    shown = " ".join(run("prune", external_file, "--in-place", *SMALL).stdout.split())
    assert "The old data stays: " in shown
    assert "--delete-old-data deletes it" in shown
    assert before < set(tree(tmp_path))
    assert "old data" not in run("prune", external_file, "-o", tmp_path / "new.onnx", *SMALL).stdout


@pytest.mark.parametrize("more", [(), ("-o", "out.onnx"), ("-o", "new/"), ("--in-place",), ("-o", "model.onnx")])
def test_dry_run_writes_nothing(
    external_file: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    result = run("prune", "model.onnx", *SMALL, "--dry-run", *more)
    assert result.exit_code == 0
    assert "nothing was written" in result.stdout
    assert "256" in result.stdout
    assert tree(tmp_path) == before


def test_dry_run_says_that_nothing_is_verified(small_file: pathlib.Path) -> None:
    assert "--verify has nothing to check" in run("prune", small_file, *SMALL, "-n", "-q", "--verify").stderr


def test_quiet_prints_nothing(small_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert run("prune", small_file, "-o", tmp_path / "o.onnx", *SMALL, "-q").output == ""
    assert run("inspect", small_file, "-q").output == ""
    assert run("verify", small_file, tmp_path / "o.onnx", "--no-runtime", "-q").output == ""


def test_json(small_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out.onnx"
    shown = [
        run("prune", small_file, "-o", out, *SMALL, "--json").stdout,
        run("inspect", small_file, "--json").stdout,
    ]
    for text in shown:
        content = json.loads(text)
        assert content.pop("argument") == str(small_file)
        jsonschema.validate(content, report_schema())
    verified = json.loads(run("verify", small_file, out, "--no-runtime", "--json").stdout)
    definitions = report_schema()["$defs"]
    told = {key: verified.pop(key) for key in ("schema_version", "command", "before", "after")}
    assert told == {"schema_version": 1, "command": "verify", "before": str(small_file), "after": str(out)}
    jsonschema.validate(verified, {**definitions["VerificationReport"], "$defs": definitions})
    assert json.loads(shown[0])["weights"][0]["nonzero_after"] == 256


def test_json_of_several_models_is_a_list(two_models: list[pathlib.Path]) -> None:
    reports = json.loads(run("inspect", *two_models, "--json").stdout)
    assert [report["input"] for report in reports] == ["model.onnx", "model.onnx"]
    assert [report["argument"] for report in reports] == list(map(str, two_models))


def test_json_holds_an_error_for_each_model_that_is_refused(
    small_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small_file.parent)
    error = {"argument": "no.onnx", "input": "no.onnx", "error": "no.onnx: cannot be read: No such file or directory"}
    result = run("inspect", "no.onnx", small_file, "--json")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    first, second = json.loads(result.stdout)
    assert first == error
    assert (second["command"], "error" in second) == ("inspect", False)
    alone = run("inspect", "no.onnx", "--json")
    assert (alone.exit_code, json.loads(alone.stdout)) == (2, error)


def test_report_files(small_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    names = [tmp_path / f"report.{ending}" for ending in ("json", "csv", "md")]
    options = [word for name in names for word in ("--report", name)]
    result = run("prune", small_file, "-o", tmp_path / "o.onnx", *SMALL, "-q", *options, "--compressed-sizes")
    assert (result.exit_code, result.output) == (0, "")
    content = json.loads(names[0].read_text())
    jsonschema.validate(content, report_schema())
    assert content["files"][0]["sha256_after"] == tree(tmp_path)["o.onnx"]
    assert content["files"][0]["compressed_after"] < content["files"][0]["compressed_before"]
    assert content["weights"][0]["scores"]["min"] > 0
    assert all("weight" in name.read_text() for name in names)


def test_patterns(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out.onnx"
    assert run("prune", DEMO, "-o", out, "-s", 0.5, "--include", "op:Conv", "--exclude", "conv2*").exit_code == 0
    names = ("conv1.weight", "conv2.weight", "conv3.weight", "dense.weight")
    assert [zeros(out, name) for name in names] == [0, 0, 9216, 0]


@pytest.mark.parametrize(("metric", "granularity"), [("l2", "row"), ("random:7", "column"), ("taylor", "unstructured")])
def test_metrics_and_granularities(tmp_path: pathlib.Path, metric: str, granularity: str) -> None:
    out = tmp_path / "out.onnx"
    assert run("prune", DEMO, "-o", out, "-s", 0.5, "--metric", metric, "--granularity", granularity).exit_code == 0
    assert zeros(out, "dense.weight") == 128 * 256


def test_gradients(small_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    gradient = np.zeros((16, 32), np.float32)
    gradient[:8] = 1
    np.savez(tmp_path / "g.npz", weight=gradient)
    metric = f"taylor:{tmp_path / 'g.npz'}"
    assert run("prune", small_file, "-o", tmp_path / "o.onnx", *SMALL, "--metric", metric).exit_code == 0
    assert not weight_of(tmp_path / "o.onnx")[8:].any()


def test_optional_weights_are_asked_for(tmp_path: pathlib.Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("LinearRegressor", ["x"], ["y"], domain="ai.onnx.ml", coefficients=[1.0, 2.0, 3.0, 4.0]),
    ]
    table = numpy_helper.from_array(np.arange(1, 13, dtype=np.float32).reshape(3, 4), "table")
    model = helper.make_model(helper.make_graph(nodes, "g", [], [], [table]))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    words = ("prune", tmp_path / "m.onnx", "-n", "-s", 0.5, "--min-elements", 0)
    refused(run(*words), 1, "embedding (--embeddings prunes it)", "linear model (--linear-models prunes it)")
    done = run(*words, "--embeddings", "--linear-models", "--json")
    assert [weight["name"] for weight in json.loads(done.stdout)["weights"]] == ["table", "y.coefficients"]


def test_nothing_selected_is_exit_1(small_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    before = tree(tmp_path)
    refused(
        run("prune", small_file, "-o", f"{tmp_path}/new/", "-s", 0.5), 1, "no weight was selected", "--min-elements"
    )
    assert tree(tmp_path) == before


def test_selected_but_unchanged_is_a_warning(small_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    first, second = tmp_path / "1.onnx", tmp_path / "2.onnx"
    run("prune", small_file, "-o", first, *SMALL)
    result = run("prune", first, "-o", second, *SMALL, "--quiet")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("warning: nothing changed")
    assert first.read_bytes() == second.read_bytes()


def test_several_models_into_a_folder(two_models: list[pathlib.Path], tmp_path: pathlib.Path) -> None:
    pattern = f"{tmp_path}/out/{{parent}}/"
    report = f"{tmp_path}/out/{{parent}}/{{stem}}.json"
    assert run("prune", *two_models, "-o", pattern, *SMALL, "--report", report).exit_code == 0
    assert {"out/a/model.onnx", "out/b/model.onnx", "out/a/model.json", "out/b/model.json"} <= tree(tmp_path).keys()
    refused(run("prune", *two_models, "-o", f"{tmp_path}/x/", *SMALL), 2, "two models", "{parent}")
    refused(
        run("prune", *two_models, "-n", *SMALL, "--report", tmp_path / "r.md"),
        2,
        "two models would write there",
        "{parent}",
    )
    assert not (tmp_path / "x").exists()


def test_no_model_is_written_over_another(two_models: list[pathlib.Path], tmp_path: pathlib.Path) -> None:
    before = tree(tmp_path)
    third = tmp_path / "model.onnx"
    third.write_bytes(b"")
    result = run("prune", third, two_models[0], "-o", f"{tmp_path}/{{parent}}/../a/{{stem}}.onnx", *SMALL, "--force")
    assert result.exit_code == 2
    result = run("prune", third, two_models[0], "-o", f"{tmp_path}/b/../a/", *SMALL, "--force")
    assert result.exit_code == 2
    refused(run("prune", two_models[0], two_models[0], "--in-place", *SMALL), 2, "given twice")
    assert {name: digest for name, digest in tree(tmp_path).items() if name != "model.onnx"} == before


def test_the_others_are_done_when_one_fails(two_models: list[pathlib.Path], tmp_path: pathlib.Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no model")
    tiny = tmp_path / "tiny.onnx"
    tiny.write_bytes(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [])).SerializeToString())
    result = run("prune", bad, two_models[0], tiny, two_models[1], "-o", f"{tmp_path}/o/{{parent}}_{{stem}}/", *SMALL)
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert str(bad) in lines[0]
    assert str(tiny) in lines[1]
    assert {path.name for path in (tmp_path / "o").iterdir()} == {"a_model", "b_model"}
    alone = run("prune", two_models[0], tiny, "-o", f"{tmp_path}/p/", *SMALL)
    assert alone.exit_code == 1


def test_stem_and_parent_are_put_in_once(tmp_path: pathlib.Path, small_file: pathlib.Path) -> None:
    odd = small_file.rename(tmp_path / "{parent}.onnx")
    assert run("prune", odd, "-o", f"{tmp_path}/o-{{stem}}", *SMALL).exit_code == 0
    assert (tmp_path / "o-{parent}").is_file()


@pytest.mark.parametrize("name", ["missing/r.md", "folder.md", "model.onnx.md", "linked.md", "weights.md", "out.md"])
def test_reports_that_cannot_be_are_noticed_first(
    external_file: pathlib.Path, tmp_path: pathlib.Path, name: str
) -> None:
    (tmp_path / "folder.md").mkdir()
    model = external_file.rename(tmp_path / "model.onnx.md")
    (tmp_path / "linked.md").symlink_to(model)
    (tmp_path / "weights.bin").rename(tmp_path / "weights.md")
    loaded = onnx.load(model, load_external_data=False)
    loaded.graph.initializer[1].external_data[0].value = "weights.md"
    model.write_bytes(loaded.SerializeToString())
    before = tree(tmp_path)
    refused(run("prune", model, "-o", tmp_path / "out.md", *SMALL, "--report", tmp_path / name), 2, "--report", name)
    assert tree(tmp_path) == before


def test_a_report_folder_that_is_read_only(small_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(small_file.parent)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    report = small_file.with_name("r.md")
    refused(run("prune", small_file, "-o", small_file.with_name("o.onnx"), *SMALL, "--report", report), 2, "written to")
    assert tree(small_file.parent) == before


def test_a_report_that_fails_late_stops_nothing(small_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = temporaries._replace

    def full(target: pathlib.Path, content: bytes) -> None:
        if target.suffix == ".md":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(target, content)

    monkeypatch.setattr(temporaries, "_replace", full)
    words = [word for ending in ("md", "csv") for word in ("--report", small_file.with_name(f"r.{ending}"))]
    result = run("prune", small_file, "-o", small_file.with_name("o.onnx"), *SMALL, "-q", *words)
    refused(result, 2, "r.md", "disk is full", "o.onnx, is written")
    assert {"o.onnx", "r.csv"} <= tree(small_file.parent).keys()


def test_verify_before_anything_is_written(small_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("onnxruntime")
    before = tree(tmp_path)
    result = run("prune", small_file, "-o", tmp_path / "o.onnx", *SMALL, "--verify", "--max-drift", 0.0001)
    refused(result, 1, "drift", "Nothing was written")
    assert tree(tmp_path) == before
    np.savez(tmp_path / "d.npz", x=np.ones((2, 16), np.float32), flag=np.array(False))
    data = ("--data", tmp_path / "d.npz", "--max-drift", 1e6)
    result = run("prune", small_file, "-o", tmp_path / "o.onnx", *SMALL, "--verify", *data)
    assert result.exit_code == 0
    assert "Drift of the outputs" in result.stdout
    assert run("verify", small_file, tmp_path / "o.onnx", *data).exit_code == 0
    failed = run("verify", tmp_path / "o.onnx", small_file, "--no-runtime")
    assert failed.exit_code == 1
    assert failed.stderr.startswith("error: bytes: ")


@pytest.mark.parametrize("words", [("--quiet",), ("--json",)])
def test_what_could_not_be_verified_is_told(
    small_file: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = run("prune", small_file, "-o", tmp_path / "o.onnx", *SMALL, "--verify", *words)
    assert result.exit_code == 0
    assert "warning: runtime: could not verify: onnxruntime is not installed" in result.stderr
    shown = run("prune", small_file, "-o", tmp_path / "p.onnx", *SMALL, "--verify")
    assert "could not verify" in shown.stdout
    assert shown.stderr == ""


def test_names_in_the_model_command_no_terminal(small_model: onnx.ModelProto, tmp_path: pathlib.Path) -> None:
    name = "w\n\x1b[31m[/x] \u2026"
    small_model.graph.initializer[1].name = name
    small_model.graph.node[1].input[1] = name
    path = tmp_path / "model.onnx"
    path.write_bytes(small_model.SerializeToString())
    for words in (("prune", path, "-n", *SMALL), ("inspect", path), ("inspect", path, "--json")):
        result = run(*words)
        assert result.exit_code == 0
        assert "\x1b" not in result.output
    refused(run("prune", path, "-n", *SMALL, "--metric", f"taylor:{_npz(tmp_path)}"), 2, r"\x1b[31m[/x]")


def _npz(folder: pathlib.Path) -> pathlib.Path:
    np.savez(folder / "other.npz", other=np.ones(3))
    return folder / "other.npz"


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Tty())
    with terminal.progress("model[/x].onnx", wanted=True) as tell:
        assert tell is not None
        tell("[/weight]", 1, 10)
        tell("[/weight]", 5_000_000, 10_000_000)
    assert "[/weight]" in sys.stderr.getvalue()  # type: ignore[attr-defined]
    with terminal.progress("model", wanted=False) as tell:
        assert tell is None


def test_an_unexpected_error_is_one_line(small_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("of\nours")

    monkeypatch.setattr("onnx_tools.commands.prune_file", broken)
    result = run("prune", small_file, "-n", *SMALL)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "unexpected RuntimeError: of ours" in result.stderr
    monkeypatch.setattr("onnx_tools.commands.prune_file", lambda *_, **__: [0] * (1 << 62))
    assert run("prune", small_file, "-n", *SMALL).stderr == "error: not enough memory\n"


@posix
@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_reader_that_is_gone_stops_no_work(two_models: list[pathlib.Path], words: tuple[str, ...]) -> None:
    gone, end = os.pipe()
    os.close(gone)
    process = spawn("prune", *two_models, "--in-place", *SMALL, *words, stdout=end)
    os.close(end)
    code, _, err = finish(process)
    assert (code, err) == (0, "")
    assert [zeros(path) for path in two_models] == [256, 256]


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("words", [("prune", "--in-place", *SMALL), ("inspect",), ("inspect", "--json"), ("--help",)])
def test_results_that_cannot_be_written_are_an_error(small_file: pathlib.Path, words: tuple[object, ...]) -> None:
    with open("/dev/full", "wb") as full:
        code, _, err = finish(spawn(*words, *([] if words == ("--help",) else [small_file]), stdout=full))
    assert code == 2
    assert err == f"error: standard output: cannot be written: {os.strerror(errno.ENOSPC)}\n"
    with open("/dev/full", "wb") as full:
        assert finish(spawn("inspect", "missing.onnx", stderr=full))[0] == 2


@posix
def test_closed_streams_get_no_file_of_ours(external_file: pathlib.Path) -> None:
    def close() -> None:
        for descriptor in range(3):
            os.close(descriptor)

    process = spawn("prune", external_file, "--in-place", *SMALL, preexec_fn=close, stdout=None, stderr=None)
    assert process.wait(60) == 0
    assert zeros(external_file) == 256


@posix
def test_names_that_are_no_text(small_file: pathlib.Path) -> None:
    odd = os.fsdecode(os.fsencode(small_file.parent) + b"/\xff\xc3\xa9\n\x1b[31m.onnx")
    try:
        pathlib.Path(odd).write_bytes(small_file.read_bytes())
    except OSError:
        pytest.skip("this file system refuses such names")
    plain = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for words in (("prune", odd, "--in-place", *SMALL), ("inspect", odd), ("inspect", odd, "--json")):
        code, out, err = finish(spawn(*words, env=plain))
        assert (code, err) == (0, "")
        assert "\x1b" not in out
        assert out.isascii()
    code, _, err = finish(spawn("inspect", odd + "x", env=plain))
    assert (code, err.count("\n"), "\x1b" in err) == (2, 1, False)


WAITING = """
import sys, time
from onnx_tools import rewrite
def wait(*_):
    print("pruning", flush=True)
    time.sleep(60)
rewrite._prune = wait
"""


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("words", [("--in-place",), ("-o", "new/out/")])
def test_interrupted_nothing_is_left(
    external_file: pathlib.Path, tmp_path: pathlib.Path, number: signal.Signals, words: tuple[str, ...]
) -> None:
    before = tree(tmp_path)
    process = spawn("prune", external_file, *SMALL, *words, code=WAITING + START, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == b"pruning\n"
    assert len(tree(tmp_path)) > len(before)
    process.send_signal(number)
    code, _, err = finish(process)
    assert code == 128 + number
    assert err == ("interrupted: models that were finished stand, nothing half-done was left\n" if code == 130 else "")
    assert tree(tmp_path) == before


def test_the_metrics_of_the_command_are_those_of_the_package() -> None:
    from onnx_tools.calibration.methods import METHODS
    from onnx_tools.cli.prune_options import METRICS
    from oxiprune_gpu.metrics import METRICS as OF_THE_PACKAGE

    assert set(METRICS) == {*OF_THE_PACKAGE, *METHODS}
