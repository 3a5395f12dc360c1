"""The summary of a job in GitHub Actions."""

from __future__ import annotations

import pytest

from onnx_tools.renderers.github_summary import VARIABLE, fitted
from tests.command import refused, run


@pytest.fixture
def summary(tmp_path, monkeypatch):
    path = tmp_path / "summary" / "step.md"
    path.parent.mkdir()
    monkeypatch.setenv(VARIABLE, str(path))
    return path


def test_reports_are_appended(small_file, summary):
    summary.write_text("before\n", encoding="utf-8")
    assert run("inspect", small_file, "--github-summary", "-q").exit_code == 0
    assert run("compare", small_file, small_file, "--github-summary", "-q").exit_code == 0
    text = summary.read_text(encoding="utf-8")
    assert text.startswith("before\n# Weights of model.onnx\n")
    assert text.count("# Comparison of model.onnx") == 1


def test_a_refused_model_is_told(small_file, summary):
    words = ("-s", "0.5", "--min-elements", "1", "--dry-run", "--fail-if", "sparsity>0", "--github-summary", "-q")
    assert run("prune", small_file, *words).exit_code == 1
    assert "| sparsity>0 | met | 0.5 | - |" in summary.read_text(encoding="utf-8")


def test_what_is_missing_is_said(small_file, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    refused(run("inspect", small_file, "--github-summary"), 2, "GITHUB_STEP_SUMMARY", "is not set")


def test_a_place_that_cannot_be_is_noticed_first(small_file, tmp_path, monkeypatch):
    out = ("-o", tmp_path / "out.onnx", "-s", "0.5", "--min-elements", "1", "--github-summary")
    for name, why in ((tmp_path / "no" / "s.md", "does not exist"), (tmp_path, "is a folder"), (small_file, "a model")):
        monkeypatch.setenv(VARIABLE, str(name))
        refused(run("prune", small_file, *out), 2, why)
    assert not (tmp_path / "out.onnx").exists()


def test_long_parts_are_left_out():
    parts = ["# Title", "<details>\n1" + "x" * 50, "<details>\n2", "<details>\n3" + "\u00e9" * 50]
    text = "\n\n".join(parts) + "\n"
    assert fitted(text, 1000) == text
    assert fitted(text, 60) == "# Title\n\n<details>\n2\n\nParts left out because a summary must be short: 2.\n"
    assert fitted("# Title\n", 60) == "# Title\n"
