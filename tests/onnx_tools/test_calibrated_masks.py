"""Masks by calibration, applied to models."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_tools import DataMethod, NothingSelected, Selection, prune_file
from oxiprune_gpu import InvalidSparsity, PruningConfig

EVERY_SIZE = Selection(min_elements=0)
MODEL = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4, 6, 6] x) => (float[N, 5] y)
    { c = Conv <pads = [1, 1, 1, 1]> (x, w) r = Relu (c) p = GlobalAveragePool (r)
      f = Flatten (p) y = MatMul (f, v) }"""


@pytest.fixture
def model(tmp_path: pathlib.Path) -> pathlib.Path:
    parsed = onnx.parser.parse_model(MODEL)
    random = np.random.default_rng(1)
    for name, shape in {"w": (8, 4, 3, 3), "v": (8, 5)}.items():
        values = random.standard_normal(shape).astype(np.float32)
        parsed.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.save(parsed, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def images() -> list[dict[str, NDArray[Any]]]:
    """Channel 2 is always dark, channel 0 is bright."""
    scale = np.array([5.0, 1.0, 0.0, 0.5], np.float32)[:, None, None]
    random = np.random.default_rng(2)
    return [{"x": random.standard_normal((3, 4, 6, 6)).astype(np.float32) * scale} for _ in range(4)]


def weights_of(path: pathlib.Path) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def pruned(model: pathlib.Path, images: Any, config: PruningConfig) -> dict[str, NDArray[Any]]:
    output = model.with_name("pruned.onnx")
    values = DataMethod(images, "wanda", order="once").new_values(model, config, EVERY_SIZE)
    prune_file(model, output, config=values, force=True)
    return weights_of(output)


def test_what_is_never_seen_falls_first(model: pathlib.Path, images: Any) -> None:
    after = pruned(model, images, PruningConfig(0.25))["w"]
    assert not after[:, 2].any()
    assert np.count_nonzero(after) == after.size * 3 // 4


def test_the_masks_are_those_of_the_definition(model: pathlib.Path, images: Any) -> None:
    after = pruned(model, images, PruningConfig(0.5))
    before = weights_of(model)["w"]
    padded = np.pad(np.concatenate([image["x"] for image in images]), [(0, 0), (0, 0), (1, 1), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    norms = np.sqrt((windows.astype(np.float64) ** 2).sum(axis=(0, 2, 3)))
    scores = (np.abs(before) * norms).reshape(8, -1)
    for row, kept in zip(scores, after["w"].reshape(8, -1) != 0, strict=True):
        assert sorted(np.argsort(row)[18:]) == np.flatnonzero(kept).tolist()
    assert (after["v"] != 0).sum(axis=0).tolist() == [4] * 5


def test_groups_lie_along_the_input_channels(model: pathlib.Path, images: Any) -> None:
    after = pruned(model, images, PruningConfig(granularity="2:4"))
    assert (np.count_nonzero(after["w"], axis=1) == 2).all()
    assert (np.count_nonzero(after["v"].reshape(2, 4, 5), axis=1) == 2).all()


def test_bad_input(model: pathlib.Path, images: Any) -> None:
    method = DataMethod(images, "wanda")
    with pytest.raises(InvalidSparsity):
        method.new_values(model, PruningConfig(1.5), EVERY_SIZE)
    with pytest.raises(NothingSelected, match="2,048"):
        method.new_values(model, PruningConfig(0.5))
