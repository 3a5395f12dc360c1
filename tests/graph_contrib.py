"""Moves by which random networks grow: onnxruntime's own operators, those that its CPU provider runs."""

from __future__ import annotations

import numpy as np

from onnx_tools.operators import CONTRIB
from tests.graph_layers import bias, move
from tests.random_net import Net


@move(2, 3, 4)
def gelu(net: Net, x: str) -> str:
    """Gelus, some of which add a bias along the last axis first."""
    op = net.pick("Gelu", "FastGelu", "QuickGelu", "BiasGelu")
    size = net.shape(x)[-1]
    more = bias(net, size) if op == "FastGelu" else [net.numbers(size)] if op == "BiasGelu" else []
    attrs = {"alpha": net.pick(1.702, 1.0)} if op == "QuickGelu" else {}
    return net.node(op, x, *more, domain=CONTRIB, like=x, **attrs)


@move(3, 4)
def fused_conv(net: Net, x: str) -> str:
    """A convolution with its activation, and the value that is added before that, perhaps."""
    batch, channels, *space = net.shape(x)
    group = net.pick(1, *(each for each in (2, channels) if channels % each == 0))
    out = group * net.pick(2, 3)
    w, shifts = net.weight(out, channels // group, *(1 for _ in space)), bias(net, out)
    more = shifts
    if shifts and net.pick(False, True):
        other = net.node("Conv", x, net.weight(out, channels, *(1 for _ in space)))
        more = [*shifts, net.node("Sigmoid", other)]
    attrs = net.pick({"activation": "Relu"}, {"activation": "LeakyRelu", "activation_params": [0.1]}, {})
    return net.node("FusedConv", x, w, *more, domain=CONTRIB, like=(batch, out, *space), group=group, **attrs)


@move(2)
def fused_gemm(net: Net, x: str) -> str:
    rows, inner = net.shape(x)
    out, turned = net.pick(2, 4), net.pick(0, 1)
    w = net.weight(out, inner) if turned else net.weight(inner, out, axis=1)
    attrs = {"alpha": net.pick(1.0, 0.5), "transB": turned, "activation": net.pick("Relu", "Tanh")}
    return net.node("FusedGemm", x, w, *bias(net, out), domain=CONTRIB, like=(rows, out), **attrs)


@move(2, 3, 4, often=2)
def fused_matmul(net: Net, x: str) -> str:
    """A product whose operands may be turned, with a stored weight, or of a value with itself."""
    *batch, steps, inner = net.shape(x)
    alpha, left = net.pick(1.0, 0.5), net.pick(0, 1)
    rows, summed = (inner, steps) if left else (steps, inner)
    if net.pick(True, True, False):
        out, turned = net.pick(2, 4), net.pick(0, 1)
        w = net.weight(out, summed) if turned else net.weight(summed, out, axis=1)
    else:
        out, turned, w = rows, 1 - left, net.node("Sigmoid", x)
    attrs = {"alpha": alpha, "transA": left, "transB": turned}
    return net.node("FusedMatMul", x, w, domain=CONTRIB, like=(*batch, rows, out), **attrs)


@move(3, often=3)
def skip_norm(net: Net, x: str) -> str:
    """A sum that is normalised; the sum goes on, perhaps."""
    size = net.shape(x)[-1]
    others = [value for value in net.values if value != x and net.shape(value) == net.shape(x)]
    other = net.pick(*others[::-1]) if others else net.node("Tanh", x)
    scale, shift = net.numbers(size), bias(net, size)
    if net.pick(True, False):
        more = [*(shift or [""]), net.numbers(size)] if net.pick(False, True) else shift
        op = "SkipLayerNormalization"
    else:
        op, more = "SkipSimplifiedLayerNormalization", shift
    outputs = net.pick(1, 4)
    made = net.node(op, x, other, scale, *more, outputs=outputs, domain=CONTRIB, like=x, unused=(1, 2))
    return made if outputs == 1 else net.node("Add", made[0], made[3])


@move(3, often=3)
def contrib_attention(net: Net, x: str) -> str:
    """Attention of projected values, or with the projection inside."""
    batch, steps, features = net.shape(x)
    heads, width = net.pick(1, 2), net.pick(2, 4)
    size = heads * width
    attrs = {"domain": CONTRIB, "like": (batch, steps, size), "num_heads": heads}
    if net.pick(True, False):
        parts = [net.node("MatMul", x, net.weight(features, size, axis=1)) for _ in range(3)]
        return net.node("MultiHeadAttention", *parts, *bias(net, 3 * size), **attrs)
    return net.node("Attention", x, net.weight(features, 3 * size, axis=1), net.numbers(3 * size), **attrs)


@move(3, often=2)
def rotary(net: Net, x: str) -> str | None:
    """Neighbours, or halves, of each head turned by the angle of their place."""
    steps, features = net.shape(x)[1:]
    if features % 4:
        return None
    angles = net.rng.uniform(0, 1, (steps, features // 4))
    caches = [net.stored(turned.astype(net.dtype)) for turned in (np.cos(angles), np.sin(angles))]
    attrs = {"num_heads": 2, "rotary_embedding_dim": features // 2, "interleaved": net.pick(0, 1)}
    return net.node("RotaryEmbedding", x, net.ints(0), *caches, domain=CONTRIB, like=x, **attrs)


@move(2, 3, 4)
def quantised_activation(net: Net, x: str) -> str | None:
    """What works on codes between QuantizeLinear and DequantizeLinear."""
    if net.half:
        return None
    scale, point = net.positive(size=0.03), net.stored(np.int8(net.pick(0, 3)))
    code = net.node("QuantizeLinear", x, scale, point)
    op = net.pick("QLinearSigmoid", "QLinearLeakyRelu", "QLinearAdd", "QLinearMul")
    other = [net.node("QuantizeLinear", net.node("Relu", x), scale, point), scale, point] if op[-3:] in _TWO else []
    made = net.node(op, code, scale, point, *other, scale, point, domain=CONTRIB, like=code)
    return net.node("DequantizeLinear", made, scale, point)


_TWO = ("Add", "Mul")
