"""Quantised weights: rows of real values times matrices of real values are the real values that the layer gives."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_tools.calibration.observed import observe
from onnx_tools.weight_values import WeightReader
from tests.onnx_tools.calibration_cases import products, rows_of, small, written

ort = pytest.importorskip("onnxruntime")

CODES, KERNEL = small((6, 5), 1).astype(np.int8), small((4, 3, 3, 3), 1).astype(np.int8)
SCALE, ZERO = np.float32(0.5), np.int8(1)
QUANTISED = "q = QuantizeLinear (x, a, b)"
A, B = np.float32(0.25), np.uint8(128)
ONE = np.float32(1)

CASES = {
    "dequantised": ("v = DequantizeLinear (w, s, z) y = MatMul (x, v)", CODES, (3, 6)),
    "both dequantised": (
        f"{QUANTISED} u = DequantizeLinear (q, a, b) v = DequantizeLinear (w, s, z) y = MatMul (u, v)",
        CODES,
        (3, 6),
    ),
    "QLinearMatMul": (
        f"{QUANTISED} p = QLinearMatMul (q, a, b, w, s, z, o, h) y = DequantizeLinear (p, o, h)",
        CODES,
        (3, 6),
    ),
    "MatMulInteger": (f"{QUANTISED} p = MatMulInteger (q, w, b, z) y = Cast <to = 1> (p)", CODES, (3, 6)),
    "dynamic": (
        "q, c, d = DynamicQuantizeLinear (x) p = MatMulInteger (q, w, d, z) i = Cast <to = 1> (p) t = Mul (c, s) "
        "y = Mul (i, t)",
        CODES,
        (3, 6),
    ),
    "to float": (f"{QUANTISED} y = com.microsoft.MatMulIntegerToFloat (q, w, a, s, b, z)", CODES, (3, 6)),
    "dynamic, fused": ("y = com.microsoft.DynamicQuantizeMatMul (x, w, s, z)", CODES, (3, 6)),
    "QGemm": (f"{QUANTISED} y = com.microsoft.QGemm (q, a, b, w, s, z)", CODES, (3, 6)),
    "Conv": ("v = DequantizeLinear (w, s, z) y = Conv (x, v)", KERNEL, (2, 3, 6, 7)),
    "ConvInteger": (
        f"{QUANTISED} p = ConvInteger <pads = [1, 1, 1, 1]> (q, w, b, n) y = Cast <to = 1> (p)",
        KERNEL,
        (2, 3, 6, 7),
    ),
    "QLinearConv": (
        f"{QUANTISED} p = QLinearConv <pads = [1, 1, 1, 1]> (q, a, b, w, s, n, o, h) y = DequantizeLinear (p, o, h)",
        KERNEL,
        (2, 3, 6, 7),
    ),
}

ROUNDED = {"QLinearMatMul": 0.5, "QLinearConv": 0.5, "dequantised": 0.15, "dynamic, fused": 0.15}
"""How far onnxruntime rounds: its outputs, by the scale 1, or inputs, to 8 bits, where it is free to."""


def model_of(nodes, codes, dims):
    header = '<ir_version: 9, opset_import: ["": 19, "com.microsoft": 1]>'
    model = onnx.parser.parse_model(f"{header} g (float[{', '.join(map(str, dims))}] x) => (float y) {{ {nodes} }}")
    stored = {"w": codes, "s": SCALE, "z": ZERO, "a": A, "b": B, "o": ONE, "h": np.uint8(128), "n": np.int8(0)}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items())
    return model


@pytest.mark.parametrize("name", CASES)
def test_quantised(name, tmp_path):
    nodes, codes, dims = CASES[name]
    model, feed = model_of(nodes, codes, dims), {"x": small(dims, 2)}
    (given,) = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(["y"], feed)
    (seen,) = observe(model).weights
    file = written(model, tmp_path)
    with WeightReader(file) as reader:
        source = reader.weight(seen.weight, seen.weight.shape)
        values = source.load(0, codes.size, np.empty(codes.size, np.float32)).copy()
    found = products(rows_of(file, seen, feed), seen.view.matrices(values))[0]
    wanted = given if given.ndim == 2 else given.transpose(0, 2, 3, 1).reshape(-1, 4)
    assert np.allclose(found, wanted, atol=ROUNDED.get(name, 1e-4))
