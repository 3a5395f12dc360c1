"""Models as onnxruntime quantises them: what its tools write is found, pruned by real values, and still runs."""

from __future__ import annotations

import logging
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray

from onnx_tools import Selection, prune_file, verify_files
from onnx_tools.graph_parts import Path
from onnx_tools.model_file import tensor_at
from onnx_tools.report import PruneReport
from onnx_tools.weights import find_weights
from oxiprune_gpu import PruningConfig
from tests.onnx_tools.quantised_models import EVERY_SIZE, expected_codes, stored, tensor
from tests.onnx_tools.test_quantised_operators import n_bits

ort = pytest.importorskip("onnxruntime")
quantization = pytest.importorskip("onnxruntime.quantization")

HALF = PruningConfig(0.5)
TEXT = """
  <ir_version: 10, opset_import: ["": 21]>
  g (float[2, 3, 8, 8] x) => (float[2, 16] y) {
    c = Conv <kernel_shape = [3, 3]> (x, kernel)  r = Relu (c)  f = Flatten (r)  m = MatMul (f, dense)  n = Relu (m)
    y = Gemm <transB = 1> (n, last, bias)
  }
"""
WEIGHTS = {"kernel": (6, 3, 3, 3), "dense": (216, 32), "last": (16, 32)}
INT8, UINT8 = "QInt8", "QUInt8"


@pytest.fixture
def model(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A small network of floats; the quantiser's own warnings and log are kept quiet."""
    rng = np.random.default_rng(15)
    proto = onnx.parser.parse_model(TEXT)
    for name, shape in {**WEIGHTS, "bias": (16,)}.items():
        proto.graph.initializer.add().CopyFrom(tensor(rng.standard_normal(shape)))
        proto.graph.initializer[-1].name = name
    path = tmp_path / "float.onnx"
    onnx.save(proto, path)
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield path
    logging.disable(logging.NOTSET)


class Calibration(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Three random batches."""

    def __init__(self) -> None:
        rng = np.random.default_rng(16)
        self._batches = iter([{"x": rng.standard_normal((2, 3, 8, 8)).astype(np.float32)} for _ in range(3)])

    def get_next(self) -> dict[str, Any] | None:
        """The next batch."""
        return next(self._batches, None)


def pruned(path: pathlib.Path) -> tuple[onnx.ModelProto, PruneReport]:
    output = path.with_suffix(".pruned.onnx")
    report = prune_file(path, output, config=HALF, selection=EVERY_SIZE, verify=verify_files)
    assert report.verification is not None
    assert {check.name: check.outcome for check in report.verification.checks}["runtime"] == "passed"
    return onnx.load(output), report


def held_at(model: onnx.ModelProto, path: Path) -> NDArray[Any]:
    return onnx.numpy_helper.to_array(tensor_at(model, path))


def assert_real_values_decide(path: pathlib.Path, ops: set[str]) -> None:
    """Every weight has a stored scale and lost what the real values say, one scale for all or one a channel."""
    before, (after, report) = onnx.load(path), pruned(path)
    found = find_weights(before).weights
    assert {op for weight in found for op in weight.op_types} == ops
    assert (len(report.weights), report.warnings) == (3, ())
    for weight in found:
        quantisation = weight.quantisation
        assert quantisation is not None
        assert quantisation.scale is not None
        assert quantisation.zero_point is not None
        codes = stored(before, weight.name)
        scale, zero = (held_at(before, part.path) for part in (quantisation.scale, quantisation.zero_point))
        along = np.ones(codes.ndim, int)
        if scale.size > 1:
            along[codes.shape.index(scale.size)] = scale.size
        wide = [part.reshape(along if part.size > 1 else ()) for part in (scale, zero)]
        assert np.array_equal(stored(after, weight.name), expected_codes(codes, *wide, HALF))


@pytest.mark.parametrize("per_channel", [False, True], ids=["per tensor", "per channel"])
@pytest.mark.parametrize("kind", [INT8, UINT8])
@pytest.mark.parametrize(("form", "ops"), [
    ("QDQ", {"Conv", "MatMul", "Gemm"}), ("QOperator", {"QLinearConv", "QLinearMatMul", "QGemm"}),
])  # fmt: skip
def test_static_quantisation(model: pathlib.Path, form: str, ops: set[str], kind: str, per_channel: bool) -> None:
    path = model.with_name("quantised.onnx")
    quantization.quantize_static(
        model, path, Calibration(), per_channel=per_channel, activation_type=quantization.QuantType.QUInt8,
        quant_format=quantization.QuantFormat[form], weight_type=quantization.QuantType[kind],
    )  # fmt: skip
    assert_real_values_decide(path, ops)


@pytest.mark.parametrize("per_channel", [False, True], ids=["per tensor", "per channel"])
@pytest.mark.parametrize("kind", [INT8, UINT8])
def test_dynamic_quantisation(model: pathlib.Path, kind: str, per_channel: bool) -> None:
    path = model.with_name("quantised.onnx")
    quantization.quantize_dynamic(model, path, per_channel=per_channel, weight_type=quantization.QuantType[kind])
    assert_real_values_decide(path, {"ConvInteger", "MatMulInteger"})


def test_a_table_is_dequantised_after_the_look_up(tmp_path: pathlib.Path) -> None:
    text = """
      <ir_version: 10, opset_import: ["": 21]>
      g (int64[5] i) => (float[5, 8] y) <float[8, 8] dense = {%s}>
      { e = Gather (table, i)  r = Relu (e)  y = MatMul (r, dense) }
    """
    model = onnx.parser.parse_model(text % ", ".join(["0.5"] * 64))
    model.graph.initializer.add().CopyFrom(tensor(np.random.default_rng(17).standard_normal((30, 8))))
    model.graph.initializer[-1].name = "table"
    onnx.save(model, tmp_path / "float.onnx")
    path = tmp_path / "q.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantization.quantize_dynamic(tmp_path / "float.onnx", path, weight_type=quantization.QuantType.QUInt8)
    every = Selection(min_elements=1, embeddings=True, include=("table_quantized",))
    prune_file(path, tmp_path / "out.onnx", config=HALF, selection=every, verify=verify_files)
    before, after = onnx.load(path), onnx.load(tmp_path / "out.onnx")
    codes, scale, zero = (stored(before, f"table_{part}") for part in ("quantized", "scale", "zero_point"))
    assert np.array_equal(stored(after, "table_quantized"), expected_codes(codes, scale, zero, HALF))


def outputs(model: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {"x": x})[0]
    return result


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zero points"])
@pytest.mark.parametrize("bits", [4, 8])
def test_n_bits_compute_with_what_was_pruned(bits: int, symmetric: bool, tmp_path: pathlib.Path) -> None:
    """onnxruntime itself dequantises the pruned weight: x is the identity, so the output is the weight."""
    line = 48
    model, (codes, scale, zero) = n_bits(np.random.default_rng(bits), bits, 32, line, not symmetric)
    for part in model.graph.initializer:
        if part.name == "s":  # the CPU takes scales of the type of x
            part.CopyFrom(tensor(onnx.numpy_helper.to_array(part)))
            part.name = "s"
        if part.name == "z":
            part.dims[:] = [32, len(part.raw_data) // 32]
    del model.graph.input[:], model.graph.output[:]
    model.graph.input.append(onnx.helper.make_tensor_value_info("x", 1, [line, line]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("y", 1, [line, 32]))
    for opset in model.opset_import:
        opset.version = min(opset.version, 21)
    model.ir_version = 10
    onnx.save(model, tmp_path / "n.onnx")
    after, _ = pruned(tmp_path / "n.onnx")
    wide = np.broadcast_to(zero, codes.shape)[:, :line]
    kept = expected_codes(codes[:, :line], scale[:, :line], wide, HALF)
    expected = (kept.astype(np.float32) - wide) * scale[:, :line].astype(np.float32)
    found = outputs(after, np.eye(line, dtype=np.float32)).T
    assert np.allclose(found, expected, rtol=1e-3, atol=1e-3 if bits == 4 else 0.05)
    assert np.array_equal(found[expected == 0], expected[expected == 0])


def test_the_quantised_model_of_the_corpus_keeps_its_accuracy(
    corpus: list[pathlib.Path], tmp_path: pathlib.Path
) -> None:
    """By real values half of the weights can fall: 0.9745 of 2,000 digits (0.990 before; the float model: 0.9735)."""
    path = next(file for file in corpus if file.parent.name == "digits_resnet_int8_qdq")
    report = prune_file(path, tmp_path / "pruned.onnx", config=HALF)
    assert {weight.dtype for weight in report.weights} == {"int8"}
    data = np.load(path.parent / "eval.npz")
    labels = data["y"] if "y" in data else data["label"]
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(tmp_path / "pruned.onnx"), options, providers=["CPUExecutionProvider"])
    images = data["x"].astype(np.float32) / 255
    logits = np.concatenate([session.run(None, {"image": images[i : i + 250]})[0] for i in range(0, len(images), 250)])
    assert (logits.argmax(1) == labels).mean() > 0.97
