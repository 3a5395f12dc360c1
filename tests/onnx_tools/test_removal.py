"""Channels removed from models: the model without them computes what the model computes in which they are zero."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import pytest

from tests.onnx_tools.compacting import halved


@pytest.mark.parametrize("name", ["digits_cnn_bn", "digits_resnet_ext", "ultraface_rfb320", "mnist_cntk"])
def test_half_of_the_channels_of_a_real_model(corpus: list[pathlib.Path], tmp_path: pathlib.Path, name: str) -> None:
    path = next(path for path in corpus if path.parent.name == name)
    model = onnx.load(path)
    stored = {tensor.name for tensor in model.graph.initializer}
    (given,) = [info for info in model.graph.input if info.name not in stored]
    shape = [dim.dim_value or 3 for dim in given.type.tensor_type.shape.dim]
    feeds = {given.name: np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    smaller = halved(model, tmp_path, feeds, external=name == "digits_resnet_ext")
    assert smaller.ByteSize() < 0.6 * model.ByteSize()
