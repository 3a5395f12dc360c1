"""Channels that are a constant: folded into who takes them in, exactly; where that can't be, kept or dropped."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from tests.onnx_tools.zero_cases import Case, assert_the_same_without, case_of, values, with_zeros

NETWORK = """g (float[1, 3, 6, 6] x) => (float[1, 2, 6, 6] y) {{
    a = Conv <pads = [1, 1, 1, 1]> (x, w1{bias})
    r = {between}
    y = Conv {attributes} (r, w2)
}}"""


@pytest.fixture
def look(tmp_path):
    return functools.partial(case_of, tmp_path)


def network(between: str = "Relu (a)", *, bias: bool = True, attributes: str = "") -> str:
    return NETWORK.format(between=between, bias=", b1" if bias else "", attributes=attributes)


def rows(*gone: int, kernel: int = 1, bias: tuple[float, ...] = (0.5, -0.25, 0.75, 1.5, -2.0)) -> dict:
    """Weights of the network, in which these rows of the first layer are zero."""
    return {
        "w1": with_zeros(values(5, 3, 3, 3), *gone),
        "b1": np.array(bias, np.float32),
        "w2": values(2, 5, kernel, kernel, seed=4),
    }


def assert_gone(case: Case, name: str, gone: list[int], *, folds: int | None = None) -> None:
    assert case.gone(name) == gone
    assert folds is None or len(case.found.folds) == folds
    assert_the_same_without(case)


def test_zero_rows_leave_their_bias_behind(look):
    assert_gone(look(network(), rows(0, 3)), "a", [0, 3], folds=1)


def test_a_bias_that_relu_makes_zero_leaves_nothing(look):
    assert_gone(look(network(), rows(1, 4)), "a", [1, 4], folds=0)


def test_zero_rows_without_bias(look):
    assert_gone(look(network(bias=False), rows(1, 2)), "a", [1, 2], folds=0)


@pytest.mark.parametrize(
    "between",
    [
        "Identity (a)",
        "Sigmoid (a)",
        "LeakyRelu <alpha = 0.2> (a)",
        "Gelu (a)",
        "HardSwish (a)",
        "MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (a)",
        "AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (a)",
        "BatchNormalization (a, s, b1, b1, v)",
        "InstanceNormalization (a, s, b1)",
        "Add (a, c)",
        "PRelu (a, c)",
        "Max (a, c)",
        "Mul (a, a)",
        "Clip (a, low, high)",
    ],
)
def test_constants_go_through(look, between):
    extra = {
        "s": values(5, seed=7),
        "v": values(5, seed=8),
        "c": values(5, 1, 1, seed=9),
        "low": np.float32(-0.1),
        "high": np.float32(0.6),
    }
    assert_gone(look(network(between), rows(0, 4) | extra), "a", [0, 4], folds=1)


def test_a_padded_mean_that_counts_pads_is_no_constant(look):
    between = "AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (a)"
    assert look(network(between), rows(0, 4)).gone("a") == []
    bias = (0.0, 0.5, 0.5, 0.5, 0.0)
    assert_gone(look(network(between), rows(0, 1, 4, bias=bias)), "a", [0, 4], folds=0)


def test_scales_of_zero(look):
    between = "BatchNormalization (a, s, t, b1, v)"
    extra = {"s": with_zeros(values(5, seed=7), [1, 2]), "t": with_zeros(values(5, seed=6), 2), "v": values(5, seed=8)}
    assert_gone(look(network(between), rows() | extra), "a", [1, 2], folds=1)


@pytest.mark.parametrize("opset", [7, 9, 14, 15])
def test_normalisation_of_every_version(look, opset):
    extra = {"s": values(5, seed=7), "t": values(5, seed=6), "v": values(5, seed=8)}
    text = network("BatchNormalization <epsilon = 0.25, momentum = 0.5> (a, s, t, b1, v)")
    assert_gone(look(text, rows(0, 3) | extra, opset=opset), "a", [0, 3], folds=1)


def test_multiplied_by_zero(look):
    extra = {"c": with_zeros(values(5, 1, 1, seed=9), [0, 3])}
    assert_gone(look(network("Mul (a, c)"), rows() | extra), "a", [0, 3], folds=0)


WAY_OUT = "; --constants drop removes it all the same"
PADDED = network(attributes="<pads = [1, 1, 1, 1]>")


def test_zero_leaves_a_convolution_that_pads(look):
    assert_gone(look(PADDED, rows(1, 4, kernel=3)), "a", [1, 4], folds=0)


def test_a_constant_stays_where_it_is_padded(look):
    case = look(PADDED, rows(0, 1, 3, kernel=3))
    assert_gone(case, "a", [1], folds=0)
    (note,) = case.found.notes
    assert (note.origins, len(note.groups), note.constant, note.gone) == (("a",), 2, 1.5, False)
    assert note.reason == f"Conv 'y' takes in its constant, but less of it at its borders{WAY_OUT}"


def test_a_dropped_constant_is_folded_in_away_from_the_borders(look):
    case = look(PADDED, rows(0, 1, 3, kernel=3), constants="drop")
    assert case.gone("a") == [0, 1, 3]
    (note,) = case.found.notes
    (fold,) = case.found.folds
    assert (len(note.groups), note.constant, note.gone) == (2, 1.5, True)
    weight = rows(kernel=3)["w2"].astype(np.float64)
    np.testing.assert_allclose(fold.values, weight[:, [0, 3]].sum((2, 3)) @ [0.5, 1.5])


def test_a_transposed_convolution_takes_in_only_zero(look):
    text = network().replace("y = Conv", "y = ConvTranspose")
    weights = rows(0, 1) | {"w2": values(5, 2, 1, 1)}
    case = look(text, weights)
    assert_gone(case, "a", [1], folds=0)
    assert [note.gone for note in case.found.notes] == [False]
    assert look(text, weights, constants="drop").gone("a") == [0, 1]


def test_other_words_are_refused(look):
    with pytest.raises(ValueError, match="constants is 'fold': 'keep' or 'drop' is possible"):
        look(PADDED, rows(kernel=3), constants="fold")


@pytest.mark.parametrize("turned", [0, 1])
def test_gemm(look, turned):
    text = f"""g (float[4, 3] x) => (float[4, 2] y) {{
        a = Gemm <transB = {turned}, alpha = 0.5, beta = 3.0> (x, w1, b1)
        y = Gemm <transB = {turned}, alpha = 0.25, beta = 2.0> (a, w2, b2)
    }}"""
    first, second = with_zeros(values(3, 6), np.s_[:, [2, 5]]), values(6, 2)
    weights = {"w1": first.T if turned else first, "b1": values(6), "w2": second.T if turned else second}
    case = look(text, {name: np.ascontiguousarray(array) for name, array in weights.items()} | {"b2": values(2)})
    assert_gone(case, "a", [2, 5], folds=1)


def test_weights_on_the_left(look):
    text = """g (float[4, 3] x) => (float[2, 3] y) {
        a = MatMul (w1, x)
        b = Add (a, c)
        y = MatMul (w2, b)
    }"""
    case = look(text, {"w1": with_zeros(values(6, 4), 2), "c": values(6, 1), "w2": values(2, 6)})
    assert case.gone("a", 0) == [2]
    assert len(case.found.folds) == 1
    assert_the_same_without(case)


def test_sums_of_constants(look):
    text = """g (float[2, 4] x) => (float[2, 3] y) {
        a = MatMul (x, w1)
        b = Add (a, b1)
        t = Tanh (b)
        c = MatMul (t, w2)
        s = Add (c, t)
        y = MatMul (s, w3)
    }"""
    weights = {
        "w1": with_zeros(values(4, 5), np.s_[:, [1, 3]]),
        "b1": values(5),
        "w2": with_zeros(values(5, 5), np.s_[:, [1, 2]]),
        "w3": values(5, 3),
    }
    assert_gone(look(text, weights), "s", [1], folds=2)


def test_constants_through_moves(look):
    text = """g (float[2, 3, 4, 4] x) => (float[2, 7] y) {
        a = Conv (x, w1, b1)
        p, q = Split <axis = 1, num_outputs = 2> (a)
        s = Sigmoid (p)
        c = Concat <axis = 1> (q, s)
        t = Transpose <perm = [0, 2, 3, 1]> (c)
        u = Transpose <perm = [0, 3, 1, 2]> (t)
        f = Flatten (u)
        y = MatMul (f, w2)
    }"""
    weights = {"w1": with_zeros(values(6, 3, 1, 1), 0, 4), "b1": values(6), "w2": values(6 * 16, 7)}
    assert_gone(look(text, weights), "a", [0, 4], folds=1)


def test_constants_through_global_pools(look):
    text = """g (float[2, 3, 4, 4] x) => (float[2, 7] y) {
        a = Conv (x, w1, b1)
        p = GlobalAveragePool (a)
        m = GlobalMaxPool (a)
        s = Add (p, m)
        f = Flatten (s)
        y = MatMul (f, w2)
    }"""
    weights = {"w1": with_zeros(values(6, 3, 1, 1), 0, 4), "b1": values(6), "w2": values(6, 7)}
    assert_gone(look(text, weights), "a", [0, 4], folds=1)


def test_depthwise_and_grouped_convolutions(look):
    text = """g (float[1, 3, 5, 5] x) => (float[1, 4, 3, 3] y) {
        a = Conv (x, w1, b1)
        d = Conv <group = 8> (a, w2, b2)
        y = Conv <group = 2> (d, w3)
    }"""
    weights = {
        "w1": with_zeros(values(8, 3, 1, 1), 1, 2, 5),
        "b1": values(8),
        "w2": with_zeros(values(8, 1, 3, 3), 3, 7),
        "b2": values(8),
        "w3": values(4, 4, 1, 1),
    }
    assert_gone(look(text, weights), "a", [1, 3, 5, 7], folds=1)


def test_a_layer_that_is_all_zero(look):
    text = """g (float[2, 4] x) => (float[2, 3] y) {
        a = Gemm (x, w1, b1)
        b = Gemm (a, w2, b2)
        r = Relu (b)
        y = MatMul (r, w3)
    }"""
    weights = {"w1": np.zeros((4, 5), np.float32), "b1": values(5), "w2": values(5, 6), "b2": values(6)}
    case = look(text, weights | {"w3": values(6, 3)})
    assert (case.gone("a"), case.gone("b")) == ([1, 2, 3, 4], [1, 2, 3, 4, 5])
    assert_the_same_without(case)


def test_two_values_that_meet_where_one_is_zero(look):
    text = """g (float[2, 4] x) => (float[2, 2] y) {
        q = MatMul (x, w1)
        k = MatMul (x, w2)
        t = Transpose (k)
        y = MatMul (q, t)
    }"""
    weights = {"w1": with_zeros(values(4, 6), np.s_[:, [1, 5]]), "w2": with_zeros(values(4, 6), np.s_[:, [0, 5]])}
    assert_gone(look(text, weights), "q", [0, 1, 5], folds=0)


def test_what_is_read_behind_an_unknown_operator_stays(look):
    text = """g (float[1, 3, 4, 4] x) => (float[1, 2, 4, 4] y) {
        a = Conv (x, w1, b1)
        l = LRN <size = 3> (a)
        y = Conv (l, w2)
    }"""
    weights = {"w1": with_zeros(values(5, 3, 1, 1), 2), "b1": values(5), "w2": values(2, 5, 1, 1)}
    assert look(text, weights).gone("a") == []


def test_infinite_constants_stay(look):
    assert look(network("Exp (a)"), rows(0, 1, bias=(1000.0, 0.5, 0.5, 0.5, 0.5))).gone("a") == [1]


def test_only_entries_with_one_number_are_constant(look):
    extra = {"c": values(5, 6, 6, seed=9)}
    assert look(network("Add (a, c)"), rows(1, 4) | extra).gone("a") == []


def test_a_bias_for_every_place_is_no_constant(look):
    text = """g (float[2, 4] x) => (float[2, 3] y) {
        a = Gemm (x, w1, b1)
        y = MatMul (a, w2)
    }"""
    weights = {"w1": with_zeros(values(4, 5), np.s_[:, 1]), "b1": values(2, 5), "w2": values(5, 3)}
    assert look(text, weights).gone("a") == []


def test_half_precision(look):
    text = network().replace("float[", "float16[")
    weights = {name: array.astype(np.float16) for name, array in rows(0, 1).items()}
    case = look(text, weights)
    assert case.gone("a") == [0, 1]
    assert_the_same_without(case, tolerance=2e-2)


def test_one_weight_prepared_for_its_reader(look):
    text = """g (float[2, 4] x) => (float[2, 3] y) {
        t = Transpose (w1)
        a = Gemm (x, t, b1)
        u = Transpose (w2)
        y = MatMul (a, u)
    }"""
    weights = {"w1": with_zeros(values(6, 4), 2), "b1": values(6), "w2": values(3, 6)}
    assert_gone(look(text, weights), "a", [2], folds=1)


@pytest.mark.parametrize(("bias", "gone"), [((0.5, 0.5, 0.5), [0]), ((0.5, 0.25, 0.75), [])])
def test_a_mean_over_channels_that_differ_is_no_constant(look, bias, gone):
    text = """g (float[2, 4] x) => (float[2, 3] y) {
        a = Gemm (x, w1, b1)
        s = Constant <value_ints = [0, 2, 3]> ()
        h = Reshape (a, s)
        axes = Constant <value_ints = [2]> ()
        m = ReduceMean <keepdims = 0> (h, axes)
        y = MatMul (m, w2)
    }"""
    first = with_zeros(values(4, 6), np.s_[:, :3])
    case = look(text, {"w1": first, "b1": np.array((*bias, 1, 2, 3), np.float32), "w2": values(2, 3)})
    assert_gone(case, "m", gone)


@pytest.mark.parametrize("opset", [13, 18, 19, 20])
def test_quantised_weights_and_activations(look, opset):
    text = """g (float[2, 4] x) => (float[2, 3] y) {
        d = DequantizeLinear <axis = 1> (w1, s1, z1)
        a = Gemm (x, d, b1)
        q = QuantizeLinear (a, s, z)
        r = DequantizeLinear (q, s, z)
        e = DequantizeLinear (w2, s2)
        y = MatMul (r, e)
    }"""
    rng = np.random.default_rng(2)
    codes = rng.integers(1, 100, (4, 6)).astype(np.int8)
    codes[:, [1, 4]] = 3
    weights = {
        "w1": codes,
        "s1": values(6) / 100,
        "z1": np.full(6, 3, np.int8),
        "b1": values(6),
        "s": np.float32(0.02),
        "z": np.uint8(5),
        "w2": rng.integers(1, 100, (6, 3)).astype(np.int8),
        "s2": np.float32(0.01),
    }
    assert_gone(look(text, weights, opset=opset), "a", [1, 4], folds=1)


def test_a_weight_that_is_not_stored_as_a_whole(look):
    text = """g (float[2, 5] x) => (float[2, 3] y) {
        n = Constant <value_ints = [1, 6]> ()
        ones = ConstantOfShape <value = float[1] {1.0}> (n)
        w = Concat <axis = 0> (w1, ones)
        a = MatMul (x, w)
        y = MatMul (a, w2)
    }"""
    weights = {"w1": with_zeros(values(4, 6), np.s_[:, 2]), "w2": values(6, 3)}
    assert_gone(look(text, weights), "a", [])


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_hidden_units_without_anything_in_their_gates(look, op, gates):
    text = f"""g (float[5, 2, 4] x) => (float[5, 1, 2, 2] y) {{
        h = {op} <hidden_size = 3> (x, w, r, b)
        y = MatMul (h, w2)
    }}"""
    units = np.arange(gates) * 3 + 1
    weights = {
        "w": with_zeros(values(1, gates * 3, 4), np.s_[:, units]),
        "r": with_zeros(values(1, gates * 3, 3, seed=5), np.s_[:, units]),
        "b": with_zeros(values(1, gates * 6), np.s_[:, [*units, *(units + gates * 3)]]),
        "w2": values(3, 2),
    }
    case = look(text, weights)
    assert case.gone("h", 3) == [1]
    assert_the_same_without(case)
    assert look(text, weights | {"b": values(1, gates * 6)}).gone("h", 3) == []


def test_what_goes_through_a_recurrent_layer_is_read_by_it(look):
    text = """g (float[5, 2, 4] x) => (float[5, 1, 2, 3] h) {
        a = MatMul (x, w1)
        b = Add (a, b1)
        h = GRU <hidden_size = 3> (b, w, r)
    }"""
    weights = {
        "w1": with_zeros(values(4, 6), np.s_[:, [0, 2, 4]]),
        "b1": with_zeros(values(6), [0, 1, 2]),
        "w": with_zeros(values(1, 9, 6), np.s_[:, :, 5]),
        "r": values(1, 9, 3),
    }
    case = look(text, weights)
    assert_gone(case, "b", [])
    assert case.gone("b", 2) == [0, 2, 5]
    (note,) = case.found.notes
    assert note.reason == f"GRU 'h' takes in its constant, and nothing can be added in its place{WAY_OUT}"
    assert look(text, weights, constants="drop").gone("b", 2) == [0, 2, 4, 5]


@pytest.mark.parametrize(
    "node",
    ["Gather (a)", "BatchNormalization (a, b1)", "Concat <axis = 9> (a, a)", "Mul (a)", "LSTM (a)", "Pad (a, b1, b1)"],
)
def test_nodes_that_no_runtime_takes_lead_nowhere(look, node):
    text = f"""g (float[1, 3, 4, 4] x) => (float[1, 2, 4, 4] y) {{
        a = Conv (x, w1, b1)
        r = {node}
        y = Conv (r, w2)
    }}"""
    weights = {"w1": with_zeros(values(5, 3, 1, 1), 2), "b1": values(5), "w2": values(2, 5, 1, 1)}
    assert look(text, weights).gone("a") == []


@pytest.mark.parametrize("order", ["c, d", "d, c"])
@pytest.mark.parametrize("axis", [0, 1])
def test_of_results_that_are_stacked_each_is_looked_at(look, axis, order):
    text = f"""g (float[1, 2, 6] x) => (float[a, b, 4] y) {{
        c = MatMul (x, w1)
        d = MatMul (x, w2)
        e = Concat <axis = {axis}> ({order})
        y = MatMul (e, v)
    }}"""
    makers = {
        "w1": with_zeros(values(6, 5), np.s_[:, [0, 1]]),
        "w2": with_zeros(values(6, 5, seed=4), np.s_[:, [1, 3, 4]]),
    }
    case = look(text, makers | {"v": values(5, 4, seed=5)})
    assert case.gone("e", 2) == [1]
    assert_the_same_without(case)
