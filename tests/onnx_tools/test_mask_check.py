"""Is a model pruned as masks say? What they prune, what they keep, what they do not fit."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import pytest

from onnx_tools import Selection, load_masks, prune_file, save_masks, verify_files
from oxiprune_gpu import PruningConfig
from tests.command import refused, run, weight_of


@pytest.fixture
def pair(small_file: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
    """A model, the pruned one, and its masks."""
    after, masks = small_file.with_name("pruned.onnx"), small_file.with_name("masks.npz")
    prune_file(small_file, after, config=PruningConfig(0.5), selection=Selection(min_elements=0))
    save_masks(masks, {"weight": weight_of(after) != 0})
    return small_file, after, masks


def outcome(before: pathlib.Path, after: pathlib.Path, masks: object) -> tuple[str, str]:
    """Outcome and detail of the check."""
    report = verify_files(before, after, runtime=False, masks=masks)
    check = next(check for check in report.checks if check.name == "masks")
    return check.outcome, check.detail


@pytest.mark.parametrize("slab", [7, 1 << 20])
def test_a_model_that_is_as_its_masks_say(pair, monkeypatch, slab):
    monkeypatch.setattr("onnx_tools.verification.mask_check._SLAB", slab)
    before, after, masks = pair
    passed = ("passed", "1 masked: 256 pruned elements are zero, kept ones are unchanged")
    assert outcome(before, after, masks) == passed
    assert outcome(before, after, load_masks(masks)) == passed


def test_what_is_not_as_the_masks_say(pair):
    before, after, masks = pair
    assert outcome(before, before, masks) == ("failed", "weight 'weight': 256 pruned elements are not zero")
    kept = {"weight": np.ones((16, 32), bool)}
    assert outcome(before, after, kept) == ("failed", "weight 'weight': 256 kept elements changed")
    other = {"weight": ~load_masks(masks)["weight"]}
    told = "256 pruned elements are not zero and 256 kept elements changed"
    assert outcome(before, after, other) == ("failed", f"weight 'weight': {told}")


def test_masks_that_do_not_fit(pair):
    before, after, masks = pair
    told = "weight 'weight': its shape is [16, 32], that of its mask [32, 16]"
    assert outcome(before, after, {"weight": load_masks(masks)["weight"].T}) == ("failed", told)
    warned, detail = outcome(before, after, load_masks(masks) | {"gone": np.ones(3, bool)})
    assert warned == "warning"
    assert detail.endswith("masks without a weight in the model: 1, as 'gone'")


def test_a_weight_without_a_mask_may_not_change(pair):
    before, after, _ = pair
    report = verify_files(before, after, runtime=False, masks={})
    assert [check.outcome for check in report.checks if check.name == "bytes"] == ["failed"]


def test_another_weight_in_the_second_model(pair):
    before, after, masks = pair
    model = onnx.load(after)
    model.graph.initializer[1].name = "else"
    onnx.save(model, after)
    assert outcome(before, after, masks) == ("failed", "weight 'weight': the second model does not have it")


def test_the_option(pair):
    before, after, masks = pair
    result = run("verify", before, after, "--masks", masks, "--no-runtime")
    assert result.exit_code == 0
    assert "256 pruned elements are zero" in " ".join(result.stdout.split())
    assert run("verify", before, before, "--masks", masks, "--no-runtime").exit_code == 1
    refused(run("verify", before, after, "--masks", before, "--no-runtime"), 2, "is no file of masks")
