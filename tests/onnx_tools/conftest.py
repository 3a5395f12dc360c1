"""Models that the tests of onnx_tools share."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

SMALL_MODEL = """
<ir_version: 8, opset_import: ["" : 17, "local" : 1], producer_name: "test">
g (float[N, 16] x, bool flag) => (float[N, 32] y)
<float[32] bias = {%s}>
{
  shape = Constant <value = int64[2] {-1, 32}> ()
  h = MatMul (x, weight)
  b = Add (h, bias)
  c = local.twice (b)
  y = If (flag) <
    then_branch = t () => (float[N, 32] t_out) { w_t = Constant <value = float[32] {%s}> ()  t_out = Mul (c, w_t) },
    else_branch = e () => (float[N, 32] e_out) { e_out = Reshape (c, shape) }
  >
}
<domain: "local", opset_import: ["" : 17]>
twice (a) => (r) { two = Constant <value = float[1] {2.0}> ()  r = Mul (a, two) }
"""


def _values(count: int) -> str:
    return ", ".join(f"{0.5 + index:.1f}" for index in range(count))


def _make_small_model() -> onnx.ModelProto:
    model = onnx.parser.parse_model(SMALL_MODEL % (_values(32), _values(32)))
    weight = np.random.default_rng(7).standard_normal((16, 32)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "weight"))
    return model


@pytest.fixture
def small_model() -> onnx.ModelProto:
    """x @ weight + bias; `weight` (16, 32) is the second initializer and the only payload of 256 bytes or more.

    Has a Constant node, an If with a Constant in one branch, and a function with a Constant.
    """
    return _make_small_model()


@pytest.fixture
def small_file(tmp_path: pathlib.Path, small_model: onnx.ModelProto) -> pathlib.Path:
    """`small_model` in a file."""
    path = tmp_path / "model.onnx"
    path.write_bytes(small_model.SerializeToString())
    return path


@pytest.fixture
def external_file(tmp_path: pathlib.Path, small_model: onnx.ModelProto) -> pathlib.Path:
    """`small_model` in a file, `weight` in `weights.bin` beside it, 64 bytes into it."""
    weight = small_model.graph.initializer[1]
    (tmp_path / "weights.bin").write_bytes(b"\x11" * 64 + weight.raw_data + b"\x22" * 10)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": "weights.bin", "offset": "64", "length": "2048"}.items():
        weight.external_data.add(key=key, value=value)
    path = tmp_path / "model.onnx"
    path.write_bytes(small_model.SerializeToString())
    return path


@pytest.fixture(scope="session")
def corpus() -> list[pathlib.Path]:
    """The real models of the corpus that OXIPRUNE_CORPUS names."""
    root = os.environ.get("OXIPRUNE_CORPUS")
    if not root:
        pytest.skip("OXIPRUNE_CORPUS is not set: no corpus of real models")
    models = sorted(pathlib.Path(root, "models").glob("*/model.onnx"))
    assert models, f"no models below {root}"
    return models


@pytest.fixture(scope="session")
def backend_models() -> list[pathlib.Path]:
    """The models that the onnx package brings along for testing backends."""
    root = pathlib.Path(onnx.__file__).parent / "backend" / "test" / "data"
    models = sorted(root.glob("**/model.onnx"))
    if not models:
        pytest.skip("this onnx package comes without backend test data")
    return models
