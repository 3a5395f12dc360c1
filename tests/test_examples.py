"""The examples run: with numpy always, with torch where it is, those for GPUs on one, and over a CuPy that is none."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from oxiprune_gpu import PruningConfig, prune_tensor
from tests import cuda_on_cpu, fake_cupy

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
FOR_GPU = ("cupy_in_place", "gradual_schedule", "shards_pipeline")


def run(name: str, *words: object) -> str:
    """Run an example as its docstring says; return what it prints."""
    command = [sys.executable, f"examples/{name}.py", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def main_of(name: str) -> Callable[..., object]:
    """The main function of an example, in this process."""
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"))["main"]


@pytest.fixture
def _without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := cuda_on_cpu.available():
        pytest.skip(reason)
    fake_cupy.installed(monkeypatch)


def check_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    """Run the pipeline over a few short shards, and look at what became of them."""
    main = main_of("shards_pipeline")
    make, shards, before = main.__globals__["page_locked"], [], []

    def noted(elements: int) -> np.ndarray:
        shards.append(make(elements))
        shards[-1] *= len(shards)
        before.append(shards[-1].copy())
        return shards[-1]

    main.__globals__["page_locked"] = noted
    main(3, 1000)
    assert "times as fast" in capsys.readouterr().out
    for shard, original in zip(shards[:-1], before, strict=False):
        assert np.array_equal(shard, prune_tensor(original, PruningConfig(0.5))[0])


def check_in_place(printed: str) -> None:
    assert re.findall(r"(\w+): ([\d,]+) zeros, ([\d,]+) of", printed) == [
        ("up", "8,192", "8,192"),
        ("down", "8,192", "8,192"),
        ("head", "320", "320"),
    ]
    assert "refused: weight of tensor 'down' holds 1 NaN" in printed


def check_schedule(printed: str, module: str) -> None:
    lines = printed.splitlines()
    assert lines[0] == f"with {module}"
    assert lines[-1] == "step 100: asked for 0.9000, reached 0.9000"
    assert lines[6] == "step  50: asked for 0.7875, reached 0.7875"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short_and_say_how_to_run_them(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 70
    assert f"    python examples/{path.name}" in text.split('"""')[1]
    assert f"examples/{path.name}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_gradual_schedule(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    main_of("gradual_schedule")()
    check_schedule(capsys.readouterr().out, "numpy")


def test_onnx_before_deployment(tmp_path):
    model = ROOT / "demo" / "digits_cnn.onnx"
    printed = run("onnx_before_deployment", model, tmp_path)
    assert "sparsity 0.0000 -> 0.5000" in printed
    assert "bytes: passed" in printed
    assert {file.suffix for file in tmp_path.iterdir()} == {".onnx", ".json", ".md"}
    report = json.loads((tmp_path / "digits_cnn.pruned.json").read_text())
    assert report["totals"]["zeros_after"] == 45_568


def test_torch_masks():
    pytest.importorskip("torch")
    printed = run("torch_masks")
    assert "0.weight: 819 of 1,024 are zero" in printed
    assert "2.weight: 51 of 64 are zero" in printed


def test_fine_tune_with_masks(tmp_path):
    pytest.importorskip("torch")
    assert "zeros in torch [768, 384], by masks [768, 384]" in run("fine_tune_with_masks", tmp_path)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("cupy_in_place", "cupy"),
        ("shards_pipeline", "cupy"),
        ("torch_masks", "torch"),
        ("fine_tune_with_masks", "torch"),
    ],
)
def test_what_an_example_misses_is_one_line(name, missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit, match=f"(?i)needs {missing}.*pip install"):
        main_of(name)


@pytest.mark.usefixtures("_without_a_gpu")
def test_examples_for_gpus_without_one(capsys):
    main_of("cupy_in_place")()
    check_in_place(capsys.readouterr().out)
    main_of("gradual_schedule")()
    check_schedule(capsys.readouterr().out, "cupy")
    check_pipeline(capsys)


@pytest.mark.gpu
@pytest.mark.parametrize("name", FOR_GPU)
def test_examples_on_a_gpu(name, capsys):
    printed = run(name)
    if name == "cupy_in_place":
        check_in_place(printed)
    elif name == "gradual_schedule":
        check_schedule(printed, "cupy")
    else:
        assert "times as fast" in printed
        check_pipeline(capsys)
