"""Small random networks, valid and quick to run: a chain of moves from `graph_moves`, drawn by hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import ModelProto, helper

import tests.graph_contrib  # noqa: F401  it puts its moves into the table
from onnx_tools.operators import CONTRIB
from tests.graph_layers import MOVES, layer
from tests.graph_moves import CUSTOM
from tests.random_net import Net

MOST_ELEMENTS = 4000
"""Of a value that another move starts from."""


@st.composite
def networks(draw: Callable[[st.SearchStrategy[Any]], Any], most: int = 8) -> ModelProto:
    """A network of up to `most` moves behind a first layer. Run it as `runnable`; open sizes are 2."""
    net = Net(draw)
    start = net.input(net.pick((2, 3, 6, 6), (2, 5, 4), (2, 6), (2, 3, 8)))
    net.values.append(layer(net, start))
    for _ in range(draw(st.integers(1, most))):
        near = net.values[-4:]
        value = near[-1 - draw(st.integers(0, len(near) - 1))]
        move = draw(st.sampled_from([move for move, ranks in MOVES if net.rank(value) in ranks]))
        made = move(net, value)
        if made and 1 <= net.rank(made) <= 5 and np.prod(net.shape(made)) <= MOST_ELEMENTS:
            net.values.append(layer(net, made) if net.pick(False, True, True) else made)
    return _finished(net)


def _finished(net: Net) -> ModelProto:
    """What nobody reads goes through a layer, which sees all channels, or leaves as it is."""
    read = {name for node in net.nodes for name in node.input}
    ends = [name for name in net.values if name not in read] or net.values[-1:]
    results = [layer(net, name) if net.pick(True, True, True, False) else name for name in ends[-3:]]
    graph = net.graph(dict.fromkeys(results))
    if net.pick(False, True):
        for info in (*graph.input, *graph.output):
            _open_batch(info, opened=info.name in net.inputs)
    opsets = [helper.make_opsetid("", net.opset), helper.make_opsetid(CUSTOM, 1), helper.make_opsetid(CONTRIB, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="random")
    model.metadata_props.add(key="kept", value="as it is")
    return onnx.shape_inference.infer_shapes(model) if net.pick(False, True) else model


def _open_batch(info: onnx.ValueInfoProto, *, opened: bool) -> None:
    dims = info.type.tensor_type.shape.dim
    if opened and dims:
        dims[0].dim_param = "N"
    elif not opened:
        for dim in dims:
            dim.Clear()


def runnable(model: ModelProto) -> ModelProto:
    """A copy that onnxruntime runs: operators that nobody knows become functions that mix everything they read."""
    copy = ModelProto()
    copy.CopyFrom(model)
    opset = [each for each in model.opset_import if each.domain == ""]
    nodes = [helper.make_node("ReduceMean", ["x"], ["mean"]), helper.make_node("Add", ["x", "mean"], ["y"])]
    copy.functions.append(helper.make_function(CUSTOM, "Mix", ["x"], ["y"], nodes, opset))
    return copy
