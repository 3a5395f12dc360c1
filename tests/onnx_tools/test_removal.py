"""Channels removed from models: the model without them computes what the model computes in which they are zero."""

from __future__ import annotations

import pathlib

import onnx
import pytest

from tests.onnx_tools.compacting import feeds_of, halved, with_weights

CORPUS = ["digits_cnn_bn", "digits_resnet_ext", "digits_vit", "ultraface_rfb320", "mnist_cntk", "basic_pitch"]


@pytest.mark.parametrize("name", CORPUS)
def test_half_of_the_channels_of_a_real_model(corpus: list[pathlib.Path], tmp_path: pathlib.Path, name: str) -> None:
    path = next(path for path in corpus if path.parent.name == name)
    model = onnx.load(path)
    smaller = halved(model, tmp_path, feeds_of(model), external=name == "digits_resnet_ext")
    assert smaller.ByteSize() < 0.9 * model.ByteSize()


CONVOLUTIONS = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 4, 6, 6] x) => (float[N, 3, 6, 6] y)
<float[8, 4, 3, 3] first, float[8] bias, float[8] slope, float[3, 8, 1, 1] last>
{
  a = Conv <pads = [1, 1, 1, 1]> (x, first, bias)
  b = Relu (a)
  y = Conv (b, last)
}
"""

MODELS = {
    "convolutions": CONVOLUTIONS,
    "depthwise": """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 4, 6, 6] x) => (float[N, 3, 6, 6] y)
<float[8, 4, 1, 1] first, float[8, 1, 3, 3] middle, float[8] bias, float[3, 8, 1, 1] last>
{
  a = Conv (x, first)
  b = Conv <pads = [1, 1, 1, 1], group = 8> (a, middle, bias)
  c = Clip (b)
  y = Conv (c, last)
}
""",
    "sizes stored once for two": """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 6] x) => (float[N, 5] y)
<int64[2] shape = {-1, 8}, float[6, 8] w1, float[6, 8] w2, float[8, 5] v1, float[6, 7] v2>
{
  a = MatMul (x, w1)
  b = Reshape (a, shape)
  c = MatMul (b, v1)
  d = MatMul (x, w2)
  e = Reshape (d, shape)
  f = MatMul (e, v1)
  y = Add (c, f)
}
""",
    "heads": """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 5, 6] x) => (float[N, 5, 2] y)
<int64[4] apart = {0, 5, 4, 3}, int64[3] together = {0, 5, 12}, float[6, 12] w, float[12] b, float[12, 2] v>
{
  a = MatMul (x, w)
  c = Add (a, b)
  d = Reshape (c, apart)
  e = Transpose <perm = [0, 2, 1, 3]> (d)
  f = Relu (e)
  h = Transpose <perm = [0, 2, 1, 3]> (f)
  i = Reshape (h, together)
  y = MatMul (i, v)
}
""",
    "parts as attribute": """
<ir_version: 6, opset_import: ["" : 11]>
g (float[N, 6] x) => (float[N, 2] y)
<float[6, 8] w, float[5, 2] v, float[3, 2] u>
{
  a = MatMul (x, w)
  b, c = Split <axis = 1, split = [5, 3]> (a)
  d = MatMul (b, v)
  e = MatMul (c, u)
  y = Add (d, e)
}
""",
    "parts as input": """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 6] x) => (float[N, 2] y)
<int64[2] parts = {5, 3}, float[6, 8] w, float[5, 2] v, float[3, 2] u>
{
  a = MatMul (x, w)
  b, c = Split <axis = -1> (a, parts)
  d = MatMul (b, v)
  e = MatMul (c, u)
  y = Add (d, e)
}
""",
    "equal parts": """
<ir_version: 9, opset_import: ["" : 18]>
g (float[N, 6] x) => (float[N, 2] y)
<float[6, 9] w, float[5, 2] v, float[4, 2] u>
{
  a = MatMul (x, w)
  b, c = Split <axis = 1, num_outputs = 2> (a)
  d = MatMul (b, v)
  e = MatMul (c, u)
  y = Add (d, e)
}
""",
    "a computed shape": """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, M, 6] x) => (float[N, M, 2] y)
<int64[2] tail = {4, 3}, int64[3] together = {0, 0, 12}, float[6, 12] w, float[12, 2] v>
{
  a = MatMul (x, w)
  shape = Shape <start = 0, end = 2> (a)
  whole = Concat <axis = 0> (shape, tail)
  b = Reshape (a, whole)
  c = Relu (b)
  d = Reshape (c, together)
  y = MatMul (d, v)
}
""",
    "slices": """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 6] x) => (float[N, 2] y)
<int64[1] one = {1}, int64[1] five = {5}, int64[1] minus = {-3}, int64[1] most = {9223372036854775807},
 float[6, 8] w, float[4, 2] v, float[3, 2] u>
{
  a = MatMul (x, w)
  b = Slice (a, one, five, one)
  c = Slice (a, minus, most, one)
  d = MatMul (b, v)
  e = MatMul (c, u)
  y = Add (d, e)
}
""",
    "slices by attributes": """
<ir_version: 6, opset_import: ["" : 9]>
g (float[N, 6] x) => (float[N, 2] y)
<float[6, 8] w, float[4, 2] v>
{
  a = MatMul (x, w)
  b = Slice <axes = [1], starts = [-7], ends = [5]> (a)
  y = MatMul (b, v)
}
""",
    "picked entries": """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 6] x) => (float[N, 2] y)
<int64[5] order = {7, 0, -6, 3, 4}, float[6, 8] w, float[5, 2] v>
{
  a = MatMul (x, w)
  b = Gather <axis = -1> (a, order)
  y = MatMul (b, v)
}
""",
    "a branch": """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 6] x, bool flag) => (float[N, 2] y)
<float[6, 8] w, float[8, 2] v>
{
  y = If (flag) <
    then_branch = t () => (float[N, 2] t_out) { a = MatMul (x, w)  b = Relu (a)  t_out = MatMul (b, v) },
    else_branch = e () => (float[N, 2] e_out)
      <float[6, 7] p, float[7, 2] q> { c = MatMul (x, p)  d = Tanh (c)  e_out = MatMul (d, q) }
  >
}
""",
    "old inputs": """
<ir_version: 3, opset_import: ["" : 8]>
g (float[N, 6] x, float[6, 8] w, float[8] b, float[8, 2] v) => (float[N, 2] y)
<float[6, 8] w, float[8] b, float[8, 2] v>
{
  a = MatMul (x, w)
  c = Add (a, b)
  y = MatMul (c, v)
}
""",
}


@pytest.mark.parametrize("name", MODELS)
def test_half_of_the_channels(tmp_path: pathlib.Path, name: str) -> None:
    model = with_weights(MODELS[name])
    smaller = halved(model, tmp_path, feeds_of(model))
    assert smaller.ByteSize() < model.ByteSize()
    assert [node.op_type for node in smaller.graph.node] == [node.op_type for node in model.graph.node]
