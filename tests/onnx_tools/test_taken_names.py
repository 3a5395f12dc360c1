"""What a run writes beside models never lies on a model, its data, an input, or another of its outputs."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from tests.command import refused, run, tree

PRUNE = ("prune", "model.onnx", "-s", 0.5, "--min-elements", 0, "-q")


@pytest.fixture
def folder(external_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A folder with a model, its data, and the other inputs there may be; the run is in it."""
    monkeypatch.chdir(external_file.parent)
    pathlib.Path("policy.toml").write_text("sparsity = 0.5\n", encoding="utf-8")
    np.savez("grads.npz", weight=np.ones((16, 32), np.float32))
    np.savez("x.npz", x=np.ones((1, 16), np.float32))
    return external_file.parent


@pytest.mark.parametrize("option", ["--save-masks", "--report"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("out.onnx.data", (*PRUNE, "-o", "out.onnx")),
        ("out.onnx.data.0", (*PRUNE, "-o", "out.onnx")),
        ("model.onnx.data", (*PRUNE, "--in-place", "--delete-old-data")),
        ("model.onnx.12.data", (*PRUNE, "--in-place")),
        ("weights.bin", (*PRUNE, "-o", "out.onnx")),
        ("model.onnx", (*PRUNE, "-o", "out.onnx")),
        ("out.onnx", (*PRUNE, "-o", "out.onnx")),
        ("grads.npz", (*PRUNE, "-o", "out.onnx", "--metric", "taylor:grads.npz")),
        ("x.npz", (*PRUNE, "-o", "out.onnx", "--verify", "--data", "x.npz")),
        ("policy.toml", ("prune", "model.onnx", "-o", "out.onnx", "--policy", "policy.toml")),
    ],
)
def test_taken_names(folder, option, name, words):
    if option == "--report":  # its name must end like that of a report
        pathlib.Path("report.md").symlink_to(name)
        name = "report.md"
    before = tree(folder)
    refused(run(*words, option, name), 2, f"{option} {name}", "is stored there")
    assert tree(folder) == before


def test_the_masks_that_are_read(folder):
    assert run(*PRUNE, "-o", "first.onnx", "--save-masks", "m.npz").exit_code == 0
    before = tree(folder)
    words = ("prune", "model.onnx", "--masks", "m.npz", "--min-elements", 0)
    refused(run(*words, "-o", "out.onnx", "--save-masks", "m.npz"), 2, "is stored there")
    refused(run(*words, "-o", "m.npz", "--force"), 2, "m.npz: is an input of this run")
    assert tree(folder) == before


def test_two_outputs_of_one_name(folder):
    before = tree(folder)
    words = (*PRUNE, "-o", "out.onnx", "--report", "same.md")
    refused(run(*words, "--save-masks", "same.md"), 2, "--report same.md: --save-masks writes there too")
    refused(run(*words, "--report", "same.md"), 2, "--report same.md: given twice")
    assert tree(folder) == before


def test_names_that_only_look_like_data(folder):
    result = run(*PRUNE, "-o", "out.onnx", "--save-masks", "other.onnx.data", "--report", "out.onnx.data.json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(pathlib.Path("out.onnx.data.json").read_text(encoding="utf-8"))["output"] == "out.onnx"


def test_a_link_to_the_model_in_place(folder):
    link = folder / "links" / "link.onnx"
    link.parent.mkdir()
    link.symlink_to(folder / "model.onnx")
    words = ("prune", link, "--in-place", "-s", 0.5)
    for place in (folder, link.parent):
        refused(run(*words, "--save-masks", place / "model.onnx.data"), 2, "is stored there")


def test_the_data_of_both_compared_models(folder):
    assert run(*PRUNE, "-o", "out.onnx").exit_code == 0
    for name in ("weights.bin", "out.onnx.data"):
        pathlib.Path("r.md").unlink(missing_ok=True)
        pathlib.Path("r.md").symlink_to(name)
        refused(run("compare", "model.onnx", "out.onnx", "--report", "r.md"), 2, "is stored there")
