"""Methods with data whose matrices are worked on by CuPy: a fake one, over kernels compiled for the CPU."""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_tools import Selection, prune_file
from onnx_tools.calibration.methods import DataMethod
from oxiprune_gpu import GpuUnavailable, InvalidOption, PruningConfig
from tests import cuda_on_cpu, fake_cupy

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 12] x) => (float[N, 6] y)
    { h = MatMul (x, w) r = Relu (h) y = MatMul (r, v) }"""
WORDS = [("sparsegpt", False, "once"), ("sparsegpt", True, "layers"), ("wanda", True, "layers"), (None, True, "once")]


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Any:
    if reason := cuda_on_cpu.available():
        pytest.skip(reason)
    monkeypatch.setattr(fake_cupy.Device, "compute_capability", "70", raising=False)
    monkeypatch.setattr(fake_cupy.ndarray, "converts_floats", True)
    return fake_cupy.installed(monkeypatch)


def model_at(path: Any) -> Any:
    random = np.random.default_rng(1)
    model = onnx.parser.parse_model(TEXT)
    for each, shape in {"w": (12, 16), "v": (16, 6)}.items():
        model.graph.initializer.append(numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), each))
    onnx.save_model(model, path)
    return path


def pruned(path: Any, method: DataMethod, config: PruningConfig) -> tuple[dict[str, Any], Any]:
    output = path.with_name("pruned.onnx")
    values = method.new_values(path, config, Selection(min_elements=0))
    report = prune_file(path, output, config=values, force=True)
    return {each.name: numpy_helper.to_array(each) for each in onnx.load(output).graph.initializer}, report


@pytest.mark.parametrize("config", [PruningConfig(0.5), PruningConfig(granularity="2:4")], ids=["half", "2:4"])
@pytest.mark.parametrize(("choice", "repair", "order"), WORDS)
def test_the_model_is_that_of_the_cpu(cupy, tmp_path, choice, repair, order, config):
    path, x = model_at(tmp_path / "model.onnx"), np.random.default_rng(2).standard_normal((200, 12))
    data = {"x": x.astype(np.float32)}
    (wanted, at_home), (found, report) = (
        pruned(path, DataMethod(data, choice, repair, order, backend=backend), config) for backend in ("cpu", "cuda")
    )
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name] != 0, values != 0)
        np.testing.assert_allclose(found[name], values, rtol=2e-3, atol=1e-4)
    assert (at_home.configuration.calibration.backend, report.configuration.calibration.backend) == ("cpu", "cuda")


def test_what_is_worked_on_of_bfloat16_is_float32(cupy):
    from onnx_tools.calibration.solving import Device

    matrix = np.ones((2, 3), ml_dtypes.bfloat16)
    assert Device(cupy).put(matrix).dtype == np.float32
    assert Device().put(matrix) is matrix


def test_no_gpu_and_no_such_backend(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    path = model_at(tmp_path / "model.onnx")
    with pytest.raises(InvalidOption, match="unknown backend 'tpu': use cpu or cuda"):
        DataMethod({"x": np.ones((1, 12), np.float32)}, backend="tpu")
    method = DataMethod({"x": np.ones((1, 12), np.float32)}, backend="cuda")
    with pytest.raises(GpuUnavailable, match="CuPy can't be imported"):
        method.new_values(path, PruningConfig(0.5), Selection(min_elements=0))
