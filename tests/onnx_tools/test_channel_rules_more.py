"""Channels through weights that are computed, and quantised, recurrent and attention operators, against onnxruntime."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_tools.compaction.mapping.channel_map import ChannelMap
from onnx_tools.compaction.mapping.tracing import map_channels
from tests.channel_oracle import check_channels
from tests.onnx_tools.compacting import feeds_of, halved

HEADER = '<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>\n'
Given = tuple[int, ...] | NDArray[Any]


def model_of(text: str, stored: dict[str, Given]) -> onnx.ModelProto:
    """A model from text. `stored`: arrays, or shapes of floats to be drawn."""
    model = onnx.parser.parse_model(HEADER + text)
    rng = np.random.default_rng(5)
    for name, given in stored.items():
        array = rng.standard_normal(given).astype(np.float32) if isinstance(given, tuple) else given
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def free_of(text: str, *, check: bool = True, **stored: Given) -> dict[str, int]:
    """How many groups of each family are free, by the first node that makes them; all are held against onnxruntime."""
    model = model_of(text, stored)
    channels = check_channels(model, fewest=0) if check else map_channels(model)
    return counted(channels)


def counted(channels: ChannelMap) -> dict[str, int]:
    groups = channels.groups
    families, counts = np.unique(groups.families[groups.free], return_counts=True)
    return {groups.origins[family][0]: int(n) for family, n in zip(families.tolist(), counts, strict=True) if family}


def bytes_of(*shape: int, low: int = -20, dtype: Any = np.int8) -> NDArray[Any]:
    return np.random.default_rng(6).integers(low, 20, shape).astype(dtype)


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def number(value: float) -> NDArray[np.float32]:
    return np.array(value, np.float32)


def scales(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(7).uniform(0.02, 0.1, shape).astype(np.float32)


WRITTEN: dict[str, tuple[str, dict[str, Given]]] = {
    "as it is": ("w = Identity (v)", {"v": (4, 6)}),
    "two slices": (
        "a = Slice (v, zero, three, one)\n b = Slice (v, three, far, one)\n w = Concat <axis = 1> (b, a)",
        {"v": (4, 6), "zero": ints(0), "three": ints(3), "far": ints(2**62), "one": ints(1)},
    ),
    "a part": ("w = Slice (v, one, seven, ones)", {"v": (4, 9), "one": ints(1), "seven": ints(7), "ones": ints(1)}),
    "backwards": (
        "w = Slice (v, one, end, ones, back)",
        {"v": (4, 6), "one": ints(-1), "end": ints(-99), "ones": ints(1), "back": ints(-1)},
    ),
    "split": ("a, b = Split <axis = 1> (v, parts)\n w = Concat <axis = 1> (b, a)", {"v": (4, 6), "parts": ints(2, 4)}),
    "picked": ("w = Gather <axis = 1> (v, order)", {"v": (4, 6), "order": ints(5, 3, 1, 0, 2, -2)}),
    "one of two": ("w = Gather <axis = 0> (v, at)", {"v": (2, 4, 6), "at": np.array(1)}),
    "scaled": ("w = Mul (v, s)", {"v": (4, 6), "s": (6,)}),
    "scaled by rows": ("w = Div (v, s)", {"v": (4, 6), "s": scales(4, 1)}),
    "added": ("w = Add (v, s)", {"v": (4, 6), "s": (1, 6)}),
    "spread": ("w = Expand (v, sizes)", {"v": (1, 6), "sizes": ints(4, 6)}),
    "turned": ("u = Reshape (v, sizes)\n w = Transpose <perm = [1, 0]> (u)", {"v": (1, 6, 4), "sizes": ints(6, -1)}),
    "joint": ("w = Reshape (v, sizes)", {"v": (4, 2, 3), "sizes": ints(4, 6)}),
    "shared": ("u = Identity (v)\n w = Cast <to = 1> (u)\n q = Squeeze (u)", {"v": (4, 6)}),
    "dequantised": (
        "w = DequantizeLinear <axis = 1> (v, s, z)",
        {"v": bytes_of(4, 6), "s": scales(6), "z": bytes_of(6)},
    ),
    "in blocks of rows": (
        "w = DequantizeLinear <axis = 0, block_size = 2> (v, s)",
        {"v": bytes_of(4, 6), "s": scales(2, 6)},
    ),
}
MADE: dict[str, dict[str, int]] = {"backwards": {}, "joint": {"h": 2}, "shared": {}}
READ: dict[str, dict[str, int]] = {"in blocks of rows": {}, "spread": {}, "added": {}, "shared": {}}


@pytest.mark.parametrize("way", WRITTEN)
def test_weights_that_are_computed(way):
    made, stored = WRITTEN[way]
    body = f"{{ {made}\n h = MatMul (x, w)\n d = Add (h, bias)\n r = Relu (d)\n y = MatMul (r, last) }}"
    found = free_of(f"g (float[2, 4] x) => (float[2, 3] y) {body}", bias=(6,), last=(6, 3), **stored)
    assert found == MADE.get(way, {"h": 6})


@pytest.mark.parametrize("way", WRITTEN)
def test_weights_that_are_computed_read(way):
    """Channels along the other axis of the same weights."""
    made, stored = WRITTEN[way]
    body = f"{{ h = MatMul (x, first)\n r = Relu (h)\n {made}\n y = MatMul (r, w) }}"
    found = free_of(f"g (float[2, 3] x) => (float[2, 6] y) {body}", first=(3, 4), **stored)
    assert found == READ.get(way, {"h": 4})


QUANTISED = {
    "each channel": ("(q, s, z)", "<axis = 1>"),
    "all": ("(q, s0, z0)", ""),
}


@pytest.mark.parametrize("way", QUANTISED)
def test_quantised_activations(way):
    inputs, axis = QUANTISED[way]
    quantised = f"q = QuantizeLinear {axis} {inputs.replace('q', 'h')}\n r = DequantizeLinear {axis} {inputs}"
    found = free_of(
        f"g (float[2, 4] x) => (float[2, 3] y) {{ h = MatMul (x, w)\n {quantised}\n y = MatMul (r, last) }}",
        w=(4, 6),
        last=(6, 3),
        s=scales(6),
        z=bytes_of(6),
        s0=number(0.05),
        z0=np.array(3, np.int8),
    )
    assert found == {"h": 6}


@pytest.mark.parametrize(("axis", "expected"), [(1, {}), (0, {"h": 6})])
def test_quantised_in_blocks(axis, expected):
    """Along the axis of the blocks nothing leaves."""
    attributes = f"<axis = {axis}, block_size = 2>"
    quantised = f"q = QuantizeLinear {attributes} (h, s, z)\n r = DequantizeLinear {attributes} (q, s, z)"
    found = free_of(
        f"g (float[2, 4] x) => (float[2, 3] y) {{ h = MatMul (x, w)\n {quantised}\n y = MatMul (r, last) }}",
        w=(4, 6),
        last=(6, 3),
        s=scales(*((2, 3) if axis else (1, 6))),
        z=bytes_of(*((2, 3) if axis else (1, 6))),
    )
    assert found == expected


def test_one_scale_of_all_holds():
    quantised = "q, s, z = DynamicQuantizeLinear (h)\n r = DequantizeLinear (q, s, z)"
    body = f"{{ h = MatMul (x, w)\n {quantised}\n y = MatMul (r, last) }}"
    assert free_of(f"g (float[2, 4] x) => (float[2, 3] y) {body}", w=(4, 6), last=(6, 3)) == {}


U8 = np.array(128, np.uint8)
LINEAR: dict[str, tuple[str, dict[str, Given]]] = {
    "convolutions": (
        "h = QLinearConv (x, sx, zx, w, sw, zw, sh, zx, b)\n y = QLinearConv (h, sh, zx, v, sv, zv, sh, zx)",
        {"w": bytes_of(6, 4, 1, 1), "sw": scales(6), "zw": bytes_of(6, low=0) * 0, "b": bytes_of(6, dtype=np.int32)}
        | {"v": bytes_of(3, 6, 1, 1), "sv": number(0.02), "zv": np.array(0, np.int8)},
    ),
    "between": (
        "h = QLinearConv (x, sx, zx, w, sw, zw, sh, zx)\n s = com.microsoft.QLinearSigmoid (h, sh, zx, sh, zx)\n"
        "a = com.microsoft.QLinearAdd (s, sh, zx, h, sh, zx, sh, zx)\n"
        "c = com.microsoft.QLinearMul (a, sh, zx, m, sh, zx, sh, zx)\n"
        "p = com.microsoft.QLinearGlobalAveragePool (c, sh, zx, sh, zx)\n"
        "y = QLinearConv (p, sh, zx, v, sv, zv, sh, zx)",
        {
            "w": bytes_of(6, 4, 1, 1),
            "sw": scales(6),
            "zw": bytes_of(6) * 0,
            "m": bytes_of(6, 1, 1, low=0, dtype=np.uint8),
        }
        | {"v": bytes_of(3, 6, 1, 1), "sv": number(0.02), "zv": np.array(0, np.int8)},
    ),
    "integers": (
        "h = ConvInteger (x, w, zx)\n f = Cast <to = 1> (h)\n r = QuantizeLinear (f, sh, zx)\n"
        "i = ConvInteger (r, v, zx, zv)\n y = Cast <to = 1> (i)",
        {"w": bytes_of(6, 4, 1, 1), "v": bytes_of(3, 6, 1, 1), "zv": np.array(0, np.int8)},
    ),
}


@pytest.mark.parametrize("way", LINEAR)
def test_quantised_convolutions(way):
    body, stored = LINEAR[way]
    kind = "float" if way == "integers" else "uint8"
    known = {"sx": number(0.05), "zx": U8, "sh": number(0.1)}
    sizes = "<uint8[1, 6, 2, 2] h, uint8[1, 6, 2, 2] s, uint8[1, 6, 2, 2] a, uint8[1, 6, 2, 2] c>"
    sizes = sizes if way == "between" else ""
    found = free_of(f"g (uint8[1, 4, 2, 2] x) => ({kind}[A, B, C, D] y) {sizes} {{ {body} }}", **known, **stored)
    assert found == {"h": 6}


PRODUCTS: dict[str, tuple[str, dict[str, Given]]] = {
    "linear": (
        "h = QLinearMatMul (x, s, z, w, sw, zw, s, z)\n y = QLinearMatMul (h, s, z, v, s, z8, s, z)",
        {"w": bytes_of(4, 6), "sw": scales(6), "zw": bytes_of(6), "v": bytes_of(6, 3), "z8": np.array(2, np.int8)},
    ),
    "general": (
        "h = com.microsoft.QGemm <transB = 1> (x, s, z, w, sw, zw, b, s, z)\n"
        "y = com.microsoft.QGemm (h, s, z, v, s, z8, , s, z)",
        {"w": bytes_of(6, 4), "sw": scales(6), "zw": bytes_of(6), "v": bytes_of(6, 3), "z8": np.array(2, np.int8)}
        | {"b": bytes_of(6, dtype=np.int32)},
    ),
    "integers": (
        "h = MatMulInteger (x, w, z, zw)\n f = Cast <to = 1> (h)\n r = QuantizeLinear (f, s, z)\n"
        "i = MatMulInteger (r, v, z)\n j = Cast <to = 1> (i)\n y = QuantizeLinear (j, s, z)",
        {"w": bytes_of(4, 6), "zw": bytes_of(6), "v": bytes_of(6, 3)},
    ),
}


@pytest.mark.parametrize("way", PRODUCTS)
def test_quantised_products(way):
    body, stored = PRODUCTS[way]
    known = {"s": number(0.05), "z": U8}
    assert free_of(f"g (uint8[2, 4] x) => (uint8[2, 3] y) {{ {body} }}", **known, **stored) == {"h": 6}


def test_a_computed_scale_times_a_scale_for_each_channel():
    """As onnxruntime's dynamic quantisation writes it."""
    body = """q, s, z = DynamicQuantizeLinear (x)
    h = MatMulInteger (q, w, z, zw)
    f = Cast <to = 1> (h)
    both = Mul (s, sw)
    r = Mul (f, both)
    y = MatMul (r, v)"""
    stored = {"w": bytes_of(4, 6), "zw": bytes_of(6), "sw": scales(6), "v": (6, 3)}
    assert free_of(f"g (float[2, 4] x) => (float[2, 3] y) {{ {body} }}", **stored) == {"h": 6}


REPEATED = {
    "one number a row": "a = MatMul (x, one) c = Add (a, b) m = Mul (c, h)",
    "two stored ones": "a = MatMul (x, one) p = Less (a, b) c = Where (p, b, t) m = Add (h, c)",
    "stored ones of another rank": "a = MatMul (x, one) c = Sum (b, a, tall) m = Max (c, h)",
}


@pytest.mark.parametrize("way", REPEATED)
def test_what_is_repeated_for_stored_numbers(way):
    text = f"g (float[2, 4] x) => (float[2, 3] y) {{ h = MatMul (x, w) {REPEATED[way]} y = MatMul (m, v) }}"
    stored = {"w": (4, 6), "one": (4, 1), "b": (6,), "t": (1, 6), "tall": (2, 6), "v": (6, 3)}
    assert free_of(text, **stored) == {"h": 6}


def test_what_is_repeated_stays_where_no_layer_meets_it():
    text = "g (float[2, 4] x) => (float[2, 6] y) { a = MatMul (x, one) c = Add (a, b) y = MatMul (c, v) }"
    assert free_of(text, one=(4, 1), b=(6,), v=(6, 6)) == {}


def test_int8_model_as_its_float_model(corpus):
    """The int8 QDQ model has the groups of the float model that it was made of."""
    by_name = {path.parent.name: onnx.load(path, load_external_data=False) for path in corpus}
    first, second = (map_channels(by_name[f"digits_resnet_{kind}"]) for kind in ("ext", "int8_qdq"))
    assert counted(first) == counted(second) != {}


def recurrent_weights(gates: int, directions: int = 1) -> dict[str, Given]:
    """Weights of 5 units that read 3 features."""
    rows = 5 * gates
    return {"w": (directions, rows, 3), "r": (directions, rows, 5), "b": (directions, 2 * rows), "last": (5, 2)}


ONE = "h = Squeeze (s, axis)\n y = MatMul (h, last)"
STATE = "h = Squeeze (t, axis)\n y = MatMul (h, last)"
RECURRENT: dict[str, tuple[int, int, str]] = {
    "lstm": (4, 1, f"s, t, u = LSTM <hidden_size = 5> (x, w, r, b)\n {ONE}"),
    "no bias": (4, 1, f"s = LSTM <hidden_size = 5> (x, w, r)\n {ONE}"),
    "clipped": (4, 1, f"s = LSTM <hidden_size = 5, clip = 0.5, input_forget = 1> (x, w, r, b)\n {ONE}"),
    "gru": (3, 1, f"s = GRU <hidden_size = 5> (x, w, r, b)\n {ONE}"),
    "gru, reset behind": (3, 1, f"s = GRU <hidden_size = 5, linear_before_reset = 1> (x, w, r, b)\n {ONE}"),
    "rnn": (1, 1, f'z = RNN <hidden_size = 5, activations = ["Relu"]> (x, w, r, b)\n {ONE.replace("s,", "z,")}'),
    "last state": (3, 1, "s, t = GRU <hidden_size = 5> (x, w, r, b)\n h = Squeeze (t, first)\n y = MatMul (h, last)"),
    "cell": (4, 1, ", , t = LSTM <hidden_size = 5> (x, w, r, b)\n h = Squeeze (t, first)\n y = MatMul (h, last)"),
    "sum of directions": (
        3,
        2,
        "s = GRU <hidden_size = 5, direction = \"bidirectional\"> (x, w, r, b)\n"
        "h = ReduceSum <keepdims = 0> (s, axis)\n y = MatMul (h, last)",
    ),
    "stored state": (3, 1, f"s = GRU <hidden_size = 5> (x, w, r, b, , h0)\n {ONE}"),
    "peepholes": (4, 1, f"s = LSTM <hidden_size = 5> (x, w, r, b, , h0, h0, p)\n {ONE}"),
    "filled state": (4, 1, f"h1 = ConstantOfShape (sizes)\n s = LSTM <hidden_size = 5> (x, w, r, b, , h1, h1)\n {ONE}"),
    "spread state": (3, 1, f"h1 = Expand (zeros, sizes)\n s = GRU <hidden_size = 5> (x, w, r, b, , h1)\n {ONE}"),
    "two": (3, 1, "z = GRU <hidden_size = 5> (x, w, r, b)\n k = Squeeze (z, axis)\n"
        f"s = GRU <hidden_size = 5> (k, w2, r, b)\n {ONE}"),
}  # fmt: skip
MORE: dict[str, Given] = {
    "axis": ints(1),
    "first": ints(0),
    "h0": (1, 2, 5),
    "p": (1, 15),
    "sizes": ints(1, 2, 5),
    "zeros": (1, 1, 1),
    "w2": (1, 15, 5),
}


@pytest.mark.parametrize("way", RECURRENT)
def test_hidden_units(way):
    gates, directions, body = RECURRENT[way]
    names = set(re.findall(r"\w+", body))
    used = {name: each for name, each in (recurrent_weights(gates, directions) | MORE).items() if name in names}
    sizes = "A, B" if way in ("last state", "cell") else "A, B, C"
    found = free_of(f"g (float[4, 2, 3] x) => (float[{sizes}] y) {{ {body} }}", **used)
    assert found == {"z" if way in ("rnn", "two") else "t" if way == "cell" else "s": 5}


def test_both_directions_lose_the_same_units():
    body = """
        s = GRU <hidden_size = 5, direction = "bidirectional"> (x, w, r, b)
        h = Transpose <perm = [0, 2, 1, 3]> (s)
        k = Reshape (h, sizes)
        y = MatMul (k, both)
    """
    stored = {**recurrent_weights(3, 2), "sizes": ints(0, 0, -1), "both": (10, 2)}
    del stored["last"]
    assert free_of(f"g (float[4, 2, 3] x) => (float[4, 2, 2] y) {{ {body} }}", **stored) == {"s": 5}


def test_features_of_steps():
    """What a recurrent operator reads at each step, and the states that it gives away."""
    body = "f = MatMul (x, first)\n k = Relu (f)\n y, t = GRU <hidden_size = 5> (k, w, r, b)"
    stored = {**recurrent_weights(3), "first": (2, 3)}
    del stored["last"]
    assert free_of(f"g (float[4, 2, 2] x) => (float[4, 1, 2, 5] y) {{ {body} }}", **stored) == {"f": 3}


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [(", float[1, 2, 5] h0", ""), ("", ", float[1, 2, 5] t"), (", float[1, 2, 5] h0", ", float[1, 2, 5] t")],
)
def test_states_that_others_keep(inputs, outputs):
    body = f"s, t = GRU <hidden_size = 5> (x, w, r, b{', , h0' if inputs else ''})\n {ONE}"
    head = f"g (float[4, 2, 3] x{inputs}) => (float[4, 2, 2] y{outputs})"
    assert free_of(f"{head} {{ {body} }}", axis=ints(1), **recurrent_weights(3)) == {}


THREE = "q = MatMul (x, wq)\n k = MatMul (x, wk)\n v = MatMul (x, wv)\n"
SEEN_BY_HEAD = """
    q1 = Reshape (q, sizes)
    k1 = Reshape (k, sizes)
    v1 = Reshape (v, sizes)
    q4 = Transpose <perm = [0, 2, 1, 3]> (q1)
    k4 = Transpose <perm = [0, 2, 1, 3]> (k1)
    v4 = Transpose <perm = [0, 2, 1, 3]> (v1)
"""
GROUPED = SEEN_BY_HEAD.replace("(q, sizes", "(q, by6").replace("k4", "k3").replace("v4", "v3")
BEHIND = "ot = Transpose <perm = [0, 2, 1, 3]> (o)\n oo = Reshape (ot, back)\n y = MatMul (oo, wo)"
PRODUCTS_OF_HEADS = """
    kt = Transpose <perm = [0, 1, 3, 2]> (k4)
    l = MatMul (q4, kt)
    p = Softmax <axis = -1> (l)
    o = MatMul (p, v4)
"""
WEIGHTS: dict[str, Given] = {
    **dict.fromkeys(("wq", "wk", "wv"), (6, 12)),
    **{"wo": (12, 6), "fused": (6, 36), "added": (36,), "sizes": ints(2, 5, 3, 4), "back": ints(2, 5, 12)},
    **{"many": ints(0, 0, 3, 12), "five": ints(2, 5, 3, 3, 4), "parts": ints(4, 4, 4), "pair": ints(1, 1)},
    **{"cos": (1, 1, 5, 4), "sin": (1, 1, 5, 4), "mask": (1, 1, 5, 5), "scale": number(0.5), "low": number(-1e4)},
    **{"zero": number(0), "i0": np.array(0), "i1": np.array(1), "i2": np.array(2), "two": ints(2)},
    **{"wq6": (6, 24), "wo6": (24, 6), "by6": ints(2, 5, 6, 4), "spread": ints(2, 3, 2, 5, 4)},
    **{"all": ints(2, 6, 5, 4), "back6": ints(2, 5, 24), "whole": (6, 12), "bias": (36,), "heads": (1, 3, 5, 5)},
}
ATTENTION = {
    "separate, scaled, masked": f"""{THREE} {SEEN_BY_HEAD}
        kt = Transpose <perm = [0, 2, 3, 1]> (k1)
        l = MatMul (q4, kt)
        ls = Mul (l, scale)
        lm = Add (ls, mask)
        p = Softmax <axis = -1> (lm)
        o = MatMul (p, v4)
        {BEHIND}""",
    "both scaled, chosen by mask": f"""{THREE} {SEEN_BY_HEAD}
        kt = Transpose <perm = [0, 1, 3, 2]> (k4)
        qs = Div (q4, scale)
        ks = Mul (kt, scale)
        l = MatMul (qs, ks)
        seen = Greater (mask, zero)
        lm = Where (seen, l, low)
        p = Softmax <axis = -1> (lm)
        o = MatMul (p, v4)
        {BEHIND}""",
    "fused, gathered": f"""
        q = MatMul (x, fused)
        f = Add (q, added)
        r = Reshape (f, five)
        t = Transpose <perm = [2, 0, 3, 1, 4]> (r)
        q4 = Gather <axis = 0> (t, i0)
        k4 = Gather <axis = 0> (t, i1)
        v4 = Gather <axis = 0> (t, i2)
        {PRODUCTS_OF_HEADS} {BEHIND}""",
    "fused, split": f"""
        q = MatMul (x, fused)
        a, k, v = Split <axis = -1, num_outputs = 3> (q)
        {SEEN_BY_HEAD.replace("(q,", "(a,")} {PRODUCTS_OF_HEADS} {BEHIND}""",
    "fused head by head": f"""
        q = MatMul (x, fused)
        r = Reshape (q, many)
        t = Transpose <perm = [0, 2, 1, 3]> (r)
        q4, k4, v4 = Split <axis = -1> (t, parts)
        {PRODUCTS_OF_HEADS} {BEHIND}""",
    "turned by place": f"""
        q = MatMul (x, fused)
        r = Reshape (q, many)
        t = Transpose <perm = [0, 2, 1, 3]> (r)
        a, k4, v4 = Split <axis = -1> (t, parts)
        a0, a1 = Split <axis = -1, num_outputs = 2> (a)
        an = Neg (a1)
        ar = Concat <axis = -1> (an, a0)
        ac = Mul (a, cos)
        as = Mul (ar, sin)
        q4 = Add (ac, as)
        {PRODUCTS_OF_HEADS} {BEHIND}""",
    "grouped queries": f"""{THREE.replace("wq", "wq6")} {GROUPED}
        ku = Unsqueeze (k3, two)
        ke = Expand (ku, spread)
        k4 = Reshape (ke, all)
        vu = Unsqueeze (v3, two)
        ve = Expand (vu, spread)
        v4 = Reshape (ve, all)
        {PRODUCTS_OF_HEADS} {BEHIND.replace("back", "back6").replace("wo", "wo6")}""",
    "one operator": f"{THREE} o = Attention <q_num_heads = 3, kv_num_heads = 3> (q, k, v, mask)\n y = MatMul (o, wo)",
    "a mask for each head": f"""{THREE}
        o = Attention <q_num_heads = 3, kv_num_heads = 3> (q, k, v, heads)
        y = MatMul (o, wo)""",
    "one operator, heads apart": f"{THREE} {SEEN_BY_HEAD} o = Attention (q4, k4, v4)\n {BEHIND}",
    "grouped in one operator": f"""{THREE.replace("wq", "wq6")}
        o = Attention <q_num_heads = 6, kv_num_heads = 3> (q, k, v)
        y = MatMul (o, wo6)""",
    "MultiHeadAttention": f"""{THREE}
        o = com.microsoft.MultiHeadAttention <num_heads = 3> (q, k, v, bias)
        y = MatMul (o, wo)""",
    "Attention of com.microsoft": """
        q = com.microsoft.Attention <num_heads = 3> (x, fused, bias)
        y = MatMul (q, wo)""",
}


def attending(way: str) -> onnx.ModelProto:
    body = ATTENTION[way]
    names = set(re.findall(r"\w+", body))
    known = "<float[2, 5, 12] o>" if "MultiHead" in way else "<float[2, 5, 12] q>" if "com." in way else ""
    text = f"g (float[2, 5, 6] x) => (float[2, 5, 6] y) {known} {{ {body} }}"
    model = model_of(text, {name: given for name, given in WEIGHTS.items() if name in names})
    model.opset_import[0].version = 23 if "operator" in way or "each" in way else 21
    return model


@pytest.mark.parametrize("way", ATTENTION)
def test_whole_heads(tmp_path, way):
    model = attending(way)
    channels = check_channels(model)
    assert counted(channels) == {"q": 3}
    halved(model, tmp_path, feeds_of(model))


def test_widths_of_one_head():
    """Queries and keys of a single head meet entry by entry; values go on their own."""
    body = f"""{THREE}
        kt = Transpose <perm = [0, 2, 1]> (k)
        l = MatMul (q, kt)
        p = Softmax <axis = -1> (l)
        o = MatMul (p, v)
        y = MatMul (o, wo)"""
    stored = {name: WEIGHTS[name] for name in ("wq", "wk", "wv", "wo")}
    assert free_of(f"g (float[2, 5, 6] x) => (float[2, 5, 6] y) {{ {body} }}", **stored) == {"q": 12, "v": 12}


@pytest.mark.parametrize("outputs", [", float[2, 3, 5, 4] k0", ""])
def test_keys_that_are_kept(outputs):
    """For the next step: as an output of the model."""
    body = f"{THREE} o, k0, v0 = Attention <q_num_heads = 3, kv_num_heads = 3> (q, k, v)\n y = MatMul (o, wo)"
    stored = {name: WEIGHTS[name] for name in ("wq", "wk", "wv", "wo")}
    model = model_of(f"g (float[2, 5, 6] x) => (float[2, 5, 6] y{outputs}) {{ {body} }}", stored)
    model.opset_import[0].version = 23
    assert counted(check_channels(model, fewest=0)) == ({} if outputs else {"q": 3})


FUSED: dict[str, tuple[str, dict[str, Given]]] = {
    "convolutions": (
        'h = com.microsoft.FusedConv <activation = "Relu"> (x, w, b)\n y = com.microsoft.FusedConv (h, v)',
        {"w": (6, 4, 1, 1), "b": (6,), "v": (3, 6, 1, 1)},
    ),
    "sums": (
        "h = Conv (x, w)\n r = Relu (h)\n s = com.microsoft.FusedConv (x, w2, b, r)\n y = Conv (s, v)",
        {"w": (6, 4, 1, 1), "w2": (6, 4, 1, 1), "b": (6,), "v": (3, 6, 1, 1)},
    ),
}


@pytest.mark.parametrize("way", FUSED)
def test_fused_convolutions(way):
    body, stored = FUSED[way]
    assert free_of(f"g (float[1, 4, 2, 2] x) => (float[1, 3, 2, 2] y) {{ {body} }}", **stored) == {"h": 6}


FUSED_PRODUCTS: dict[str, tuple[str, dict[str, Given]]] = {
    "plain": ("h = com.microsoft.FusedMatMul <alpha = 0.5> (x, w)\n y = MatMul (h, v)", {"w": (4, 6), "v": (6, 3)}),
    "weight turned": (
        "h = com.microsoft.FusedMatMul <transB = 1> (x, w)\n y = com.microsoft.FusedMatMul <transB = 1> (h, v)",
        {"w": (6, 4), "v": (3, 6)},
    ),
    "gemm": (
        'h = com.microsoft.FusedGemm <transB = 1, activation = "Relu"> (x, w, b)\n'
        'y = com.microsoft.FusedGemm <activation = "Relu"> (h, v)',
        {"w": (6, 4), "b": (6,), "v": (6, 3)},
    ),
    "biases": (
        "h = MatMul (x, w)\n g1 = com.microsoft.BiasGelu (h, b)\n g2 = com.microsoft.FastGelu (g1, b2)\n"
        "y = MatMul (g2, v)",
        {"w": (4, 6), "b": (6,), "b2": (6,), "v": (6, 3)},
    ),
}


@pytest.mark.parametrize("way", FUSED_PRODUCTS)
def test_fused_products(way):
    body, stored = FUSED_PRODUCTS[way]
    assert free_of(f"g (float[2, 4] x) => (float[2, 3] y) {{ {body} }}", **stored) == {"h": 6}


def test_batches_turned():
    """transBatchA: (M, batch, K); the weight has one matrix."""
    body = "h = MatMul (x, w)\n y = com.microsoft.FusedMatMul <transBatchA = 1> (h, v)"
    assert free_of(f"g (float[2, 5, 4] x) => (float[5, 2, 3] y) {{ {body} }}", w=(4, 6), v=(1, 6, 3)) == {"h": 6}


FREE = {
    "basic_pitch": 72,
    "digits_vit": 1040,
    "gtcrn": 8,
    "magika_v3_3": 0,
    "mnist_cntk": 24,
    "silero_vad": 706,
    "superres_ppp_customop": 160,
    "ultraface_rfb320": 1716,
}


def test_real_models_are_followed_as_far_as_before(corpus):
    """More may leave one day; fewer, or an error, is a step back."""
    found = {path.parent.name: len(map_channels(onnx.load(path)).groups.free) for path in corpus}
    assert {name: found[name] for name, least in FREE.items() if found[name] < least} == {}
