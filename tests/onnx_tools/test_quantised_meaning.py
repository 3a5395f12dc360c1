"""The real values that we see in quantised weights are those that onnxruntime computes with.

Each operator runs on codes, and beside it the operator of floats on the real values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_tools.weight_values import reads_from, values_in_tensor
from onnx_tools.weights import find_weights
from tests.onnx_tools.quantised_models import random_codes, tensor

ort = pytest.importorskip("onnxruntime")

Shape = tuple[int, ...]
UINT8, INT8, INT4 = TensorProto.UINT8, TensorProto.INT8, TensorProto.INT4
ACTIVATION = "d = Identity(a) u = QuantizeLinear(x, d, b)"
LSTM = 'direction = "bidirectional", hidden_size = 4'


@dataclass(frozen=True)
class Case:
    """A node on codes, the node on floats, the shapes of the weights and of their (scale, zero point), and of `x`.

    `swapped`: the float operator has the last two axes of the weights the other way round. `symmetric`: onnxruntime
    takes no zero points but 0 there.
    """

    codes: str
    floats: str
    shapes: dict[str, Shape]
    parameters: Shape
    x: Shape
    data_type: int = UINT8
    swapped: bool = False
    symmetric: bool = False
    zero: Shape | None = None
    more: dict[str, Shape] = field(default_factory=dict)


W = {"w": (6, 5)}
CASES = [
    Case(f"{ACTIVATION} q = QLinearMatMul(u, a, b, w, s, z, c, h) y = DequantizeLinear(q, c, h)", "y = MatMul(x, w)",
         W, (5,), (3, 6)),
    Case(f"{ACTIVATION} q = QLinearConv(u, a, b, w, s, z, c, h) y = DequantizeLinear(q, c, h)", "y = Conv(x, w)",
         {"w": (4, 3, 2, 2)}, (4,), (1, 3, 4, 4), INT8, zero=()),
    Case(f"{ACTIVATION} y = com.microsoft.QGemm <transB = 1> (u, a, b, w, s, z)", "y = Gemm <transB = 1> (x, w)",
         {"w": (5, 6)}, (5,), (3, 6)),
    Case(f"{ACTIVATION} y = com.microsoft.MatMulIntegerToFloat(u, w, a, s, b, z)", "y = MatMul(x, w)", W, (5,), (3, 6)),
    Case("y = com.microsoft.DynamicQuantizeMatMul(x, w, s, z)", "y = MatMul(x, w)", W, (5,), (3, 6), INT8),
    Case(f"{ACTIVATION} i = MatMulInteger(u, w, b, z) f = Cast <to = 1> (i) m = Mul(d, s) y = Mul(f, m)",
         "y = MatMul(x, w)", W, (5,), (3, 6)),
    Case(f"{ACTIVATION} i = MatMulInteger(u, w, b, z) f = Cast <to = 1> (i) m = Mul(s, a) y = Mul(m, f)",
         "y = MatMul(x, w)", W, (5,), (3, 6), INT8),
    Case(f"{ACTIVATION} i = ConvInteger(u, w, b, z) f = Cast <to = 1> (i) m = Mul(d, s) y = Mul(f, m)",
         "y = Conv(x, w)", {"w": (4, 3, 2, 2)}, (4, 1, 1), (1, 3, 4, 4), zero=()),
    Case(f"{ACTIVATION} y = com.microsoft.QAttention <num_heads = 1> (u, w, bias, a, s, , b, z)",
         "y = com.microsoft.Attention <num_heads = 1> (x, w, bias)", {"w": (6, 12)}, (12,), (1, 3, 6), INT8,
         more={"bias": (12,)}),
    Case(f"y = com.microsoft.DynamicQuantizeLSTM <{LSTM}> (x, w, r, , , , , , s, z, s, z)",
         f"y = LSTM <{LSTM}> (x, w, r)", {"w": (2, 6, 16), "r": (2, 4, 16)}, (2, 16), (3, 1, 6), INT8, swapped=True,
         symmetric=True),
    Case(f"y = com.microsoft.DynamicQuantizeLSTM <{LSTM}> (x, w, r, , , , , , s, z, s, z)",
         f"y = LSTM <{LSTM}> (x, w, r)", {"w": (2, 6, 16), "r": (2, 4, 16)}, (2,), (3, 1, 6), swapped=True),
    Case("v = DequantizeLinear <axis = 0, block_size = 4> (w, s, z) y = MatMul(x, v)", "y = MatMul(x, w)",
         {"w": (8, 5)}, (2, 5), (3, 8), INT4),
    Case("v = DequantizeLinear(w, s, z) t = Transpose(v) y = MatMul(x, t)", "t = Transpose(w) y = MatMul(x, t)",
         {"w": (5, 6)}, (6,), (3, 6), INT8),
    Case("i = Cast <to = 7> (x) y = com.microsoft.GatherBlockQuantized <block_size = 16> (w, i, s, z)",
         "i = Cast <to = 7> (x) y = Gather(w, i)", {"w": (7, 32)}, (7, 2), (3,), INT4),
    Case("i = Cast <to = 7> (x) y = com.microsoft.GatherBlockQuantized <block_size = 16> (w, i, s, z)",
         "i = Cast <to = 7> (x) y = Gather(w, i)", {"w": (7, 16)}, (7, 2), (3,), zero=(7, 1)),
    Case("y = com.microsoft.MatMulNBits <N = 16, K = 24, bits = 4, block_size = 16> (x, w, s, z)",
         "y = Gemm <transB = 1> (x, w)", {"w": (16, 2, 8)}, (16, 2), (3, 24), zero=(16, 1)),
    Case("y = com.microsoft.MatMulNBits <N = 16, K = 24, bits = 8, block_size = 16> (x, w, s)",
         "y = Gemm <transB = 1> (x, w)", {"w": (16, 2, 16)}, (16, 2), (3, 24)),
    Case("y = com.microsoft.MatMulNBits <N = 16, K = 24, bits = 2, block_size = 16> (x, w, s)",
         "y = Gemm <transB = 1> (x, w)", {"w": (16, 2, 4)}, (16, 2), (3, 24)),
]  # fmt: skip


def parsed(case: Case, body: str, parts: dict[str, TensorProto]) -> onnx.ModelProto:
    sizes = ", ".join(map(str, case.x))
    text = (
        f'<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]> g (float[{sizes}] x) => (float y) {{ {body} }}'
    )
    model = onnx.parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    read = {name for node in model.graph.node for name in node.input}
    for name in [name for name in parts if name in read]:
        model.graph.initializer.add().CopyFrom(parts[name])
        model.graph.initializer[-1].name = name
    return model


def quantised(case: Case) -> onnx.ModelProto:
    rng = np.random.default_rng(18)
    parts = {
        name: tensor(random_codes(rng, case.data_type, shape), case.data_type) for name, shape in case.shapes.items()
    }
    shape = case.parameters if case.zero is None else case.zero
    zero = random_codes(rng, case.data_type, shape)
    parts |= {
        "s": tensor(rng.uniform(0.001, 0.02, case.parameters)),
        "z": tensor(zero * (not case.symmetric), case.data_type),
        "a": tensor(1 / 255), "b": tensor(0, UINT8), "c": tensor(0.2), "h": tensor(128, UINT8),
    }  # fmt: skip
    return parsed(case, case.codes, parts | extras(case))


def extras(case: Case) -> dict[str, TensorProto]:
    return {name: tensor(np.zeros(shape)) for name, shape in case.more.items()}


def real_weights(case: Case, model: onnx.ModelProto) -> dict[str, TensorProto]:
    reals: dict[str, TensorProto] = {}
    held = {part.name: part for part in model.graph.initializer}
    for weight in find_weights(model).weights:
        _, source = values_in_tensor(held[weight.name], weight, weight.shape, reads_from(model))
        values = source.load(0, weight.elements, np.empty(weight.elements, np.float32)).reshape(weight.shape)
        reals[weight.name] = tensor(values.swapaxes(-1, -2) if case.swapped else values)
    return reals


def run(model: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], {"x": x})[0])


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.codes} {list(case.parameters)}")
def test_operators_compute_with_the_real_values(case: Case) -> None:
    """Activations of 8 bits cost a little; a scale or zero point in the wrong place costs very much."""
    model = quantised(case)
    floats = parsed(case, case.floats, real_weights(case, model) | extras(case))
    x = np.random.default_rng(19).integers(0, 256, case.x).astype(np.float32) / 255
    if "Cast" in case.floats:
        x = np.arange(case.x[0], dtype=np.float32)
    found, expected = run(model, x), run(floats, x)
    assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()
