"""MACs against an independent count: of ones alone a product sums as many ones as it multiplies numbers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_tools.compaction.costs.cost import layer_costs, total_cost
from onnx_tools.compaction.mapping.tracing import map_channels
from tests.channel_oracle import outputs

OPSETS = '"" : 17, "com.microsoft" : 1'


def of_ones(inputs: str, weights: str, body: str) -> onnx.ModelProto:
    """A model of which all weights are ones."""
    model = onnx.parser.parse_model(
        f"<ir_version: 8, opset_import: [{OPSETS}]> g ({inputs}) => (y) <{weights}> {{ {body} }}"
    )
    for info in list(model.graph.value_info):
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), info.name))
        model.graph.value_info.remove(info)
    return model


def macs_of(model: onnx.ModelProto) -> int | None:
    return total_cost(layer_costs(map_channels(model))).macs


def ones_in(model: onnx.ModelProto) -> int:
    """The sum of all that the model makes of ones."""
    feeds = {
        info.name: np.ones([dim.dim_value for dim in info.type.tensor_type.shape.dim], np.float32)
        for info in model.graph.input
    }
    return int(outputs(model, feeds)["y"].astype(np.float64).sum())


COUNTED = {
    "Conv": ("float[2,3,9,8] x", "float[5,3,3,2] w", "y = Conv(x, w)"),
    "Conv, grouped": ("float[1,12,7,7] x", "float[8,3,3,3] w", "y = Conv <group = 4> (x, w)"),
    "Conv, depthwise": ("float[1,6,7,7] x", "float[12,1,3,3] w", "y = Conv <group = 6> (x, w)"),
    "Conv, dilated": ("float[1,3,11,11] x", "float[4,3,3,3] w", "y = Conv <dilations = [2, 3]> (x, w)"),
    "Conv, in strides": ("float[1,3,11,10] x", "float[4,3,3,3] w", "y = Conv <strides = [2, 3]> (x, w)"),
    "Conv along one axis": ("float[2,4,20] x", "float[6,4,5] w", "y = Conv <strides = [2], dilations = [3]> (x, w)"),
    "Conv along three": ("float[1,2,5,6,4] x", "float[3,2,2,3,2] w", "y = Conv(x, w)"),
    "ConvTranspose": ("float[2,4,5,6] x", "float[4,3,3,2] w", "y = ConvTranspose(x, w)"),
    "ConvTranspose, grouped": ("float[1,8,5,5] x", "float[8,3,3,3] w", "y = ConvTranspose <group = 4> (x, w)"),
    "ConvTranspose, in strides": (
        "float[1,4,5,5] x",
        "float[4,3,3,3] w",
        "y = ConvTranspose <strides = [2, 3], dilations = [2, 1], output_padding = [1, 0]> (x, w)",
    ),
    "Gemm": ("float[7,6] x", "float[6,5] w", "y = Gemm(x, w)"),
    "Gemm, transposed": ("float[6,7] x", "float[5,6] w", "y = Gemm <transA = 1, transB = 1> (x, w)"),
    "MatMul": ("float[7,6] x", "float[6,5] w", "y = MatMul(x, w)"),
    "MatMul from the left": ("float[2,6,7] x", "float[5,6] w", "y = MatMul(w, x)"),
    "MatMul in batches": ("float[3,1,7,6] x, float[4,6,5] z", "float[1] w", "y = MatMul(x, z)"),
    "MatMul with a vector": ("float[2,3,6] x", "float[6] w", "y = MatMul(x, w)"),
    "Einsum": ("float[2,3,6] x", "float[6,4,5] w", 'y = Einsum <equation = "bti,iho->bhto"> (x, w)'),
    "FusedMatMul": (
        "float[2,6,7] x, float[2,5,6] z",
        "float[1] w",
        "y = com.microsoft.FusedMatMul <transA = 1, transB = 1> (x, z)",
    ),
    "FusedConv": ("float[1,4,7,7] x", "float[6,2,3,3] w", "y = com.microsoft.FusedConv <group = 2> (x, w)"),
    "RNN, one step": (
        "float[1,3,4] x, float[1,3,5] h",
        "float[1,5,4] w, float[1,5,5] r",
        'y = RNN <hidden_size = 5, activations = ["Affine"], activation_alpha = [1.0], activation_beta = [0.0]> '
        "(x, w, r, , , h)",
    ),
}


@pytest.mark.parametrize("case", COUNTED)
def test_macs_are_the_ones_that_are_summed(case):
    model = of_ones(*COUNTED[case])
    assert macs_of(model) == ones_in(model)


@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (0, 2, 1, 3)])
def test_padding_counts_as_if_it_were_multiplied(pads):
    top, left, bottom, right = pads
    padded = of_ones(
        "float[1,3,6,6] x", "float[4,3,3,3] w", f"y = Conv <pads = [{top}, {left}, {bottom}, {right}]> (x, w)"
    )
    larger = of_ones(f"float[1,3,{6 + top + bottom},{6 + left + right}] x", "float[4,3,3,3] w", "y = Conv(x, w)")
    assert macs_of(padded) == ones_in(larger)


@pytest.mark.parametrize(("name", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
@pytest.mark.parametrize("directions", [1, 2])
def test_macs_of_recurrences_are_products_of_each_gate_step_by_step(name, gates, directions):
    """The same as matrix products, written out: each gate of each step reads the input and the last state."""
    steps, batch, inputs, hidden = 7, 3, 4, 5
    way = "bidirectional" if directions == 2 else "forward"
    recurrence = of_ones(
        f"float[{steps},{batch},{inputs}] x",
        f"float[{directions},{gates * hidden},{inputs}] w, float[{directions},{gates * hidden},{hidden}] r",
        f'y = {name} <hidden_size = {hidden}, direction = "{way}"> (x, w, r)',
    )
    products = of_ones(
        f"float[{batch},{inputs}] x, float[{batch},{hidden}] h",
        f"float[{inputs},{gates * hidden}] w, float[{hidden},{gates * hidden}] r",
        "a = MatMul(x, w) b = MatMul(h, r) y = Add(a, b)",
    )
    assert macs_of(recurrence) == steps * directions * ones_in(products)


def test_macs_are_half_of_the_flops_that_torch_counts():
    torch = pytest.importorskip("torch")
    counter = pytest.importorskip("torch.utils.flop_counter")
    cases = {
        "Conv, grouped": lambda x, w: torch.nn.functional.conv2d(x, w, groups=4),
        "Conv, dilated": lambda x, w: torch.nn.functional.conv2d(x, w, dilation=(2, 3)),
        "Conv, in strides": lambda x, w: torch.nn.functional.conv2d(x, w, stride=(2, 3)),
        "ConvTranspose": torch.nn.functional.conv_transpose2d,
        "Gemm": torch.matmul,
    }
    for case, function in cases.items():
        model = of_ones(*COUNTED[case])
        shapes = [
            [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim],
            model.graph.initializer[0].dims,
        ]
        with counter.FlopCounterMode(display=False) as counted:
            function(*(torch.ones(*shape) for shape in shapes))
        assert counted.get_total_flops() == 2 * (macs_of(model) or 0), case
