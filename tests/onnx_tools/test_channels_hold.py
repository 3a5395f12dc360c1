"""What channels must not pass unseen: inputs that a rule does not expect them in, and models that fit no runtime."""

from __future__ import annotations

import contextlib
import pathlib

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_tools.compaction.choice.config import ChannelConfig
from onnx_tools.compaction.choice.pruning import prune_channels
from onnx_tools.compaction.compact import compact_file
from onnx_tools.compaction.mapping.channel_map import ChannelMap
from onnx_tools.compaction.mapping.tracing import map_channels
from onnx_tools.errors import NothingSelected, VerificationFailed
from tests.channel_oracle import check_channels
from tests.onnx_tools.compacting import compare, feeds_of, half, with_weights, zero

STORED = "float[8,3,3,3] w, float[8] b, float[4,8,1,1] v"


def channels_of(body: str, stored: str = "", *, opset: int = 17, inputs: str = "", **lists: list[int]) -> ChannelMap:
    """The channels of `h`, a convolution of `x`, in front of `body`, which makes `y`. `lists`: more stored integers."""
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]> g (float[n, 3, 8, 8] x{inputs}) => (float[a, b, c, d] y)
        <{STORED}{stored}> {{ h = Conv(x, w, b) {body} }}"""
    model = with_weights(text)
    stored_lists = [numpy_helper.from_array(np.array(values, np.int64), name) for name, values in lists.items()]
    model.graph.initializer.extend(stored_lists)
    return map_channels(model)


def free_in(channels: ChannelMap) -> int:
    """How many channels of `h` may leave."""
    (factor,) = channels.of(channels.index.scopes[0].values["h"])
    return len(np.intersect1d(channels.groups.of[factor.ids], channels.groups.free))


UNSEEN = {
    "summed alone": ('y = Einsum <equation = "bchw->bhw"> (h)', "", ""),
    "summed beside": ('f = Flatten(h) y = Einsum <equation = "bc,bd->bd"> (f, z)', "", ", float[n, 5] z"),
    "scale of what has none": ("p = ReduceMean <axes = [0, 2, 3], keepdims = 0> (h) y = LayerNormalization(z, p)", "",
                               ", float[n, 8] z"),
    "scale of an input": ("p = ReduceMean <axes = [0, 2, 3], keepdims = 0> (h) y = InstanceNormalization(z, p, b)", "",
                          ", float[n, 8, 4, 4] z"),
    "added to a product of inputs": ("f = ReduceMean <axes = [2, 3], keepdims = 0> (h) y = Gemm(z, t, f)", "",
                                     ", float[n, 5] z, float[5, 8] t"),
    "weight of an input": ("y = Conv(z, h)", "", ", float[n, 8, 9, 9] z"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSEEN)
def test_what_no_rule_expects_there_stays(case):
    body, stored, inputs = UNSEEN[case]
    assert free_in(channels_of(body, stored, inputs=inputs)) == 0


def test_of_casting_like_another_only_the_type_matters():
    assert free_in(channels_of("k = CastLike(z, h) y = Conv(h, v)", inputs=", float z")) == 8


@pytest.mark.parametrize("body", ["e = Add <broadcast = 1, axis = 1> (h, t)", "e = PRelu(h, t)"])
def test_broadcast_of_old_opsets_holds(body):
    assert free_in(channels_of(f"{body} y = Conv(e, v)", ", float[8] t", opset=6)) == 0


NONSENSE = {
    "no group": "e = Conv <group = 0> (h, v)",
    "many groups": "e = Conv <group = 100000000000> (h, v)",
    "many times": "e = Tile(h, many)",
    "never": "e = Tile(h, never)",
    "many blocks": "e = SpaceToDepth <blocksize = 100000000> (h)",
    "no blocks": "e = SpaceToDepth <blocksize = 0> (h)",
    "negative blocks": "e = DepthToSpace <blocksize = -2> (h)",
    "many pads": "e = Pad(h, wide)",
    "too few to subtract": "d = Sub(h) e = Log(d)",
    "none of which one is the highest": "d = Max() s = Add(h, d) e = Div(s)",
    "an axis that is not there": "e = Concat <axis = 77> (h, h)",
    "another axis that is not there": "e = Softmax <axis = -99> (h)",
}


@pytest.mark.parametrize("case", NONSENSE)
def test_what_fits_no_runtime_stays(case):
    channels = channels_of(
        f"{NONSENSE[case]} y = Conv(e, v)", many=[1, 1 << 26, 1, 1], never=[1, 0, 1, 1], wide=[0, 1 << 40, *[0] * 6]
    )
    assert free_in(channels) == 0


def test_a_weight_of_another_size_is_not_cut():
    assert free_in(channels_of("e = Add(h, t) y = Conv(e, u)", ", float[1, 8, 1, 1] t, float[4, 7, 1, 1] u")) == 0


def test_groups_of_another_number_of_channels():
    channels = channels_of("y = Conv <group = 3> (h, t)", ", float[3, 2, 1, 1] t")
    assert free_in(channels) == 0
    assert any("doesn't fit its inputs" in reason for reason in channels.groups.reasons.values())


def checked(body: str, stored: str = "", **lists: list[int]) -> int:
    """How many channels of `h` may leave, held against onnxruntime."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[n, 3, 8, 8] x) => (float[a, b, c, d] y)
        <{STORED}{stored}> {{ h = Conv(x, w, b) {body} }}"""
    model = with_weights(text)
    for name, values in lists.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    return free_in(check_channels(model))


def test_a_scale_in_front_of_the_axes_that_are_normalised():
    assert checked("e = LayerNormalization <axis = 3> (h, t) y = Conv(e, v)", ", float[8, 6, 6] t") == 8


def test_expand_to_the_sizes_of_the_last_axes():
    channels = channels_of("e = Expand(h, sizes) y = Conv(e, v)", sizes=[8, 1, 1])
    assert free_in(channels) == 8
    assert len(channels.adjustments) == 1


def test_all_but_the_batch_made_one_axis():
    body = """s = Shape(h) z = Constant <value_int = 0> () m = Constant <value_ints = [-1]> () i = Gather(s, z)
        j = Unsqueeze(i, never) k = Concat <axis = 0> (j, m) f = Reshape(h, k) y = MatMul(f, t)"""
    assert checked(body, ", float[288, 5] t", never=[0]) == 8


def test_a_weight_made_of_sums_of_itself_many_times_over():
    doubled = " ".join(f"t{depth + 1} = Add(t{depth}, t{depth})" for depth in range(40))
    channels = channels_of(f"{doubled} e = Conv(h, t40) y = Conv(e, v)", ", float[8, 8, 1, 1] t0")
    assert free_in(channels) == 8
    assert len(channels.members) < 20


TURNED = """q = MatMul(z, wq) r = Reshape(q, heads) t = Transpose <perm = [0, 2, 1, 3]> (r) a, o = Split <axis = -1> (t)
    n = Neg(o) u = Concat <axis = -1> (n, a) i = Mul(t, cosines) j = Mul(u, cosines) k = Add(i, j)
    l = Transpose <perm = [0, 2, 1, 3]> (k) m = Reshape(l, flat) h = Conv(x, w, b) e = Conv(h, v) y = MatMul(m, wo)"""


@pytest.mark.parametrize("cosines", ["", "cosines = Cos(angles)"])
def test_heads_that_are_turned_by_a_table_for_all_of_them_leave_whole(cosines):
    stored = ", float[6, 12] wq, float[12, 2] wo" + ("" if cosines else ", float[5, 4] cosines")
    inputs = ", float[1, 5, 6] z" + (", float[5, 4] angles" if cosines else "")
    channels = channels_of(cosines + TURNED, stored, inputs=inputs, opset=13, heads=[1, 5, 3, 4], flat=[1, 5, 12])
    (factor,) = channels.of(channels.index.scopes[0].values["q"])
    assert np.ptp(channels.groups.of[factor.ids].reshape(3, 4), 1).tolist() == [0, 0, 0]
    assert len(np.intersect1d(channels.groups.of[factor.ids], channels.groups.free)) == 3


BREAKING = {
    "logarithm": "e = Abs(h) f = Log(e)",
    "logarithm of a sum": "e = Abs(h) s = ReduceLogSum <axes = [2, 3]> (e) f = Mul(h, s)",
    "reciprocal": "f = Reciprocal(h)",
    "by itself": "e = Abs(h) f = Div(h, e)",
    "negative power": "e = Abs(h) p = Constant <value_float = -0.5> () f = Pow(e, p)",
    "root of less": "c = Constant <value_float = 1.0> () e = Abs(h) l = Sub(e, c) f = Sqrt(l)",
    "standard deviation": """m = ReduceMean <axes = [2, 3]> (h) d = Sub(h, m) q = Mul(d, d)
        v0 = ReduceMean <axes = [2, 3]> (q) s = Sqrt(v0) f = Div(d, s)""",
    "no epsilon": "f = InstanceNormalization <epsilon = 0.0> (h, t, u)",
    "deviation of constants": "f = MeanVarianceNormalization <axes = [2, 3]> (h)",
    "its own shift": "e = Relu(h) r = Add(e, k) f = Reciprocal(r)",
}

BEARING = {
    "shifted logarithm": "c = Constant <value_float = 0.1> () e = Relu(h) s = Add(e, c) f = Log(s)",
    "least of a logarithm": "c = Constant <value_float = 0.1> () e = Max(h, c) f = Log(e)",
    "clipped": "c = Constant <value_float = 0.1> () e = Clip(h, c) f = Reciprocal(e)",
    "logarithm of a sigmoid": "e = Sigmoid(h) f = Log(e)",
    "by an exponential": "e = Exp(h) f = Div(h, e)",
    "by a number": "c = Constant <value_float = 3.0> () f = Div(h, c)",
    "by stored numbers": "f = Div(h, k)",
    "squares": "c = Constant <value_float = 2.0> () f = Pow(h, c)",
    "root": "e = Abs(h) f = Sqrt(e)",
    "variance": """c = Constant <value_float = 1e-5> () m = ReduceMean <axes = [2, 3]> (h) d = Sub(h, m) q = Mul(d, d)
        v0 = ReduceMean <axes = [2, 3]> (q) a = Add(v0, c) s = Sqrt(a) f = Div(d, s)""",
    "distance": """c = Constant <value_float = 1e-5> () e = Sigmoid(h) n = ReduceL2 <axes = [2, 3]> (e)
        a = Add(n, c) f = Div(e, a)""",
    "normalised": "f = InstanceNormalization(h, t, u)",
    "what is not scaled": "e = Abs(h) f = Div(e, p)",
}
"""`k`: stored, one number a channel; `t` and `u`: scale and shift."""


def zeroed(case: str, folder: pathlib.Path) -> pathlib.Path:
    """The model of a case, without half of its channels as far as they may leave."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[n, 3, 8, 8] x, float[n, 1, 6, 6] p)
        => (float[a, b, c, d] y)
        <{STORED}, float[8, 1, 1] k, float[8] t, float[8] u> {{ h = Conv(x, w, b) {case} y = Conv(f, v) }}"""
    model = with_weights(text)
    for tensor in model.graph.initializer:
        if tensor.name == "k":
            tensor.CopyFrom(numpy_helper.from_array(np.abs(numpy_helper.to_array(tensor)) + 0.5, "k"))
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize("case", BREAKING)
def test_what_is_not_finite_at_zero_holds_its_channels(case, tmp_path):
    channels = map_channels(onnx.load(zeroed(BREAKING[case], tmp_path)))
    assert free_in(channels) == 0
    assert any("is not finite where a channel is zero" in reason for reason in channels.groups.reasons.values())


@pytest.mark.parametrize("case", BEARING)
def test_what_zeros_do_not_reach_is_pruned_and_removed(case, tmp_path):
    model = zeroed(BEARING[case], tmp_path)
    assert free_in(map_channels(onnx.load(model))) == 8
    prune_channels(model, tmp_path / "masked.onnx", config=ChannelConfig(0.5))
    assert compact_file(tmp_path / "masked.onnx", tmp_path / "out.onnx").removed == 4


def test_the_rest_of_a_model_with_a_logarithm_is_pruned(tmp_path):
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[n, 3, 8, 8] x) => (float[a, b, c, d] y)
        <{STORED}, float[8,4,1,1] u> {{ g = Conv(x, w, b) h = Conv(g, v) e = Abs(h) f = Log(e) y = Conv(f, u) }}"""
    onnx.save(with_weights(text), tmp_path / "model.onnx")
    prune_channels(tmp_path / "model.onnx", tmp_path / "masked.onnx", config=ChannelConfig(0.5))
    assert compact_file(tmp_path / "masked.onnx", tmp_path / "out.onnx").removed == 4


def test_a_model_that_is_finite_only_without_its_channels_is_refused_in_words(tmp_path):
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[n, 3, 8, 8] x) => (float[a, b, c, d] y)
        <{STORED}> {{ h = Conv(x, w, b) f = Sqrt(h) y = Conv(f, v) }}"""
    model = with_weights(text)
    zero(model, (channels := map_channels(model)), half(channels))
    onnx.save(model, tmp_path / "masked.onnx")
    with pytest.raises(VerificationFailed, match="values are NaN or infinite"):
        compact_file(tmp_path / "masked.onnx", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def defaults(folder: pathlib.Path, *names: str, ir: int = 8, product: str = "f = Conv(e, v)") -> pathlib.Path:
    """A model without half of its channels, of `h` and of `e`; stored tensors of these names are inputs too."""
    text = f"""<ir_version: {ir}, opset_import: ["" : 12]> g (float[n, 3, 8, 8] x) => (float[a, b, c, d] y)
        <{STORED}, float[8,8,1,1] w2, float[1] one, float[6,5] m>
        {{ h = Conv(x, w, b) s = Add(h, one) r = Relu(s) e = Conv(r, w2) {product} y = MatMul(f, m) }}"""
    model = with_weights(text)
    for tensor in model.graph.initializer:
        if tensor.name in names:
            model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, 1, tensor.dims))
    onnx.save(model, folder / "model.onnx")
    prune_channels(folder / "model.onnx", folder / "masked.onnx", config=ChannelConfig(0.5))
    return folder / "masked.onnx"


ALL = ("w", "b", "v", "w2", "one", "m")


@pytest.mark.parametrize(("name", "removed"), [("w", 4), ("b", 4), ("v", 4), ("m", 8)])
def test_a_stored_tensor_that_callers_may_override_stays(tmp_path, name, removed):
    report = compact_file(defaults(tmp_path, name), tmp_path / "out.onnx")
    assert report.removed == removed
    reasons = [note.reason for note in report.staying]
    assert removed == 8 or any(f"'{name}'" in each and "an input that callers may override" in each for each in reasons)
    before, after = (onnx.load(tmp_path / file).graph for file in ("masked.onnx", "out.onnx"))
    assert [info for info in after.input if info.name == name] == [info for info in before.input if info.name == name]


@pytest.mark.parametrize("product", ["t = Transpose <perm = [0, 2, 3, 1]> (e) f = MatMul(t, k)", "f = Mul(e, k)"])
def test_a_product_with_what_callers_may_override_says_so(tmp_path, product):
    text = f"""<ir_version: 8, opset_import: ["" : 12]>
        g (float[n, 3, 8, 8] x, float[8, 8] k) => (float[a, b, c, d] f) <{STORED}> {{ e = Conv(x, w, b) {product} }}"""
    model = with_weights(text)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((8, 8), np.float32), "k"))
    reasons = map_channels(model).groups.reasons.values()
    assert any("callers may override" in reason for reason in reasons) == ("MatMul" in product)


def test_where_callers_may_override_all_that_counts_nothing_is_pruned(tmp_path):
    with pytest.raises(NothingSelected, match="'w2', an input that callers may override"):
        defaults(tmp_path, "w2")


def test_a_constant_that_callers_may_override_is_not_known(tmp_path):
    masked = onnx.load(defaults(tmp_path, "one"))
    compact_file(tmp_path / "masked.onnx", tmp_path / "out.onnx")
    feeds = {**feeds_of(masked), "one": np.array([3], np.float32)}
    compare(tmp_path / "masked.onnx", tmp_path / "out.onnx", feeds)


@pytest.mark.parametrize(("ir", "warned"), [(3, 0), (4, 1), (8, 1)])
def test_where_all_stored_tensors_are_inputs_they_are_taken_as_fixed(tmp_path, ir, warned):
    report = compact_file(defaults(tmp_path, *ALL, ir=ir), tmp_path / "out.onnx")
    assert report.removed == 8
    assert sum("all stored tensors are inputs too" in warning for warning in report.warnings) == warned


SUMMED = {
    "sum": ("s = ReduceSum(h, i) e = Mul(h, s) y = Conv(e, v)", 4),
    "length": ("e = Tanh(h) s = ReduceL2 <axes = [1]> (e) y = Neg(s)", 4),
    "products": ("e = Mul(h, h) s = ReduceSum(e, i) y = Sqrt(s)", 4),
    "exponentials": ("e = Exp(h) s = ReduceSum(e, i) f = Div(h, s) y = Conv(f, v)", 0),
    "mean": ("s = ReduceMean <axes = [1]> (h) e = Mul(h, s) y = Conv(e, v)", 0),
    "sum, of shifted ones": ("e = Add(h, t) f = Neg(e) s = ReduceSum(f, i) y = Neg(s)", 4),
    "sum of joint axes": ("e = Reshape(h, r) s = ReduceSum(e, i) f = Reshape(h, r) y0 = Mul(s, f) y = Neg(y0)", 0),
}


@pytest.mark.parametrize("case", SUMMED)
def test_a_sum_lets_zeros_leave(case, tmp_path):
    body, removed = SUMMED[case]
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[n, 3, 8, 8] x) => (float[a, b, c, d] y)
        <{STORED}, float[8, 1, 1] t> {{ i = Constant <value_ints = [1]> () r = Constant <value_ints = [0, 2, 4, 36]> ()
        h = Conv(x, w, b) {body} }}"""
    onnx.save(with_weights(text), tmp_path / "model.onnx")
    with contextlib.suppress(NothingSelected):
        prune_channels(tmp_path / "model.onnx", tmp_path / "masked.onnx", config=ChannelConfig(0.5))
    assert (tmp_path / "masked.onnx").exists() == (removed > 0)
    if removed:
        assert compact_file(tmp_path / "masked.onnx", tmp_path / "out.onnx").removed == removed


NOT_KNOWN_AS_ZERO = {
    "activation": 'h = com.microsoft.FusedConv <activation = "Sigmoid"> (x, w, b) y = ReduceSum (h, one)',
    "equation": 'h = Einsum <equation = "bchw,wk->bkch"> (x, t) y = ReduceSum (h, one)',
    "first state": "h = GRU <hidden_size = 8> (z, gw, gr, , , state) y = ReduceSum (h, three)",
    "activations": 'h = RNN <hidden_size = 8, activations = ["Sigmoid"]> (z, rw, rr) y = ReduceSum (h, three)',
}


@pytest.mark.parametrize("case", NOT_KNOWN_AS_ZERO)
def test_what_would_be_zeroed_for_nothing_stays(case):
    stored = ", float[8, 8] t, float[1, 24, 4] gw, float[1, 24, 8] gr, float[1, 2, 8] state"
    stored += ", float[1, 8, 4] rw, float[1, 8, 8] rr"
    text = f"""<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[n, 3, 8, 8] x, float[5, 2, 4] z) => (float[a, b, c] y) <{STORED}{stored}>
        {{ one = Constant <value_ints = [1]> () three = Constant <value_ints = [3]> () {NOT_KNOWN_AS_ZERO[case]} }}"""
    channels = map_channels(with_weights(text))
    assert free_in(channels) == 0
    assert any("may be something else there" in reason for reason in channels.groups.reasons.values())


def test_a_sum_keeps_channels_that_are_not_zero(tmp_path):
    """Somebody else has zeroed the weights, and left the bias."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[n, 3, 8, 8] x) => (float[a, b, c, d] y)
        <{STORED}> {{ i = Constant <value_ints = [1]> () h = Conv(x, w, b) s = ReduceSum(h, i) y = Neg(s) }}"""
    model = with_weights(text)
    for name, kept in (("w", 5), ("b", 7)):
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        values = numpy_helper.to_array(tensor).copy()
        values[kept:] = 0
        tensor.CopyFrom(numpy_helper.from_array(values, name))
    onnx.save(model, tmp_path / "model.onnx")
    assert compact_file(tmp_path / "model.onnx", tmp_path / "out.onnx").removed == 1
