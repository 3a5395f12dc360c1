"""MACs, parameters and bytes of layers, against counts by hand."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_tools.compaction.costs.cost import layer_costs, open_inputs, positions, total_cost
from onnx_tools.compaction.mapping.tracing import map_channels

OPSETS = '"" : 17, "com.microsoft" : 1, "ai.onnx.ml" : 3'


def costs_of(body, input_shapes=None):
    model = onnx.parser.parse_model(f"<ir_version: 8, opset_import: [{OPSETS}]>\n{body}")
    for info in model.graph.value_info:  # what is declared with a shape alone is a weight of zeros
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, dtype), info.name))
    return layer_costs(map_channels(model, input_shapes))


def figures(body, input_shapes=None):
    found = [layer.cost() for layer in costs_of(body, input_shapes)]
    return [(cost.parameters, cost.bytes, cost.macs) for cost in found]


CONV = "g (float[{shape}] x) => (float[] y) <float[{kernel}] w, float[{bias}] b> {{ y = Conv{how} (x, w, b) }}"


@pytest.mark.parametrize(
    ("body", "parameters", "macs"),
    [
        (CONV.format(shape="1,3,8,8", kernel="16,3,3,3", bias=16, how=""), 432 + 16, 16 * 6 * 6 * 27),
        (CONV.format(shape="2,3,8,8", kernel="16,3,3,3", bias=16, how="<strides=[2,2]>"), 448, 2 * 16 * 3 * 3 * 27),
        (CONV.format(shape="1,8,8,8", kernel="16,2,3,3", bias=16, how="<group=4>"), 304, 16 * 6 * 6 * 18),
        (CONV.format(shape="1,8,5", kernel="8,1,5", bias=8, how="<group=8>"), 48, 8 * 5),
        (
            "g (float[1,6,4,4] x) => (float[] y) <float[6,5,3,3] w>"
            "{ y = ConvTranspose <group=2, strides=[2,2]> (x, w) }",
            6 * 5 * 9,
            6 * 16 * 5 * 9,
        ),
        ("g (float[7,12] x) => (float[] y) <float[12,5] w, float[5] b> { y = Gemm (x, w, b) }", 65, 7 * 12 * 5),
        ("g (float[12,7] x) => (float[] y) <float[5,12] w> { y = Gemm <transA=1, transB=1> (x, w) }", 60, 420),
        ("g (float[2,3,12] x) => (float[] y) <float[12,5] w> { y = MatMul (x, w) }", 60, 6 * 60),
        ("g (float[12,3] x) => (float[] y) <float[5,12] w> { y = MatMul (w, x) }", 60, 3 * 60),
        ("g (float[2,4,3,8] a, float[2,4,8,5] b) => (float[] y) { y = MatMul (a, b) }", 0, 2 * 4 * 3 * 8 * 5),
        (
            'g (float[2,3,8] x) => (float[] y) <float[8,4,5] w> { y = Einsum <equation="bti,ihd->bhtd"> (x, w) }',
            160,
            2 * 3 * 160,
        ),
        (
            'g (float[2,3,8] x) => (float[] y) <float[5,8] w> { y = Einsum <equation="...i,oi->...o"> (x, w) }',
            40,
            6 * 40,
        ),
        (
            "g (float[9,2,6] x) => (float[] y) <float[1,20,6] w, float[1,20,5] r>"
            "{ y = LSTM <hidden_size=5> (x, w, r) }",
            220,
            9 * 2 * 220,
        ),
        (
            "g (float[2,9,6] x) => (float[] y) <float[2,15,6] w, float[2,15,5] r>"
            '{ y = GRU <hidden_size=5, layout=1, direction="bidirectional"> (x, w, r) }',
            330,
            18 * 330,
        ),
    ],
)
def test_counts_by_hand(body, parameters, macs):
    assert figures(body) == [(parameters, 4 * parameters, macs)]


def test_attention_of_onnxruntime():
    body = """g (float[2,7,16] x) => (float[2,7,16] y) <float[16,48] w, float[48] b>
    { y = com.microsoft.Attention <num_heads=4> (x, w, b) }"""
    assert figures(body) == [(16 * 48 + 48, 4 * 816, 2 * 7 * 16 * 48 + 2 * (2 * 7 * 16 * 7))]


QUANTISED = """g (float[1,4,8,8] x) => (float[] y) <int8[6,4,3,3] w, float[6] s, int8[6] z>
{ d = DequantizeLinear <axis=0> (w, s, z)  y = Conv (x, d) }"""


def test_a_quantised_weight_is_read_through_its_scale():
    (layer,) = costs_of(QUANTISED)
    assert (layer.cost().parameters, layer.cost().bytes) == (216 + 6 + 6, 216 + 24 + 6)
    assert positions(layer.channels) == {(("graph", 0), ("initializer", 0)): 36}


OPEN = "g (float[N,3,H,8] x) => (float[] y) <float[4,3,1,1] w> { y = Conv (x, w) }"


def test_open_sizes_count_as_one_and_are_named():
    (layer,) = costs_of(OPEN)
    assert layer.cost().macs == 8 * 12
    assert layer.open
    assert open_inputs(layer.channels) == ("axis 2 of 'x' (H)",)


def test_input_shapes_close_them():
    (layer,) = costs_of(OPEN, {"x": (2, 3, 5, 8)})
    assert (layer.cost().macs, layer.open) == (2 * 5 * 8 * 12, False)


def test_unknown_shapes_leave_macs_unknown():
    body = "g (float[] x) => (float[] y) <float[4,3] w> { y = MatMul (x, w) }"
    assert figures(body) == [(12, 48, None)]


TIED = """g (float[5,8] x) => (float[5,8] y) <float[8,8] w>
{ h = MatMul (x, w)  r = Relu (h)  t = Transpose (w)  y = MatMul (r, t) }"""


def test_a_tied_weight_counts_once_in_the_sum_and_is_used_twice():
    layers = costs_of(TIED)
    assert total_cost(layers).parameters == 64
    assert total_cost(layers).macs == 2 * 5 * 64
    assert positions(layers[0].channels) == {(("graph", 0), ("initializer", 0)): 10}


NETWORK = """g (float[1,3,8,8] x) => (float[1,5] y)
<float[8,3,3,3] w, float[8] s, float[8] t, float[8] m, float[8] v, float[5,8] f>
{
  c = Conv (x, w)  n = BatchNormalization (c, s, t, m, v)  r = Relu (n)
  p = GlobalAveragePool (r)  a = Flatten (p)  y = Gemm <transB=1> (a, f)
}"""


def test_costs_after_channels_leave():
    layers = costs_of(NETWORK)
    channels = layers[0].channels
    gone = channels.groups.free[:3]
    after = [layer.cost(channels.without(gone)) for layer in layers]
    assert [(cost.parameters, cost.macs) for cost in after] == [(5 * 27, 5 * 27 * 36), (4 * 5, 0), (25, 25)]


def test_positions_give_the_same_macs():
    layers = costs_of(NETWORK)
    channels = layers[0].channels
    elements = {tensor.path: int(np.prod(tensor.shape)) for tensor in channels.index.tensors}
    assert sum(elements[path] * times for path, times in positions(channels).items()) == total_cost(layers).macs


def test_sizes_that_only_the_channels_tell():
    body = """g (float[N,6] x) => (float[] y) <float[6,8] w, float[8,5] v>
    { n = ai.onnx.ml.Normalizer (x)  h = MatMul (n, w)  r = Relu (h)  y = MatMul (r, v) }"""
    layers = costs_of(body)
    channels = layers[0].channels
    after = [layer.cost(channels.without(channels.groups.free[:3])).macs for layer in layers]
    assert layers[1].cost().macs == 8 * 5
    assert after[1] == 5 * 5


WITHOUT_FORMULA = {
    "experts": (
        "<float[2,8,6] w1, float[2,8] b1, float[2,6,8] w2> { y = com.microsoft.MoE (x, x, w1, b1, w2) }",
        [(2 * 8 * 6 * 2 + 16, 4 * (2 * 8 * 6 * 2 + 16), None)],
    ),
    "packed": ("<uint8[3,9] w, float[3] s> { y = com.microsoft.MatMulPacked (x, w, s) }", [(30, 39, None)]),
    "somebody's": ("<float[6,6] w> { y = elsewhere.Mix (x, w) }", [(36, 144, None)]),
    "a number of somebody's": ("<float[6] w> { y = elsewhere.Mix (x, w) }", []),
    "a list": (
        "{ y = ai.onnx.ml.LinearRegressor <coefficients = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]> (x) }",
        [(0, 0, None)],
    ),
    "looked up": ("<float[9,6] w, int64[3] i> { e = Gather (w, i)  y = Add (x, e) }", []),
    "nothing stored": ("{ y = elsewhere.Mix (x, x) }", []),
}


@pytest.mark.parametrize("way", WITHOUT_FORMULA)
def test_what_has_no_formula_is_unknown(way):
    body, expected = WITHOUT_FORMULA[way]
    assert figures(f"g (float[3,6] x) => (float[] y) {body}") == expected
