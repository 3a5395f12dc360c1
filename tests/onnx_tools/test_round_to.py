"""`round_to`: whatever layers are tied to, the result of each keeps a multiple of it, or all its channels."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import pytest

from onnx_tools.compaction.choice.choosing import Chooser
from onnx_tools.compaction.choice.config import ChannelConfig
from onnx_tools.compaction.choice.pruning import prune_channels
from onnx_tools.compaction.compact import compact_file
from onnx_tools.compaction.mapping.tracing import map_channels
from tests.onnx_tools.compacting import with_weights

PICTURE = "(float[1, 3, 8, 8] x) => (float[a, b, c, d] y)"
ROWS = "(float[1, 5, 6] x) => (float[a, b, c] y)"

MODELS = {
    "in a row": (PICTURE, "float[40,3,1,1] u, float[24,40,1,1] v, float[4,24,1,1] w",
                 "a = Conv(x, u) b = Conv(a, v) y = Conv(b, w)"),
    "a residual sum": (PICTURE, "float[40,3,1,1] u, float[40,40,1,1] v, float[4,40,1,1] w",
                       "a = Conv(x, u) b = Conv(a, v) c = Add(a, b) y = Conv(c, w)"),
    "parts of a sum": (PICTURE, "float[24,3,1,1] u, float[40,3,1,1] v, float[64,3,1,1] s, float[4,64,1,1] w",
                       "a = Conv(x, u) b = Conv(x, v) c = Concat <axis = 1> (a, b) d = Conv(x, s) e = Add(c, d) "
                       "y = Conv(e, w)"),
    "parts of two sums": (PICTURE, "float[24,3,1,1] u, float[40,3,1,1] v, float[24,3,1,1] r, float[64,3,1,1] s, "
                          "float[4,64,1,1] w",
                          "a = Conv(x, u) b = Conv(x, v) f = Conv(x, r) g = Add(a, f) c = Concat <axis = 1> (g, b) "
                          "d = Conv(x, s) e = Add(c, d) y = Conv(e, w)"),
    "few groups": (PICTURE, "float[32,3,1,1] u, float[64,8,1,1] v, float[4,64,1,1] w",
                   "a = Conv(x, u) b = Conv <group = 4> (a, v) y = Conv(b, w)"),
    "many groups": (PICTURE, "float[32,3,1,1] u, float[64,2,1,1] v, float[4,64,1,1] w",
                    "a = Conv(x, u) b = Conv <group = 16> (a, v) y = Conv(b, w)"),
    "few groups, transposed": (PICTURE, "float[32,3,1,1] u, float[32,24,1,1] v, float[4,96,1,1] w",
                               "a = Conv(x, u) b = ConvTranspose <group = 4> (a, v) y = Conv(b, w)"),
    "groups that are not a multiple": (PICTURE, "float[18,3,1,1] u, float[6,18,1,1] v, float[4,6,1,1] w",
                                       "a = Conv(x, u) b = Conv(a, v) y = Conv(b, w)"),
    "heads": (ROWS, "float[6,48] q, float[6,48] k, float[6,48] v, float[48,6] w",
              """s = Constant <value_ints = [1, 5, 12, 4]> () f = Constant <value_ints = [1, 5, 48]> ()
              q1 = MatMul(x, q) q2 = Reshape(q1, s) q3 = Transpose <perm = [0, 2, 1, 3]> (q2)
              k1 = MatMul(x, k) k2 = Reshape(k1, s) k3 = Transpose <perm = [0, 2, 3, 1]> (k2)
              v1 = MatMul(x, v) v2 = Reshape(v1, s) v3 = Transpose <perm = [0, 2, 1, 3]> (v2)
              p = MatMul(q3, k3) e = Softmax <axis = -1> (p) o = MatMul(e, v3)
              o2 = Transpose <perm = [0, 2, 1, 3]> (o) o3 = Reshape(o2, f) y = MatMul(o3, w)"""),
    "hidden units": (ROWS, "float[1,128,6] u, float[1,128,32] r, float[32,6] w",
                     "h = LSTM <hidden_size = 32> (x, u, r) m = Constant <value_ints = [1]> () t = Squeeze(h, m) "
                     "y = MatMul(t, w)"),
}  # fmt: skip


def widths(path: pathlib.Path) -> dict[str, int]:
    """How many channels each layer of a model makes, but for the last."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    stored = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if len(node.input) > 1 and node.input[1] in stored and node.output[0] != "y":
            group = next((each.i for each in node.attribute if each.name == "group"), 1)
            shape = stored[node.input[1]]
            across = shape[1] * group if node.op_type == "ConvTranspose" else shape[0]
            found[node.output[0]] = {"MatMul": shape[-1], "LSTM": stored[node.input[-1]][-1]}.get(node.op_type, across)
    return found


def compacted(case: str, folder: pathlib.Path, *, seed: int, multiple: int, sparsity: float) -> dict[str, int]:
    head, stored, body = MODELS[case]
    text = f'<ir_version: 8, opset_import: ["" : 17]> g {head} <{stored}> {{ {body} }}'
    onnx.save(with_weights(text, seed=seed), folder / "model.onnx")
    config = ChannelConfig(sparsity, round_to=multiple)
    prune_channels(folder / "model.onnx", folder / "masked.onnx", config=config)
    compact_file(folder / "masked.onnx", folder / "out.onnx", verify=None)
    return widths(folder / "out.onnx")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", [case for case in MODELS if "not a multiple" not in case])
def test_each_layer_keeps_a_multiple(case, seed, tmp_path):
    after = compacted(case, tmp_path, seed=seed, multiple=8, sparsity=0.5)
    before = widths(tmp_path / "model.onnx")
    assert all(after[name] % 8 == 0 or after[name] == before[name] for name in before), after
    assert sum(after.values()) < sum(before.values())


def test_a_layer_that_can_keep_no_multiple_keeps_all(tmp_path):
    found = compacted("groups that are not a multiple", tmp_path, seed=0, multiple=8, sparsity=0.7)
    assert found == {"a": 8, "b": 6}


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("multiple", [2, 3, 8])
def test_what_leaves_is_least_of_what_was_chosen(case, multiple):
    """By the slow way: of the groups that a choice without rounding takes only the highest ones stay."""
    head, stored, body = MODELS[case]
    channels = map_channels(with_weights(f'<ir_version: 8, opset_import: ["" : 17]> g {head} <{stored}> {{ {body} }}'))
    scores = np.random.default_rng(0).random(len(channels.groups.of))
    plain, rounded = (
        Chooser(channels, scores, ChannelConfig(0.6, round_to=each), channels.groups.free).choose()
        for each in (1, multiple)
    )
    assert set(rounded.tolist()) <= set(plain.tolist())
