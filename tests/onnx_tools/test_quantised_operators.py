"""Operators that read integers themselves: each as a text model, its scale and zero point where it has them."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_tools import Selection
from onnx_tools.weights import find_weights
from oxiprune_gpu import PruningConfig
from tests.onnx_tools.quantised_models import (
    dequantised,
    expected_codes,
    model_of,
    pruned_both_ways,
    random_codes,
    stored,
    tensor,
)

HALF = PruningConfig(0.5)
LAST, FIRST = (1, -1), (-1, 1)

CASES = [
    ("y = QLinearConv(x, a, b, w, s, z, a, b)", (6, 3, 2, 2), (-1, 1, 1, 1)),
    ("y = com.microsoft.QLinearConv(x, a, b, w, s, z, a, b)", (6, 3, 1, 1), (-1, 1, 1, 1)),
    ("y = QLinearMatMul(x, a, b, w, s, z, a, b)", (8, 5), LAST),
    ("y = QLinearMatMul(w, s, z, x, a, b, a, b)", (8, 5), FIRST),
    ("y = com.microsoft.QGemm(x, a, b, w, s, z)", (8, 5), LAST),
    ("y = com.microsoft.QGemm <transB = 1> (x, a, b, w, s, z)", (8, 5), FIRST),
    ("y = com.microsoft.QAttention <num_heads = 1> (x, w, b, a, s, , a, z)", (4, 12), LAST),
    ("y = com.microsoft.DynamicQuantizeMatMul(x, w, s, z)", (8, 5), LAST),
    ("y = com.microsoft.MatMulIntegerToFloat(x, w, a, s, b, z)", (2, 8, 5), (1, 1, -1)),
    ("t = Transpose(w) y = com.microsoft.DynamicQuantizeMatMul(x, t, s, z)", (8, 5), FIRST),
    ("i = MatMulInteger(x, w, b, z) f = Cast <to = 1> (i) c = Mul(a, s) y = Mul(f, c)", (8, 5), LAST),
    ("i = MatMulInteger(x, w, b, z) f = Cast <to = 1> (i) y = Mul(s, f)", (8, 5), LAST),
]
"""A node, the shape of its weight, and how the parameters of the output channels broadcast to it."""


@pytest.mark.parametrize("of_channels", [True, False], ids=["per channel", "per tensor"])
@pytest.mark.parametrize("data_type", [TensorProto.INT8, TensorProto.UINT8], ids=TensorProto.DataType.Name)
@pytest.mark.parametrize(("body", "shape", "along"), CASES)
def test_operators(
    body: str, shape: tuple[int, ...], along: tuple[int, ...], data_type: int, of_channels: bool, tmp_path: pathlib.Path
) -> None:
    rng = np.random.default_rng(9)
    channels = (shape[along.index(-1)],) if of_channels else ()
    codes, zero = random_codes(rng, data_type, shape), random_codes(rng, data_type, channels)
    scale = rng.uniform(0.01, 3, channels).astype(np.float32)
    parts = {"w": tensor(codes, data_type), "s": tensor(scale), "z": tensor(zero, data_type)}
    pruned, report = pruned_both_ways(model_of(body, "float[N] x, float a, uint8 b", **parts), tmp_path, HALF)
    wide = [each.reshape(along) if of_channels else each for each in (scale, zero)]
    assert np.array_equal(stored(pruned, "w"), expected_codes(codes, *wide, HALF))
    assert report.warnings == ()


def test_a_convolution_whose_scale_comes_later(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(10)
    codes, scale = random_codes(rng, TensorProto.UINT8, (6, 3, 2, 2)), rng.uniform(0.01, 3, 6).astype(np.float32)
    body = "i = ConvInteger(x, w, b, z) f = Cast <to = 1> (i) c = Mul(a, s) y = Mul(f, c)"
    zero = np.array(3, np.uint8)
    parts = {"w": tensor(codes, 2), "s": tensor(scale.reshape(1, 6, 1, 1)), "z": tensor(zero, 2)}
    pruned, _ = pruned_both_ways(model_of(body, "uint8[N] x, float a, uint8 b", **parts), tmp_path, HALF)
    assert np.array_equal(stored(pruned, "w"), expected_codes(codes, scale.reshape(6, 1, 1, 1), zero, HALF))


@pytest.mark.parametrize("body", [
    "i = MatMulInteger(x, w) y = Cast <to = 1> (i)",
    "i = MatMulInteger(x, w) f = Cast <to = 1> (i) y = Mul(f, x)",
    "i = MatMulInteger(x, w) f = Cast <to = 1> (i) y = Mul(f, s) v = Relu(f)",
    "i = MatMulInteger(x, w) f = Cast <to = 1> (i) c = Mul(s, s) y = Mul(f, c)",
    "i = MatMulInteger(x, w) f = Cast <to = 1> (i) y = Mul(f, wrong)",
])  # fmt: skip
def test_a_scale_that_is_not_plain_to_see(body: str, tmp_path: pathlib.Path) -> None:
    codes = random_codes(np.random.default_rng(11), TensorProto.INT8, (8, 5))
    scale = np.arange(1, 6, dtype=np.float32)
    model = model_of(body, w=tensor(codes, 3), s=tensor(scale), wrong=tensor(np.ones((5, 1))))
    pruned, report = pruned_both_ways(model, tmp_path, HALF)
    assert np.array_equal(stored(pruned, "w"), expected_codes(codes, np.float32(1), None, HALF))
    assert report.warnings == ("'w' is scored by |code - zero point|: no stored scale was found behind MatMulInteger",)


@pytest.mark.parametrize("data_type", [TensorProto.INT8, TensorProto.UINT8], ids=TensorProto.DataType.Name)
@pytest.mark.parametrize("of_channels", [True, False], ids=["per channel", "per direction"])
def test_the_lstm_with_its_directions(of_channels: bool, data_type: int, tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(12)
    parts: dict[str, TensorProto] = {}
    expected: dict[str, NDArray[np.generic]] = {}
    for name, size in (("w", 3), ("r", 2)):
        codes = random_codes(rng, data_type, (2, size, 8))
        scale = rng.uniform(0.01, 3, (2, 8) if of_channels else 2).astype(np.float32)
        zero = random_codes(rng, data_type, scale.shape)
        parts |= {name: tensor(codes, data_type), f"{name}s": tensor(scale), f"{name}z": tensor(zero, data_type)}
        expected[name] = expected_codes(codes, scale.reshape(2, 1, -1), zero.reshape(2, 1, -1), HALF)
    body = 'y = com.microsoft.DynamicQuantizeLSTM <direction = "bidirectional", hidden_size = 2> '
    model = model_of(body + "(x, w, r, , , , , , ws, wz, rs, rz)", **parts)
    pruned, _ = pruned_both_ways(model, tmp_path, HALF)
    assert all(np.array_equal(stored(pruned, name), codes) for name, codes in expected.items())
    rows = find_weights(model).weights[0].rows
    assert rows is not None
    assert (rows.axis, rows.groups) == (2, 2)


def packed(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes packed along the last axis, low bits first, each line from a new byte on."""
    lines = codes.reshape(-1, codes.shape[-1])
    data = np.zeros((len(lines), -(-lines.shape[1] * bits // 8)), np.uint8)
    for place in range(lines.shape[1]):
        data[:, place * bits // 8] |= lines[:, place] << (place * bits % 8)
    return data


def n_bits(rng: np.random.Generator, bits: int, lines: int, line: int, zeros: bool) -> tuple[onnx.ModelProto, tuple]:
    """MatMulNBits with blocks of 16, and its (codes, scale, zero point) for each code, padding included."""
    blocks = -(-line // 16)
    codes = rng.integers(0, 1 << bits, (lines, blocks * 16)).astype(np.uint8)
    scale = rng.uniform(-2, 2, (lines, blocks)).astype(np.float16)
    zero = rng.integers(0, 1 << bits, (lines, blocks)).astype(np.uint8)
    body = f"y = com.microsoft.MatMulNBits <N = {lines}, K = {line}, bits = {bits}, block_size = 16>"
    model = model_of(
        f"{body} (x, w, s, z)" if zeros else f"{body} (x, w, s)",
        w=tensor(packed(codes, bits).reshape(lines, blocks, -1), TensorProto.UINT8),
        s=tensor(scale, TensorProto.FLOAT16),
        z=tensor(packed(zero, bits).reshape(-1), TensorProto.UINT8),
    )
    default = np.full((1, 1), 1 << (bits - 1), np.uint8)
    return model, (codes, np.repeat(scale, 16, 1), np.repeat(zero, 16, 1) if zeros else default)


@pytest.mark.parametrize("granularity", ["unstructured", "row", "column"])
@pytest.mark.parametrize("zeros", [True, False], ids=["zero points", "default"])
@pytest.mark.parametrize(("lines", "line"), [(5, 48), (3, 37), (4, 16)])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_n_bits(bits: int, lines: int, line: int, zeros: bool, granularity: str, tmp_path: pathlib.Path) -> None:
    config = PruningConfig(0.5, "l1", granularity)
    model, (codes, scale, zero) = n_bits(np.random.default_rng(bits), bits, lines, line, zeros)
    pruned, report = pruned_both_ways(model, tmp_path, config)
    expected = codes.copy()
    wide = np.broadcast_to(zero, codes.shape)[:, :line]
    expected[:, :line] = expected_codes(codes[:, :line], scale[:, :line], wide, config)
    assert np.array_equal(stored(pruned, "w").reshape(lines, -1), packed(expected, bits))
    weight = report.weights[0]
    assert (weight.shape, weight.parameters, weight.bytes) == ((lines, line), lines * line, codes.size * bits // 8)
    assert (weight.dtype, weight.nonzero_after) == (
        f"uint{bits}", np.count_nonzero(expected[:, :line] != wide)
    )  # fmt: skip


TABLES = [("<block_size = 16>", TensorProto.UINT4, 0), ("<block_size = 16, quantize_axis = -1>", TensorProto.INT4, 0)]


@pytest.mark.parametrize(("attributes", "data_type", "default"), TABLES)
def test_tables_in_blocks(attributes: str, data_type: int, default: int, tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(13)
    codes, scale = random_codes(rng, data_type, (7, 40)), rng.uniform(0.1, 2, (7, 3)).astype(np.float32)
    body = f"y = com.microsoft.GatherBlockQuantized {attributes} (w, x, s)"
    model = model_of(body, w=tensor(codes, data_type), s=tensor(scale))
    pruned, _ = pruned_both_ways(model, tmp_path, HALF, Selection(min_elements=1, embeddings=True))
    expected = expected_codes(codes, np.repeat(scale, 16, 1)[:, :40], None, HALF)
    assert stored(pruned, "w").tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("body", "scale", "expected"),
    [
        ("q = Gather(w, x) y = DequantizeLinear(q, s)", np.ones(4),
         "quantised weight of Gather (uint8 before DequantizeLinear): "
         "its scale of shape [4] goes along an axis that the weight has not"),
        ("q = Gather(w, x) y = DequantizeLinear(q, x)", 1.0,
         "quantised weight of Gather (uint8 before DequantizeLinear): its scale is not stored data"),
        ("q = Gather(w, x) y = DequantizeLinear(q, s) v = Relu(q)", 1.0,
         "weight of Gather with unsupported dtype uint8"),
    ],
)  # fmt: skip
def test_tables_that_are_left_alone(body: str, scale: float, expected: str) -> None:
    (left,) = (
        item
        for item in find_weights(model_of(body, w=tensor(np.ones((4, 4)), 2), s=tensor(scale))).left_alone
        if item.name == "w"
    )
    assert left.reason == expected


@pytest.mark.parametrize("zeros", [True, False], ids=["zero points", "default"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_packed_tables(bits: int, zeros: bool, tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(14)
    codes = rng.integers(0, 1 << bits, (7, 40)).astype(np.uint8)
    scale, zero = rng.uniform(0.1, 2, (7, 3)).astype(np.float32), rng.integers(0, 1 << bits, (7, 3)).astype(np.uint8)
    body = f"y = com.microsoft.GatherBlockQuantized <bits = {bits}, block_size = 16> (w, x, s{', z' if zeros else ''})"
    parts = {"w": tensor(packed(codes, bits), 2), "s": tensor(scale), "z": tensor(packed(zero, bits), 2)}
    pruned, _ = pruned_both_ways(model_of(body, **parts), tmp_path, HALF, Selection(min_elements=1, embeddings=True))
    wide = np.repeat(zero, 16, 1)[:, :40] if zeros else np.full((7, 40), 1 << (bits - 1), np.uint8)
    expected = expected_codes(codes, np.repeat(scale, 16, 1)[:, :40], wide, HALF)
    assert np.array_equal(stored(pruned, "w"), packed(expected, bits))


def test_zeros_of_real_values_are_zero_points() -> None:
    """The oracle itself: what it calls zero is the zero point."""
    codes = np.array([3, 4, 5], np.uint8)
    assert dequantised(codes, np.float32(2), np.array(4, np.uint8)).tolist() == [-2, 0, 2]
