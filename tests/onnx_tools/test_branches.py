"""Channels through If: what both branches give is one value."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import pytest

from onnx_tools.compaction.mapping.channel_map import ChannelMap
from onnx_tools.compaction.mapping.tracing import map_channels
from tests.channel_oracle import check_channels
from tests.onnx_tools.compacting import feeds_of, halved, with_weights

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[2, 4] x, bool flag) => (float[2, 3] y)
<float[4, 6] w, float[6] b, float[4, 6] u, float[6, 3] v, float[6, 6] q>
{
  h = MatMul (x, w)
  r = If (flag) <
    then_branch = left () => (float[2, 6] s) {{ s = {then} }},
    else_branch = right () => (float[2, 6] t) {{ t = {other} }}
  >
  z = Relu (r)
  y = MatMul (z, v)
}}
"""


def model_of(then: str, other: str) -> onnx.ModelProto:
    text = MODEL.replace("{\n  h", "{{\n  h").format(then=then, other=other)
    return with_weights(text)


def reasons(channels: ChannelMap) -> set[str]:
    return set(channels.groups.reasons.values())


@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize(
    ("then", "other"), [("Add (h, b)", "Tanh (h)"), ("Relu (h)", "MatMul (x, u)"), ("MatMul (h, q)", "Identity (h)")]
)
def test_branches_that_give_the_same_channels(tmp_path: pathlib.Path, then: str, other: str, flag: bool) -> None:
    model = model_of(then, other)
    feeds = {**feeds_of(model), "flag": np.array(flag)}
    check_channels(model, feeds=feeds, fewest=6)
    (weight,) = (each for each in halved(model, tmp_path, feeds).graph.initializer if each.name == "w")
    assert weight.dims[1] == 3


def test_branches_of_which_one_has_no_channels() -> None:
    channels = map_channels(model_of("Tanh (h)", "Identity (q)"))
    assert not len(channels.groups.free)
    assert "If 'r' may give something else in its place" in reasons(channels)


def test_an_if_whose_branches_cannot_be_joined_holds_what_they_give() -> None:
    model = model_of("Tanh (h)", "Relu (h)")
    (branching,) = (node for node in model.graph.node if node.op_type == "If")
    del branching.attribute[1]
    assert not len(map_channels(model).groups.free)


LOOP = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[2, 4] x, int64 count, bool go) => (float[K, 2, 6] y)
<float[4, 6] w>
{
  y = Loop (count, go) <body = inner (int64 i, bool c) => (bool d, float[2, 6] s)
    { d = Identity (c)  s = MatMul (x, w) }>
}
"""


def test_a_loop_holds_what_its_body_gives() -> None:
    channels = map_channels(with_weights(LOOP))
    assert not len(channels.groups.free)
    assert "'s' is an output of the subgraph y/body" in reasons(channels)
