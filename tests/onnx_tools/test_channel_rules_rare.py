"""Channels through operators that few models have, against onnxruntime."""

from __future__ import annotations

import pathlib
from itertools import product

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_tools.compaction.choice.config import ChannelConfig
from onnx_tools.compaction.choice.pruning import prune_channels
from onnx_tools.compaction.compact import compact_file
from onnx_tools.compaction.mapping.tracing import map_channels
from onnx_tools.operators import CONTRIB
from tests.channel_oracle import check_channels
from tests.onnx_tools.compacting import feeds_of, halved, removed, save
from tests.onnx_tools.test_channel_rules_more import Given, bytes_of, counted, ints, model_of, number

TURNED = {
    "as wide as the table": "{} (q, {})",
    "counted": "{} <num_heads = 3> (q, {})",
    "a part of each": "{} <num_heads = 3, rotary_embedding_dim = 2> (q, {})",
}


@pytest.mark.parametrize(("domain", "way"), [("", "counted"), ("", "a part of each"), *product((CONTRIB,), TURNED)])
def test_heads_that_are_turned(tmp_path: pathlib.Path, domain: str, way: str) -> None:
    """Three heads of four; whole ones leave."""
    half = 1 if "part" in way else 2
    tables, name = ("p, c, s" if domain else "c, s, p"), f"{domain}.RotaryEmbedding".lstrip(".")
    body = f"q = MatMul (x, w)\n r = {TURNED[way].format(name, tables)}\n y = MatMul (r, v)"
    random = np.random.default_rng(3)
    stored: dict[str, Given] = {"w": (6, 12), "v": (12, 5), "p": np.tile(np.arange(4), (2, 1))}
    stored |= {name: random.standard_normal((8, half)).astype(np.float32) for name in "cs"}
    model = model_of(f"g (float[2, 4, 6] x) => (float[2, 4, 5] y) {{ {body} }}", stored)
    model.opset_import[0].version = 23
    assert counted(check_channels(model)) == {"q": 3}
    halved(model, tmp_path, feeds_of(model))


SKIPPED: dict[str, tuple[str, dict[str, Given]]] = {
    "two convolutions": ("b = Conv (x, w2)\n s = com.microsoft.SkipLayerNormalization (a, b, f, f)", {"w2": (6, 4, 1)}),
    "a stored one": ("s = com.microsoft.SkipLayerNormalization (a, b, f)", {"b": (6, 5)}),
    "simplified": ("s = com.microsoft.SkipSimplifiedLayerNormalization (a, a, f)", {}),
    "its sum": ("t, , , s = com.microsoft.SkipLayerNormalization (a, a, f, f)", {}),
}


@pytest.mark.parametrize("way", SKIPPED)
def test_sums_that_are_normalised_behind_channels(tmp_path: pathlib.Path, way: str) -> None:
    body, stored = SKIPPED[way]
    text = f"g (float[2, 4, 5] x) => (float[2, 3, 5] y) {{ a = Conv (x, w)\n {body}\n y = Conv (s, v) }}"
    model = model_of(text, {"w": (6, 4, 1), "v": (3, 6, 1), "f": (5,), **stored})
    assert counted(check_channels(model)) == {"a": 6}
    halved(model, tmp_path, feeds_of(model))


def test_what_is_normalised_stays() -> None:
    body = "a = MatMul (x, w)\n s = com.microsoft.SkipLayerNormalization (a, a, f)\n y = MatMul (s, v)"
    model = model_of(f"g (float[2, 4, 5] x) => (float[2, 4, 3] y) {{ {body} }}", {"w": (5, 6), "v": (6, 3), "f": (6,)})
    assert counted(check_channels(model, fewest=0)) == {}


PLACES: dict[str, tuple[str, dict[str, Given]]] = {
    "gathered": ("b = GatherND (t, i)", {"i": np.array([[1], [0], [4]])}),
    "gathered in batches": ("b = GatherND <batch_dims = 1> (a, i)", {"i": np.array([[[1], [0]], [[4], [4]]])}),
    "scattered": (
        "u = GatherND (t, i)\n r = Relu (u)\n b = ScatterND (t, j, r)",
        {"i": np.array([[1], [0]]), "j": np.array([[2], [4]])},
    ),
    "scattered into stored data": ("b = ScatterND (d, i, a)", {"i": np.array([[4], [1]]), "d": (7, 5, 6)}),
    "stored data scattered": ("b = ScatterND (a, i, d)", {"i": np.array([[1, 4], [0, 0]]), "d": (2, 6)}),
    "gathered by element": ("b = GatherElements <axis = 1> (a, i)", {"i": np.arange(2 * 3 * 6).reshape(2, 3, 6) % 5}),
    "the best of each": ("m, i = TopK <axis = 1> (a, k)\n b = GatherElements <axis = 1> (a, i)", {"k": ints(2)}),
    "picked from stored data": (
        "m, i = TopK <axis = 1> (a, k)\n e = GatherElements <axis = 1> (d, i)\n b = Add (e, m)",
        {"k": ints(2), "d": (2, 5, 6)},
    ),
    "scattered by element": (
        "m, i = TopK <axis = 1> (a, k)\n e = Relu (m)\n b = ScatterElements <axis = 1> (d, i, e)",
        {"k": ints(5), "d": (2, 5, 6)},
    ),
}


@pytest.mark.parametrize("way", PLACES)
def test_places_along_other_axes(tmp_path: pathlib.Path, way: str) -> None:
    body, stored = PLACES[way]
    text = f"a = MatMul (x, w)\n t = Transpose <perm = [1, 0, 2]> (a)\n {body}\n y = MatMul (b, v)"
    model = model_of(f"g (float[2, 5, 4] x) => (float[A, B, 3] y) {{ {text} }}", {"w": (4, 6), "v": (6, 3), **stored})
    assert counted(check_channels(model)) == {"a": 6}
    halved(model, tmp_path, feeds_of(model))


@pytest.mark.parametrize(
    "body",
    [
        "b = GatherND (a, i)",
        "u = GatherND (a, i)\n b = ScatterND (a, i, u)",
        "s = Size (a)\n b = Mul (a, s)",
        "b = GatherElements <axis = 2> (a, i)",
        "b = GatherElements <axis = 1> (a, i)",
    ],
)
def test_places_among_channels_hold_them(body: str) -> None:
    text = f"g (float[2, 5, 4] x) => (float[A, B, C] y) {{ a = MatMul (x, w)\n {body}\n y = Identity (b) }}"
    model = model_of(text, {"w": (4, 6), "i": np.array([[[1, 2, 0]]])})
    assert counted(check_channels(model, fewest=0)) == {}


@pytest.mark.parametrize("axis", [1, -1])
def test_a_part_of_channels_behind_what_nobody_knows(tmp_path: pathlib.Path, axis: int) -> None:
    body = "e = custom.Mix (x)\n a = Gemm (e, w)\n b = Slice (a, start, end, along)\n y = Gemm (b, v)"
    stored: dict[str, Given] = {"w": (4, 6), "v": (3, 3), "along": ints(axis), "start": ints(1), "end": ints(4)}
    channels = map_channels(model := model_of(f"g (float[2, 4] x) => (float[2, 3] y) {{ {body} }}", stored))
    (factor,) = channels.of(channels.index.scopes[0].values["a"])
    gone = channels.groups.of[factor.ids[1:3]]
    small = onnx.load(removed(save(model, tmp_path / "model.onnx"), gone, channels=channels))
    found = {each.name: numpy_helper.to_array(each) for each in small.graph.initializer}
    assert [found["w"].shape, found["v"].shape] == [(4, 4), (1, 3)]
    assert [found["start"].tolist(), found["end"].tolist()] == [[1], [2]]


def test_the_number_of_sizes_is_not_a_size() -> None:
    body = "a = MatMul (x, w)\n s = Shape (a)\n n = Size (s)\n r = Range (zero, n, one)\n y = MatMul (a, v)"
    model = model_of(
        f"g (float[2, 4] x) => (float[2, 3] y, int64[2] r) {{ {body} }}",
        {"w": (4, 6), "v": (6, 3), "zero": np.array(0), "one": np.array(1)},
    )
    assert counted(check_channels(model)) == {"a": 6}


def test_quantised_parts_beside_each_other(tmp_path: pathlib.Path) -> None:
    made = "p = QLinearConv (x, s, z, w, s, z, s, z)\n q = QLinearConv (x, s, z, u, s, z, s, z)"
    body = f"{made}\n c = com.microsoft.QLinearConcat <axis = 1> (s, z, p, s, z, q, s, z)"
    stored: dict[str, Given] = {"w": bytes_of(6, 4, 1), "u": bytes_of(2, 4, 1), "v": bytes_of(3, 8, 1)}
    stored |= {"s": number(0.1), "z": np.array(0, np.int8)}
    text = f"g (int8[2, 4, 5] x) => (int8[2, 3, 5] y) {{ {body}\n y = QLinearConv (c, s, z, v, s, z, s, z) }}"
    model = model_of(text, stored)
    assert counted(check_channels(model)) == {"p": 6, "q": 2}
    halved(model, tmp_path, feeds_of(model))


SHAPE = "s = Shape (x)\n t = Cast <to = 6> (s)\n n = Slice (t, zero, one)\n k = Concat <axis = 0> (n, heads, width)"
"""int32 numbers, as TensorFlow computes shapes: the batch, 3 heads and 4."""


@pytest.mark.parametrize("more", ["", "o = Concat <axis = 0> (n, heads)\n p = Relu (o)"])
def test_shapes_put_together_and_cast(tmp_path: pathlib.Path, more: str) -> None:
    """The list of heads is cut where that Concat reads it; who else reads it keeps his own."""
    body = f"a = MatMul (x, w)\n {SHAPE}\n j = Cast <to = 7> (k)\n b = Reshape (a, j)\n c = Reshape (b, flat)\n {more}"
    stored: dict[str, Given] = {"w": (6, 12), "v": (12, 5), "zero": ints(0), "one": ints(1), "flat": ints(0, -1)}
    stored |= {"heads": np.array([3], np.int32), "width": np.array([4], np.int32)}
    text = f"g (float[2, 6] x) => (float[2, 5] y{', int32[2] p' if more else ''}) {{ {body}\n y = MatMul (c, v) }}"
    model = model_of(text, stored)
    assert counted(check_channels(model)) == {"a": 3}
    small = halved(model, tmp_path, feeds_of(model))
    lists = [numpy_helper.to_array(each).tolist() for each in small.graph.initializer if each.data_type == 6]
    assert lists == ([[3], [4], [2]] if more else [[2], [4]])


@pytest.mark.parametrize("reader", ["o = Identity (k)", "o = Add (k, k)"])
def test_a_shape_that_others_read_too_holds(reader: str) -> None:
    body = (
        f"a = MatMul (x, w)\n {SHAPE}\n j = Cast <to = 7> (k)\n b = Reshape (a, j)\n c = Reshape (b, flat)\n {reader}"
    )
    stored: dict[str, Given] = {"w": (6, 12), "v": (12, 5), "zero": ints(0), "one": ints(1), "flat": ints(0, -1)}
    stored |= {"heads": np.array([3], np.int32), "width": np.array([4], np.int32)}
    text = f"g (float[2, 6] x) => (float[2, 5] y, int32[3] o) {{ {body}\n y = MatMul (c, v) }}"
    assert counted(check_channels(model_of(text, stored), fewest=0)) == {}


STARTS = {
    "each its own": "k = Concat <axis = 0> (one, n, units)\n h = ConstantOfShape (k)\n"
    "m = Concat <axis = 0> (one, n, units)\n c = ConstantOfShape <value = float[1] {0.5}> (m)",
    "one list": "k = Concat <axis = 0> (one, n, units)\n h = ConstantOfShape (k)\n c = ConstantOfShape (k)",
    "one state": "k = Concat <axis = 0> (one, n, units)\n h = ConstantOfShape (k)\n c = Tanh (h)",
    "cast": "k = Concat <axis = 0> (one, n, units)\n j = Cast <to = 7> (k)\n h = ConstantOfShape (j)\n c = Cos (h)",
}


STARTS |= {
    "repeated zeros": "k = Concat <axis = 0> (one, n, units)\n h = Expand (nought, k)\n"
    "m = Concat <axis = 0> (one, n, units)\n c = Expand (nought, m)",
    "learned": "k = Concat <axis = 0> (one, n, units)\n h = Expand (first, k)\n"
    "m = Concat <axis = 0> (one, n, one)\n c = Expand (second, m)",
}
"""`nought`: a number; `first` and `second`: states of one sample."""


@pytest.mark.parametrize("way", STARTS)
def test_states_that_are_made_for_the_batch(tmp_path: pathlib.Path, way: str) -> None:
    """As exporters write states of zeros, where the batch is open."""
    start = f"s = Shape (x)\n n = Slice (s, one, two)\n {STARTS[way]}"
    body = f"{start}\n q, a, b = LSTM <hidden_size = 6> (x, w, r, , , h, c)"
    random = np.random.default_rng(4)
    stored: dict[str, Given] = {
        "w": (1, 24, 4),
        "r": (1, 24, 6),
        "v": random.standard_normal((6, 3)).astype(np.float32),
    }
    stored |= {"one": ints(1), "two": ints(2), "units": ints(6)}
    stored |= {"nought": np.zeros((), np.float32), "first": (1, 1, 6), "second": (1, 1, 6)}
    text = f"g (float[5, B, 4] x) => (float[5, 1, B, 3] y) {{ {body}\n y = MatMul (q, v) }}"
    model = model_of(text, stored)
    assert counted(check_channels(model)) == {"q": 6}
    halved(model, tmp_path, feeds_of(model))


@pytest.mark.parametrize("reader", ["o = Mul (k, one)", "o = Gather (k, one)"])
def test_sizes_of_a_state_that_are_read_again_hold(reader: str) -> None:
    start = f"k = Concat <axis = 0> (one, n, units)\n h = ConstantOfShape (k)\n {reader}"
    body = f"s = Shape (x)\n n = Slice (s, one, two)\n {start}\n q, a, b = LSTM (x, w, r, , , h)\n y = MatMul (q, v)"
    stored: dict[str, Given] = {"w": (1, 24, 4), "r": (1, 24, 6), "v": (6, 3)}
    stored |= {"one": ints(1), "two": ints(2), "units": ints(6)}
    model = model_of(f"g (float[5, B, 4] x) => (float[A, C, D, E] y, int64[F] o) {{ {body} }}", stored)
    assert counted(check_channels(model, fewest=0)) == {}


def test_lists_of_which_nobody_knows_the_length() -> None:
    sizes = "i = NonZero (x)\n j = Reshape (i, flat)\n k = Concat <axis = 0> (one, j)"
    body = f"{sizes}\n h = MatMul (x, w)\n y = MatMul (h, v)"
    stored: dict[str, Given] = {"w": (4, 6), "v": (6, 3), "one": ints(1), "flat": ints(-1)}
    model = model_of(f"g (float[2, 4] x) => (float[2, 3] y, int64[K] k) {{ {body} }}", stored)
    assert counted(check_channels(model)) == {"h": 6}


PACKED = {
    "scales in a list": ("(x, p, s)", 4, {"s": (12,)}),
    "scales in rows": ("(x, p, s)", 4, {"s": (6, 2)}),
    "zero points": ("(x, p, s, z)", 4, {"s": (12,), "z": bytes_of(6, low=0, dtype=np.uint8)}),
    "zero points in rows": ("(x, p, s, z)", 4, {"s": (6, 2), "z": bytes_of(6, 1, low=0, dtype=np.uint8)}),
    "a bias": ("(x, p, s, , , t)", 4, {"s": (12,), "t": (6,)}),
    "whole bytes": ("(x, p, s, z)", 8, {"s": (12,), "z": bytes_of(12, low=0, dtype=np.uint8)}),
}


@pytest.mark.parametrize("way", PACKED)
def test_outputs_of_a_packed_product(tmp_path: pathlib.Path, way: str) -> None:
    inputs, bits, stored = PACKED[way]
    body = f"a = com.microsoft.MatMulNBits <K = 32, N = 6, bits = {bits}, block_size = 16> {inputs}\n b = Relu (a)"
    stored = {"p": bytes_of(6, 2, 2 * bits, low=0, dtype=np.uint8), "v": (6, 3), **stored}
    model = model_of(f"g (float[2, 32] x) => (float[2, 3] y) {{ {body}\n y = MatMul (b, v) }}", stored)
    assert counted(check_channels(model)) == {"a": 6}
    onnx.save(model, tmp_path / "model.onnx")
    halved(model, tmp_path, feeds_of(model))
    prune_channels(tmp_path / "model.onnx", tmp_path / "masked.onnx", config=ChannelConfig(0.5))
    report = compact_file(tmp_path / "masked.onnx", tmp_path / "small.onnx")
    (layer, _) = report.layers
    assert (report.removed, layer.channels_after, layer.macs_before, layer.macs_after) == (3, 3, 2 * 32 * 6, 2 * 32 * 3)


def test_packed_rows_with_the_highest_scores_stay(tmp_path: pathlib.Path) -> None:
    packed = np.full((6, 2, 8), 0x99, np.uint8)
    packed[[1, 4]] = 0xFF
    body = "a = com.microsoft.MatMulNBits <K = 32, N = 6, bits = 4, block_size = 16> (x, p, s)\n y = MatMul (a, v)"
    stored: dict[str, Given] = {"p": packed, "s": np.ones(12, np.float32), "v": np.ones((6, 3), np.float32)}
    onnx.save(model_of(f"g (float[2, 32] x) => (float[2, 3] y) {{ {body} }}", stored), tmp_path / "model.onnx")
    prune_channels(tmp_path / "model.onnx", tmp_path / "masked.onnx", config=ChannelConfig(0.7))
    masked = {each.name: numpy_helper.to_array(each) for each in onnx.load(tmp_path / "masked.onnx").graph.initializer}
    assert np.flatnonzero((masked["p"] != 0x88).any((1, 2))).tolist() == [1, 4]


@pytest.mark.parametrize(("count", "scales"), [(5, 12), (6, 11)])
def test_packed_rows_that_fit_no_runtime_stay(count: int, scales: int) -> None:
    product = f"com.microsoft.MatMulNBits <K = 32, N = {count}, bits = 4, block_size = 16>"
    stored: dict[str, Given] = {"p": bytes_of(6, 2, 8, low=0, dtype=np.uint8), "s": (scales,), "v": (6, 3)}
    model = model_of(f"g (float[2, 32] x) => (float[2, 3] y) {{ a = {product} (x, p, s)\n y = MatMul (a, v) }}", stored)
    assert len(map_channels(model).groups.free) == 0


def test_channels_beside_a_packed_product(tmp_path: pathlib.Path) -> None:
    product = "com.microsoft.MatMulNBits <K = 32, N = 5, bits = 4, block_size = 16>"
    body = f"a = Conv (x, w)\n b = {product} (a, p, s)\n y = Conv (b, v)"
    stored: dict[str, Given] = {"w": (6, 4, 1), "v": (3, 6, 1), "s": (10,)}
    stored["p"] = bytes_of(5, 2, 8, low=0, dtype=np.uint8)
    model = model_of(f"g (float[2, 4, 32] x) => (float[2, 3, 5] y) {{ {body} }}", stored)
    assert counted(check_channels(model)) == {"a": 6}
    halved(model, tmp_path, feeds_of(model))
