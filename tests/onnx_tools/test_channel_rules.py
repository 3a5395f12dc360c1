"""How channels pass each operator: which may leave, which are tied, which stay and why."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from onnx_tools.compaction.mapping.adjustments import Bounds, Counts, Follows, Parts, Picks
from onnx_tools.compaction.mapping.channel_map import ChannelMap
from onnx_tools.compaction.mapping.channels import Channels
from onnx_tools.compaction.mapping.tracing import map_channels
from tests.channel_oracle import check_channels


def model_of(body: str, head: str, opset: int, **stored: tuple[int, ...]) -> onnx.ModelProto:
    """A model from text; `stored`: shapes of float32 initializers, which are random."""
    random = np.random.default_rng(0)
    opsets = f'"": {opset}, "com.microsoft": 1'
    model = onnx.parser.parse_model(f"<ir_version: 10, opset_import: [{opsets}]> g {head} {{ {body} }}")
    for name, shape in stored.items():
        data = random.random(shape, np.float32) + np.float32(0.1)
        model.graph.initializer.append(onnx.numpy_helper.from_array(data, name))
    return model


def between(body: str, reads: int = 6, opset: int = 20, **stored: tuple[int, ...]) -> onnx.ModelProto:
    """What stands between a Conv that makes a (2, 6, 4, 4) and one that reads b with `reads` channels."""
    first, last = "a = Conv(x, w)", "y = Conv(b, v)"
    head = "(float[2, 3, 4, 4] x) => (float[A, B, C, D] y)"
    return model_of(f"{first} {body} {last}", head, opset, w=(6, 3, 1, 1), v=(5, reads, 1, 1), **stored)


def free_of(channels: ChannelMap, layer: str = "a", axis: int = 1) -> list[list[int]]:
    """The channels of a layer that may leave, those of a group together."""
    value = next(value for scope in channels.index.scopes for name, value in scope.values.items() if name == layer)
    (factor,) = (factor for factor in channels.of(value) if factor.axes == (axis,))
    groups = channels.groups.of[factor.ids]
    free = [group for group in np.unique(groups) if not channels.groups.held[group]]
    return [np.flatnonzero(groups == group).tolist() for group in free]


EACH = [[0], [1], [2], [3], [4], [5]]

PASSING = {
    "slice": ("b = Slice <starts = [1], ends = [5], axes = [1]> (a)", 4, 9),
    "slice of other axes": ("b = Slice <starts = [1, -2], ends = [3, 2147483647], axes = [2, 3]> (a)", 6, 9),
    "gather": ("i = Constant <value_ints = [5, 0, 0, -3]> () b = Gather <axis = 1> (a, i)", 4, 20),
    "pad": ("p = Constant <value_ints = [0, 1, 0, 0, 0, 2, 1, 0]> () b = Pad(a, p)", 9, 20),
    "old pad": ('b = Pad <mode = "reflect", pads = [0, 0, 1, 1, 0, 0, 1, 1]> (a)', 6, 9),
    "pad of axes": (
        "p = Constant <value_ints = [1, 1]> () c = Constant <value_float = 0.0> () "
        "i = Constant <value_ints = [-1]> () b = Pad(a, p, c, i)",
        6,
        20,
    ),
    "tile": ("r = Constant <value_ints = [1, 2, 1, 1]> () b = Tile(a, r)", 12, 20),
    "scales": ("r = Constant <value_floats = [1.0, 1.0, 2.0, 2.0]> () b = Resize(a, , r)", 6, 20),
    "sizes": ("r = Constant <value_ints = [2, 6, 8, 8]> () b = Resize(a, , , r)", 6, 20),
    "sizes of axes": ("r = Constant <value_ints = [8, 8]> () b = Resize <axes = [2, 3]> (a, , , r)", 6, 20),
    "upsample": ("b = Upsample <scales = [1.0, 1.0, 2.0, 2.0]> (a)", 6, 7),
    "expand": ("r = Constant <value_ints = [2, 1, 4, 4]> () b = Expand(a, r)", 6, 20),
    "space to depth": ("b = SpaceToDepth <blocksize = 2> (a)", 24, 20),
    "mean over pixels": ("b = ReduceMean <axes = [2, 3]> (a)", 6, 11),
    "sum by input": ("i = Constant <value_ints = [-1]> () b = ReduceSum(a, i)", 6, 20),
    "no axes, nothing done": ("b = ReduceMax <noop_with_empty_axes = 1> (a)", 6, 20),
    "sum of channels": ("b = ReduceSum <axes = [1]> (a)", 1, 11),
    "length of channels and pixels": ("e = Relu(a) b = ReduceL2 <axes = [1, 2, 3]> (e)", 1, 11),
    "squares of channels": (
        "i = Constant <value_ints = [1]> () c = ReduceSumSquare <keepdims = 0> (a, i) b = Unsqueeze(c, i)",
        1,
        20,
    ),
    "axis gone": ("c = ReduceMin <axes = [0], keepdims = 0> (a) b = Unsqueeze <axes = [0]> (c)", 6, 11),
    "softmax": ("b = Softmax <axis = 2> (a)", 6, 20),
    "softmax before opset 13": ("b = Softmax <axis = 2> (a)", 6, 11),
    "cumulated": ("i = Constant <value_int = 2> () b = CumSum(a, i)", 6, 20),
    "triangle": ("b = Trilu(a)", 6, 20),
    "lp": ("b = LpNormalization(a)", 6, 20),
    "dropout": ("b, m = Dropout(a)", 6, 20),
    "layer over pixels": ("b = LayerNormalization <axis = 2> (a, s)", 6, 20),
    "sizes of the same": ("s0 = Shape(a) b = Reshape(a, s0)", 6, 20),
    "put together": (
        "s0 = Shape(a) n = Constant <value_ints = [0]> () n0 = Gather(s0, n) c = Constant <value_ints = [6]> () "
        "r = Constant <value_ints = [-1, 1]> () z = Concat <axis = 0> (n0, c, r) b = Reshape(a, z)",
        6,
        20,
    ),
    "sliced size": (
        "s0 = Shape(a) f = Constant <value_ints = [0]> () t = Constant <value_ints = [2]> () n = Slice(s0, f, t) "
        "m = Constant <value_ints = [8, 8]> () z = Concat <axis = 0> (n, m) b = Resize(a, , , z)",
        6,
        20,
    ),
    "made in its size": ("s0 = Shape(a) z = ConstantOfShape(s0) b = Concat <axis = 1> (a, z)", 12, 20),
    "size of an axis": ("s0 = Shape <start = 2> (a) z = ConstantOfShape(s0) b = Add(a, z)", 6, 20),
}


@pytest.mark.parametrize("case", PASSING)
def test_passing(case):
    body, reads, opset = PASSING[case]
    stored = {"s": (4, 4)} if "Layer" in body else {}
    channels = check_channels(between(body, reads, opset, **stored))
    assert free_of(channels) == EACH


TIED = {
    "depth to space": ("b = DepthToSpace <blocksize = 2> (e)", 2, 20, [[0, 2, 4, 6], [1, 3, 5, 7]]),
    "crd": ('b = DepthToSpace <blocksize = 2, mode = "CRD"> (e)', 2, 20, [[0, 1, 2, 3], [4, 5, 6, 7]]),
    "groups": ("b = GroupNormalization <num_groups = 2> (e, s, t)", 8, 21, [[0, 1, 2, 3], [4, 5, 6, 7]]),
    "halves": ("f, g = Split <axis = 1, num_outputs = 2> (e) b = Add(f, g)", 4, 20, [[0, 4], [1, 5], [2, 6], [3, 7]]),
    "shuffled": (
        "m = Constant <value_ints = [2, 2, 4, 4, 4]> () n = Constant <value_ints = [2, 8, 4, 4]> () "
        "f = Reshape(e, m) g = Transpose <perm = [0, 2, 1, 3, 4]> (f) b = Reshape(g, n)",
        8,
        20,
        [[0, 1, 2, 3], [4, 5, 6, 7]],
    ),
}


@pytest.mark.parametrize("case", TIED)
def test_tied(case):
    body, reads, opset, expected = TIED[case]
    model = between(f"e = Conv(a, u) {body}", reads, opset, u=(8, 6, 1, 1), s=(8,), t=(8,))
    channels = check_channels(model)
    assert free_of(channels, "e") == expected


HELD = {
    "strided slice": (
        "n = Constant <value_ints = [2]> () z = Constant <value_ints = [0]> () "
        "o = Constant <value_ints = [1]> () e = Constant <value_ints = [6]> () b = Slice(a, z, e, o, n)",
        3,
        20,
    ),
    "reflected": ('p = Constant <value_ints = [0, 1, 0, 0, 0, 2, 1, 0]> () b = Pad <mode = "reflect"> (a, p)', 9, 20),
    "resized": ("r = Constant <value_floats = [1.0, 2.0, 1.0, 1.0]> () b = Resize(a, , r)", 12, 20),
    "mean of channels": ("b = ReduceMean <axes = [1]> (a)", 1, 11),
    "sum of exponentials": ("e = Exp(a) b = ReduceSum <axes = [1]> (e)", 1, 11),
    "sum of everything": ("b = ReduceSum(a)", 1, 11),
    "best channel": ("c = ArgMax <axis = 1> (a) b = Cast <to = 1> (c)", 1, 20),
    "best channels": ("k = Constant <value_ints = [6]> () b, i = TopK <axis = 1> (a, k)", 6, 20),
    "softmax": ("b = Softmax <axis = 1> (a)", 6, 20),
    "softmax before opset 13": ("b = Softmax(a)", 6, 11),
    "cumulated": ("i = Constant <value_int = 1> () b = CumSum(a, i)", 6, 20),
    "neighbours": ("b = LRN <size = 3> (a)", 6, 20),
    "mean variance": ("b = MeanVarianceNormalization <axes = [1, 2, 3]> (a)", 6, 20),
    "layer": ("b = LayerNormalization <axis = 1> (a, s)", 6, 20),
    "numbered": ("b, i = MaxPool <kernel_shape = [1, 1]> (a) z = Cast <to = 1> (i) y2 = Identity(z)", 6, 20),
    "size as a number": ("c = Shape <start = 1, end = 2> (a) d = Cast <to = 1> (c) b = Mul(a, d)", 6, 20),
    "size of everything": ("c = Size(a) d = Cast <to = 1> (c) b = Mul(a, d)", 6, 20),
    "size of another axis": (
        "h = Constant <value_ints = [6]> () s0 = Shape <start = 1, end = 2> (a) o = Constant <value_ints = [1]> () "
        "z = Concat <axis = 0> (s0, o, o, o) q = Expand(k, z) p = ReduceMax <keepdims = 1> (q) b = Add(a, p)",
        6,
        20,
    ),
}


@pytest.mark.parametrize("case", HELD)
def test_held(case):
    body, reads, opset = HELD[case]
    channels = check_channels(between(body, reads, opset, s=(6, 4, 4), k=(1, 1, 1, 1)), fewest=0)
    assert free_of(channels) == []


def test_batch_normalisation_in_training_holds():
    body = "b, p, q = BatchNormalization <training_mode = 1> (a, s, t, m, d)"
    channels = map_channels(between(body, s=(6,), t=(6,), m=(6,), d=(6,)))
    assert free_of(channels) == []
    assert "training mode" in channels.groups.reasons[0]


def test_gather_of_one_entry_holds_that_one():
    body = "i = Constant <value_int = 2> () g = Gather <axis = 1> (a, i) h = Unsqueeze(g, o) b = Mul(a, h)"
    model = between(f"o = Constant <value_ints = [1]> () {body}")
    assert free_of(check_channels(model)) == [[0], [1], [3], [4], [5]]


def test_channels_of_a_table():
    head = "(int64[2, 4] x) => (float[A, B, C] y)"
    model = model_of("a = Gather(w, x) b = Relu(a) y = MatMul(b, v)", head, 20, w=(7, 6), v=(6, 5))
    channels = map_channels(model)
    assert len(channels.groups.free) == 6


def test_products_by_letters():
    head = "(float[2, 4, 3] x) => (float[A, B, C] y)"
    body = 'a = Einsum <equation = "bti,io->bto"> (x, w) y = Einsum <equation = "bto,oc->btc"> (a, v)'
    channels = check_channels(model_of(body, head, 20, w=(3, 6), v=(6, 5)))
    assert len(channels.groups.free) == 6


ADJUSTED = {
    "slice": Bounds,
    "gather": Picks,
    "sizes": Follows,
    "put together": Follows,
}


@pytest.mark.parametrize("case", ADJUSTED)
def test_adjusted(case):
    body, reads, opset = PASSING[case]
    (adjustment,) = map_channels(between(body, reads, opset)).adjustments
    assert type(adjustment) is ADJUSTED[case]


def test_a_piece_of_a_shape_says_where_it_begins():
    body, reads, opset = PASSING["put together"]
    (adjustment,) = map_channels(between(body, reads, opset)).adjustments
    assert (adjustment.node.op_type, adjustment.index, adjustment.first) == ("Concat", 1, 1)


def test_adjusted_counts():
    groups = between("b = GroupNormalization <num_groups = 3> (a, s, t)", 6, 21, s=(6,), t=(6,))
    (counted,) = (each for each in map_channels(groups).adjustments if isinstance(each, Counts))
    assert (counted.name, counted.axis, counted.per) == ("num_groups", 1, 2)
    parts = between("f, g = Split <axis = 1, num_outputs = 2> (a) b = Add(f, g)", 3)
    assert [type(each) for each in map_channels(parts).adjustments] == [Parts]


NONSENSE = [
    "b = Transpose <perm = [0]> (a)",
    "b = Slice <starts = [1], ends = [2], axes = [1, 2]> (a)",
    "b = Gather <axis = 1> (a)",
    "b = Conv(a)",
    "b = GroupNormalization <num_groups = 0> (a, w, w)",
    "b = Tile(a)",
    "p = Constant <value_ints = [1]> () b = Pad(a, p)",
    'b = Einsum <equation = "b->"> (a)',
]


@pytest.mark.parametrize("body", NONSENSE)
def test_nonsense_holds(body):
    assert free_of(map_channels(between(body))) == []


def test_ranks_are_learnt_from_weights():
    head = "(float x) => (float[A, B, C, D] y)"
    body = (
        "a = Conv(x, w) b = BatchNormalization(a, s, s, s, s) c = PRelu(b, p) d = MaxPool <kernel_shape = [2, 2]> (c) "
    )
    model = model_of(
        body + "e = Mul(d, p) y = Conv(e, v)", head, 20, w=(6, 3, 1, 1), s=(6,), p=(6, 1, 1), v=(5, 6, 1, 1)
    )
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert free_of(map_channels(model)) == EACH


def test_sizes_computed_from_sizes():
    body = (
        "q = Shape(x) n = Constant <value_ints = [0]> () m = Gather(q, n) o = Mul(m, m) "
        "t = Constant <value_ints = [1]> () k = Concat <axis = 0> (o, t) f = Reshape(s, k) b = Add(a, f)"
    )
    channels = check_channels(between(body, s=(4,)))
    assert channels.shapes.of(channels.index.scopes[0].values["f"]) == (4, 1)
    assert free_of(channels) == EACH


def test_an_axis_that_is_taken_away_holds():
    body = "e = Conv(a, u) c = Squeeze <axes = [1]> (e) d = Unsqueeze <axes = [1]> (c) b = Mul(a, d)"
    channels = check_channels(between(body, opset=11, u=(1, 6, 1, 1)), fewest=0)
    assert free_of(channels, "e") == []
    assert free_of(channels) == EACH


def test_ranks_behind_operators_that_shape_inference_does_not_know() -> None:
    opsets = '"": 20, "ai.onnx.ml": 3'
    text = f"""<ir_version: 10, opset_import: [{opsets}]> g (float[N, 3] x) => (float[A, B] y) {{
        s = ai.onnx.ml.Scaler <offset = [0.0], scale = [2.0]> (x) h = MatMul(s, w) b = Add(h, c) a = Relu(b)
        y = MatMul(a, v) }}"""
    model = onnx.parser.parse_model(text)
    for name, shape in {"w": (3, 6), "c": (6,), "v": (6, 2)}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), name))
    assert free_of(map_channels(model)) == EACH


def test_absurd_sizes_are_not_followed() -> None:
    model = between("b = Relu(a)")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    weight.dims[0] = 1 << 40
    assert len(map_channels(model).groups.of) < 100


def test_very_many_channels_are_not_followed() -> None:
    channels = Channels()
    some, more = channels.new(5, "first"), channels.new(1 << 40, "second")
    groups = channels.resolve()
    assert groups.free.tolist() == some.tolist()
    assert "more channels than can be followed" in groups.reasons[int(more[0])]


def test_what_stands_behind_others_in_an_open_batch_keeps_its_other_axes():
    body = "b = MatMul(x, w) c = Relu(x) d = Concat <axis = 0> (b, c) y = MatMul(d, v)"
    model = model_of(body, "(float[N, 5, 4] x) => (float[A, B, C] y)", 20, w=(4, 4), v=(4, 2))
    assert free_of(map_channels(model), "b", 2) == []


def test_what_stands_beside_others_of_unknown_shape_stays():
    body = "a = Conv(x, w) b = com.microsoft.Unknown(x) d = Concat <axis = 1> (b, a) y = Conv(d, v)"
    model = model_of(body, "(float[2, 3, 4, 4] x) => (float[A, B, C, D] y)", 20, w=(6, 3, 1, 1), v=(5, 8, 1, 1))
    assert free_of(map_channels(model)) == []


def test_a_zero_in_a_shape_that_copies_a_size_with_channels_holds_them() -> None:
    body = """s = Constant <value_ints = [-1, 0, 1]> () back = Constant <value_ints = [2, -1, 4]> ()
        a = Conv (x, w) c = Reshape (a, s) r = Mul (c, k) d = Reshape (r, back) y = Conv (d, v)"""
    head = "(float[2, 3, 4] x) => (float[2, 5, 4] y)"
    channels = map_channels(model_of(body, head, 20, w=(4, 3, 1), v=(5, 4, 1), k=(4, 1)))
    assert len(channels.groups.free) == 0
