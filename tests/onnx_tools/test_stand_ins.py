"""Shapes behind operators that onnx's shape inference does not know, against those of onnxruntime's results."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_tools.compaction.mapping.shapes import Shapes, with_shapes
from onnx_tools.graph_index import GraphIndex
from tests.channel_oracle import every_value, random_feeds

HEADER = '<ir_version: 10, opset_import: ["": 17, "com.microsoft": 1]>\n'
PICTURE, TEXT, MATRIX = "float[2, 3, 8, 7] x", "float[2, 5, 6] x", "float[4, 6] x"
BYTES = "uint8[2, 6, 8, 7] x"

WAYS: dict[str, tuple[str, str]] = {
    "FusedConv": (PICTURE, "y = com.microsoft.FusedConv <strides = [2, 1], activation = 'Relu'> (x, f4x3x3x3, f4)"),
    "FusedConv and a sum": (PICTURE, "y = com.microsoft.FusedConv <activation = 'Relu'> (x, f4x3x1x1, , f2x4x8x7)"),
    "FusedGemm": (MATRIX, "y = com.microsoft.FusedGemm <transA = 1, transB = 1, activation = 'Relu'> (x, f5x4, f5)"),
    "FusedMatMul": (TEXT, "y = com.microsoft.FusedMatMul <transA = 1, alpha = 0.5> (x, f5x4)"),
    "batches turned": (TEXT, "y = com.microsoft.FusedMatMul <transBatchA = 1> (x, f5x6x4)"),
    "TransposeMatMul": (TEXT, "y = com.microsoft.TransposeMatMul <transB = 1> (x, f4x6)"),
    "BiasGelu": (TEXT, "y = com.microsoft.BiasGelu (x, f6)"),
    "FastGelu": (TEXT, "y = com.microsoft.FastGelu (x, f6)"),
    "QuickGelu": (TEXT, "y = com.microsoft.QuickGelu (x)"),
    "Gelu": (TEXT, "y = com.microsoft.Gelu (x)"),
    "SkipLayerNormalization": (TEXT, "y = com.microsoft.SkipLayerNormalization (x, f2x5x6, f6)"),
    "SkipSimplified": (TEXT, "y = com.microsoft.SkipSimplifiedLayerNormalization (x, f2x5x6, f6)"),
    "SimplifiedLayerNormalization": (TEXT, "y = SimplifiedLayerNormalization (x, f6)"),
    "Attention": (TEXT, "y = com.microsoft.Attention <num_heads = 2> (x, f6x12, f12)"),
    "Attention, odd": (
        TEXT,
        "y = com.microsoft.Attention <num_heads = 2, qkv_hidden_sizes = [4, 4, 8]> (x, f6x16, f16)",
    ),
    "MultiHeadAttention": (TEXT, "y = com.microsoft.MultiHeadAttention <num_heads = 2> (x, f2x3x6, f2x3x8)"),
    "GroupQueryAttention": (
        TEXT.replace("6", "16"),
        "y = com.microsoft.GroupQueryAttention <num_heads = 2, kv_num_heads = 1> (x, f2x5x8, f2x5x8, , , i2, i)",
    ),
    "MatMulNBits": (
        "float[2, 5, 32] x",
        "y = com.microsoft.MatMulNBits <K = 32, N = 3, bits = 4, block_size = 16> (x, u3x2x8, f6)",
    ),
    "DynamicQuantizeMatMul": (TEXT, "y = com.microsoft.DynamicQuantizeMatMul (x, u6x4, f, u)"),
    "MatMulIntegerToFloat": ("uint8[2, 5, 6] x", "y = com.microsoft.MatMulIntegerToFloat (x, u6x4, f, f, u, u)"),
    "QGemm": ("uint8[5, 6] x", "y = com.microsoft.QGemm <transB = 1> (x, f, u, u4x6, f, u, , f, u)"),
    "QGemm of floats": ("uint8[5, 6] x", "y = com.microsoft.QGemm (x, f, u, u6x4, f, u)"),
    "QLinearAdd": (BYTES, "y = com.microsoft.QLinearAdd (x, f, u, u6x1x1, f, u, f, u)"),
    "QLinearMul": (BYTES, "y = com.microsoft.QLinearMul (x, f, u, u, f, u, f, u)"),
    "QLinearSigmoid": (BYTES, "y = com.microsoft.QLinearSigmoid (x, f, u, f, u)"),
    "QLinearGlobalAveragePool": (BYTES, "y = com.microsoft.QLinearGlobalAveragePool (x, f, u, f, u)"),
    "QLinearAveragePool": (
        BYTES,
        "y = com.microsoft.QLinearAveragePool <kernel_shape = [3, 2], strides = [2, 2]> (x, f, u, f, u)",
    ),
    "QLinearConcat": (BYTES, "y = com.microsoft.QLinearConcat <axis = 1> (f, u, x, f, u, u2x3x8x7, f, u)"),
    "QuantizeLinear": (TEXT, "y = com.microsoft.QuantizeLinear (x, f, u)"),
    "DequantizeLinear": (BYTES, "y = com.microsoft.DequantizeLinear (x, f, u)"),
}
KINDS = {"f": np.float32, "u": np.uint8, "i": np.int32}


def stored(name: str) -> onnx.TensorProto:
    """A tensor of ones, whose name says what it is: like f2x3 or u."""
    shape = [int(size) for size in name[1:].split("x") if size]
    return numpy_helper.from_array(np.full(shape, 5 if name == "i" else 4 if name == "i2" else 1, KINDS[name[0]]), name)


def model_of(inputs: str, body: str) -> onnx.ModelProto:
    text = body.replace("'", '"')
    model = onnx.parser.parse_model(f"{HEADER} g ({inputs}) => (float[A] z) {{ {text} z = Shape (y) }}")
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    names = dict.fromkeys(name for name in model.graph.node[0].input if name and name != "x")
    model.graph.initializer.extend(map(stored, names))
    return model


@pytest.mark.parametrize("way", WAYS)
def test_shapes(way: str) -> None:
    model = model_of(*WAYS[way])
    expected = every_value(model, random_feeds(model, np.random.default_rng(0)))["y"]
    inferred = with_shapes(model, {})
    (found,) = (info.type.tensor_type for info in inferred.graph.value_info if info.name == "y")
    index = GraphIndex(inferred)
    assert Shapes(index).of(index.scopes[0].values["y"]) == expected.shape
    assert onnx.helper.tensor_dtype_to_np_dtype(found.elem_type) == expected.dtype


UNKNOWN = {
    "another operator": (TEXT, "y = com.microsoft.Nobody (x)"),
    "channels behind": (BYTES, "y = com.microsoft.QLinearAveragePool <channels_last = 1> (x, f, u, f, u)"),
    "packed": (TEXT, "y = com.microsoft.GroupQueryAttention <num_heads = 2, kv_num_heads = 1> (x, , )"),
    "too few inputs": (TEXT, "y = com.microsoft.FusedMatMul (x)"),
    "too few axes": (TEXT, "y = com.microsoft.MultiHeadAttention (x, f2, f2)"),
    "a scalar": ("float x", "y = com.microsoft.FusedMatMul (x, f)"),
    "no zero point": (TEXT, "y = com.microsoft.QuantizeLinear (x, f)"),
}


@pytest.mark.parametrize("way", UNKNOWN)
def test_shapes_that_stay_unknown(way: str) -> None:
    index = GraphIndex(with_shapes(model_of(*UNKNOWN[way]), {}))
    assert Shapes(index).of(index.scopes[0].values["y"]) is None
