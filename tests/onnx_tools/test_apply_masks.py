"""A model pruned by the masks of another, as a program and as the command does it."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_tools import (
    InvalidMasks,
    NothingSelected,
    Selection,
    WriteFailed,
    apply_masks,
    load_masks,
    masks_of,
    prune_file,
    save_masks,
)
from onnx_tools.renderers import html_renderer
from oxiprune_gpu import InvalidOption, PruningConfig
from tests.command import refused, run, weight_of

Array = NDArray[Any]

GEMMS = "a = Gemm(x, w) y = Gemm <transB = 1> (a, v)"
SHAPES = {"w": (64, 48), "v": (50, 48)}


def stored(path: pathlib.Path, *, seed: int = 0, body: str = GEMMS, **tensors: Array) -> pathlib.Path:
    """Write a model, by default one with random weights; return its path."""
    rng = np.random.default_rng(seed)
    text = f'<ir_version: 10, opset_import: ["": 21]> g (float[N, M] x) => (float[N, K] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    tensors = tensors or {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in tensors.items())
    path.write_bytes(model.SerializeToString())
    return path


def saved(before: pathlib.Path, after: pathlib.Path, masks: pathlib.Path, **options: Any) -> None:
    """Prune half of a model, and save its masks."""
    report = prune_file(before, after, config=PruningConfig(0.5), **options)
    save_masks(masks, masks_of(after, [weight.name for weight in report.weights]))


@pytest.fixture
def pruned(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with a model `first.onnx`, the pruned one, its masks, and `second.onnx`, the next export."""
    stored(tmp_path / "first.onnx")
    stored(tmp_path / "second.onnx", seed=1)
    saved(tmp_path / "first.onnx", tmp_path / "pruned.onnx", tmp_path / "masks.npz")
    return tmp_path


def assert_masked(before: pathlib.Path, after: pathlib.Path, masks: dict[str, Array]) -> None:
    for name, mask in masks.items():
        expected = np.where(mask, weight_of(before, name), np.float32(0))
        assert weight_of(after, name).tobytes() == expected.tobytes()


def test_masks_prune_the_next_export(pruned):
    report = apply_masks(pruned / "second.onnx", pruned / "out.onnx", masks=pruned / "masks.npz")
    assert_masked(pruned / "second.onnx", pruned / "out.onnx", load_masks(pruned / "masks.npz"))
    assert [(weight.name, weight.pruned, weight.zeros_after) for weight in report.weights] == [
        ("w", 1536, 1536),
        ("v", 1200, 1200),
    ]
    assert (report.configuration.metric, report.configuration.sparsity) == ("masks", 0.5)
    assert report.warnings == ()


def test_how_to_do_it_again(pruned):
    report = apply_masks(pruned / "second.onnx", pruned / "out.onnx", masks=pruned / "masks.npz")
    command = "oxiprune prune second.onnx -o out.onnx --masks FILE.npz --min-elements 2048"
    assert command in html_renderer.render(report)


def test_masks_in_memory_and_in_place(pruned):
    mask = np.arange(64 * 48).reshape(64, 48) % 3 > 0
    before = pruned / "second.onnx"
    apply_masks(before, pruned / "out.onnx", masks={"w": mask}, selection=Selection(exclude=("v",)))
    assert_masked(before, pruned / "out.onnx", {"w": mask, "v": np.ones((50, 48), bool)})


def test_masks_of_the_pruned_model_change_nothing(pruned):
    report = apply_masks(pruned / "pruned.onnx", pruned / "out.onnx", masks=pruned / "masks.npz")
    assert not report.changed
    assert (pruned / "out.onnx").read_bytes() == (pruned / "pruned.onnx").read_bytes()


def test_small_weights_need_no_mask_and_those_with_one_need_no_size(tmp_path):
    before = stored(tmp_path / "m.onnx", w=np.ones((64, 48), np.float32), v=np.ones((4, 48), np.float32))
    masks = tmp_path / "masks.npz"
    saved(before, tmp_path / "p.onnx", masks)
    assert list(load_masks(masks)) == ["w"]
    report = apply_masks(before, tmp_path / "out.onnx", masks=masks)
    assert [weight.name for weight in report.weights] == ["w"]
    apply_masks(before, tmp_path / "all.onnx", masks={"w": np.ones((64, 48), bool), "v": np.zeros((4, 48), bool)})
    assert not weight_of(tmp_path / "all.onnx", "v").any()


def test_what_was_left_dense_stays_dense(tmp_path):
    before, masks = stored(tmp_path / "m.onnx"), tmp_path / "masks.npz"
    selection = Selection(exclude=("v",))
    saved(before, tmp_path / "p.onnx", masks, selection=selection)
    report = apply_masks(before, tmp_path / "out.onnx", masks=masks)
    assert [(item.name, item.reason) for item in report.left_alone] == [("v", "masks.npz leaves it dense")]


def test_a_missing_mask_and_shapes_that_do_not_fit(pruned):
    masks = load_masks(pruned / "masks.npz")
    before, out = pruned / "second.onnx", pruned / "out.onnx"
    with pytest.raises(InvalidMasks, match=r"has no mask for 'v \[50, 48\]'.*--exclude"):
        apply_masks(before, out, masks={"w": masks["w"]})
    with pytest.raises(InvalidMasks, match=r"mask of weight 'v' has shape \[48, 50\].*the weight \[50, 48\]"):
        apply_masks(before, out, masks=masks | {"v": masks["v"].T})
    with pytest.raises(NothingSelected, match="has no mask for a weight of the model"):
        apply_masks(before, out, masks={"u": masks["w"]}, selection=Selection(min_elements=10**6))
    assert not out.exists()


def test_masks_too_many_are_a_warning(pruned):
    masks = load_masks(pruned / "masks.npz")
    report = apply_masks(pruned / "second.onnx", pruned / "out.onnx", masks=masks | {"gone": masks["w"]})
    assert report.warnings == ("masks in the mapping without a weight in the model: 'gone'",)


@pytest.mark.parametrize("slab", [7, 1 << 20])
def test_kept_elements_keep_their_bits(tmp_path, monkeypatch, slab):
    monkeypatch.setattr("onnx_tools.masks._SLAB", slab)
    values = np.array([[np.nan, -0.0, 1e-45, -np.inf, -2], [3, -0.0, np.nan, 5, 6]], np.float32)
    mask = np.array([[1, 1, 1, 1, 1], [0, 0, 0, 0, 1]], bool)
    before = stored(tmp_path / "m.onnx", body="y = MatMul(x, w)", w=values)
    report = apply_masks(before, tmp_path / "out.onnx", masks={"w": mask})
    assert_masked(before, tmp_path / "out.onnx", {"w": mask})
    (found,) = report.weights
    assert (found.pruned, found.nonzero_before, found.nonzero_after) == (4, 8, 5)


def test_quantised_weights_become_their_zero_point(tmp_path):
    codes = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    body = "d = DequantizeLinear(w, s, z) y = MatMul(x, d)"
    before = stored(tmp_path / "m.onnx", body=body, w=codes, s=np.array(0.1, np.float32), z=np.array(9, np.uint8))
    apply_masks(before, tmp_path / "out.onnx", masks={"w": np.array([[1, 0, 1], [0, 0, 1]], bool)})
    assert weight_of(tmp_path / "out.onnx", "w").tolist() == [[1, 9, 3], [9, 9, 6]]


def test_external_data(external_file):
    mask = np.arange(512).reshape(16, 32) % 5 > 0
    before = weight_of(external_file)
    report = apply_masks(external_file, external_file.with_name("out.onnx"), masks={"weight": mask}, dry_run=True)
    assert report.weights[0].zeros_after == 103
    apply_masks(external_file, masks={"weight": mask})
    assert np.array_equal(weight_of(external_file), np.where(mask, before, 0))


def test_the_command(pruned):
    result = run("prune", pruned / "first.onnx", "-o", pruned / "p.onnx", "-s", 0.5, "--save-masks", pruned / "m.npz")
    assert result.exit_code == 0
    assert (pruned / "m.npz").read_bytes() == (pruned / "masks.npz").read_bytes()
    result = run("prune", pruned / "second.onnx", "-o", pruned / "out.onnx", "--masks", pruned / "m.npz")
    assert result.exit_code == 0
    assert_masked(pruned / "second.onnx", pruned / "out.onnx", load_masks(pruned / "m.npz"))
    result = run("verify", pruned / "second.onnx", pruned / "out.onnx", "--masks", pruned / "m.npz", "--no-runtime")
    assert result.exit_code == 0
    assert "2,736 pruned elements are zero" in " ".join(result.stdout.split())
    result = run("verify", pruned / "first.onnx", pruned / "second.onnx", "--masks", pruned / "m.npz", "--no-runtime")
    assert result.exit_code == 1


@pytest.mark.parametrize("words", [("-s", "0.5"), ("--metric", "l2"), ("--granularity", "row"), ("--min-nonzero", "3")])
def test_masks_say_how_much_falls(pruned, words):
    result = run("prune", pruned / "second.onnx", "-o", pruned / "o.onnx", "--masks", pruned / "masks.npz", *words)
    refused(result, 2, "--masks", words[0].replace("-s", "--sparsity", 1) if words[0] == "-s" else words[0])


def test_masks_are_not_written_over_a_model(pruned):
    first, out, lost = pruned / "first.onnx", pruned / "o.onnx", pruned / "no" / "m.npz"
    prune = ("prune", first, "-o", out)
    refused(run(*prune, "-s", 0.5, "--save-masks", first), 2, "--save-masks", "is stored there")
    refused(run(*prune, "-s", 0.5, "--save-masks", lost), 2, "--save-masks", "does not exist")
    refused(run(*prune, "--masks", first), 2, "no file of masks")
    assert not out.exists()


@pytest.mark.parametrize("encoding", ["dense", "packed"])
def test_masks_that_cannot_be_saved(pruned, monkeypatch, encoding):
    def full(*_: object) -> None:
        raise WriteFailed("the disk is full")

    monkeypatch.setattr("onnx_tools.commands.save_masks", full)
    out, report = pruned / "o.onnx", pruned / "r.json"
    words = ("prune", pruned / "first.onnx", "-o", out, "-s", 0.9, "--encoding", encoding, "--report", report)
    result = run(*words, "--save-masks", pruned / "m.npz", "--json")
    assert (result.exit_code, json.loads(result.stdout)["output"]) == (2, "o.onnx")
    assert result.stderr == "error: the disk is full. The model itself, o.onnx, is written\n"
    kept = json.loads(report.read_text(encoding="utf-8"))
    assert kept["files"][0]["bytes_after"] == out.stat().st_size


def test_masks_of_weights_on_the_same_bytes(pruned):
    tensors = {name: np.ones((48, 48), np.float32) for name in "wv"}
    model = onnx.load(stored(pruned / "twins.onnx", **tensors))
    (pruned / "twins.bin").write_bytes(tensors["w"].tobytes())
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="twins.bin")
    (pruned / "twins.onnx").write_bytes(model.SerializeToString())
    mask = np.arange(48 * 48).reshape(48, 48) % 3 > 0
    with pytest.raises(InvalidMasks, match="the masks of 'v' and 'w' differ, and both lie on the same bytes"):
        apply_masks(pruned / "twins.onnx", pruned / "o.onnx", masks={"w": mask, "v": ~mask})
    assert not (pruned / "o.onnx").exists()
    apply_masks(pruned / "twins.onnx", pruned / "o.onnx", masks={"w": mask, "v": mask})
    assert np.array_equal(weight_of(pruned / "o.onnx", "v") != 0, mask)


def test_gradients_say_nothing_beside_masks(pruned):
    gradients = {"w": np.ones(SHAPES["w"], np.float32)}
    with pytest.raises(InvalidOption, match="gradients: masks say what falls"):
        apply_masks(pruned / "second.onnx", pruned / "o.onnx", masks=pruned / "masks.npz", gradients=gradients)
    assert not (pruned / "o.onnx").exists()
