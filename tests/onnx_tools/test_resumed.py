"""Layer by layer, each run starts where the one before was cut: what is found is as if it had not been."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import onnx.parser
import pytest

from onnx_tools import Selection
from onnx_tools.calibration import resumed
from onnx_tools.calibration.cuts import Cuts
from onnx_tools.calibration.methods import DataMethod
from oxiprune_gpu import PruningConfig
from tests.onnx_tools.test_methods import written

pytest.importorskip("onnxruntime")

EVERY_SIZE = Selection(min_elements=0)
HEAD = '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 8] x) => (float[N, 8] y) '
CHAIN = "{ a = MatMul (x, u) b = Relu (a) c = MatMul (b, v) d = Tanh (c) y = MatMul (d, w) }"
RESIDUAL = """{ a = MatMul (x, u) b = Tanh (a) c = MatMul (b, v) d = Add (b, c) e = Relu (d) f = MatMul (e, w)
    y = Add (f, b) }"""
COMPUTED = """{ t = Transpose <perm = [1, 0]> (u) a = MatMul (x, t) b = Relu (a) c = MatMul (b, v) e = Tanh (c)
    f = MatMul (e, w) y = MatMul (f, t) }"""
TIED = """{ i = ArgMax <axis = 1, keepdims = 0> (x) k = Gather (u, i) a = MatMul (k, v) b = MatMul (a, u)
    y = MatMul (b, w) }"""
BODY = """{ s = ReduceSum <keepdims = 0> (x) zero = Constant <value_float = 0.0> () q = Greater (s, zero)
    a = MatMul (x, u) b = Relu (a) c = MatMul (b, v)
    d = If (q) <then_branch = t () => (float[N, 8] p) { p = Add (c, a) },
    else_branch = e () => (float[N, 8] p) { p = Identity (c) }> y = MatMul (d, w) }"""
TWO = """{ a = MatMul (x, u) b, m = Split <axis = 0> (a) c = MatMul (b, v) d = Mul (c, m)
    n = Concat <axis = 0> (d, m) y = MatMul (n, w) }"""
MODELS = {"chain": CHAIN, "residual": RESIDUAL, "computed": COMPUTED, "tied": TIED, "body": BODY, "two": TWO}


def model_of(path: pathlib.Path, text: str) -> pathlib.Path:
    random = np.random.default_rng(0)
    return written(path / "model.onnx", HEAD + text, **{n: random.standard_normal((8, 8)).astype("f4") for n in "uvw"})


def found(model: pathlib.Path, memory: int = 1 << 30) -> dict[str, Any]:
    x = np.random.default_rng(1).standard_normal((96, 8)).astype("f4")
    method = DataMethod({"x": x}, repair=("least-squares", "bias", "batch-norm"), memory=memory)
    tensors = method.new_values(model, PruningConfig(0.5), EVERY_SIZE).tensors
    return {name: each.values() for name, each in tensors.items() if each.values is not None}


@pytest.mark.parametrize("text", MODELS.values(), ids=MODELS)
def test_cuts_change_nothing(tmp_path: pathlib.Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, resumes = model_of(tmp_path, text), []
    feed = resumed.Held.feed
    monkeypatch.setattr(resumed.Held, "feed", lambda *given: resumes.append(1) or feed(*given))
    cut = found(model)
    assert len(cut) >= 2
    assert resumes
    monkeypatch.setattr(Cuts, "kept", lambda *_: [])
    whole = found(model)
    for name, values in whole.items():
        np.testing.assert_array_equal(cut[name], values, err_msg=name)


def test_what_is_too_large_is_computed_again(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(tmp_path, CHAIN)
    cut = found(model)
    monkeypatch.setattr(resumed.Held, "feed", lambda *_: pytest.fail("it was kept"))
    monkeypatch.setattr(resumed.Resumed, "fits", lambda *_: False)
    for name, values in found(model).items():
        np.testing.assert_array_equal(cut[name], values, err_msg=name)


def test_little_disk_keeps_nothing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(tmp_path, CHAIN)
    monkeypatch.setattr(resumed, "_SHARE", 1 << 60)
    monkeypatch.setattr(resumed.Held, "feed", lambda *_: pytest.fail("it was kept"))
    assert len(found(model)) == 3


def cuts(text: str) -> Cuts:
    graph = onnx.parser.parse_model(HEAD + text).graph
    for name in "uvw":
        graph.initializer.add(name=name)
    return Cuts(graph)


@pytest.mark.parametrize(
    ("text", "place", "kept"),
    [(CHAIN, 2, ["b"]), (RESIDUAL, 5, ["b", "e"]), (COMPUTED, 3, ["b"]), (BODY, 5, ["q", "a", "b"]), (CHAIN, 0, [])],
)
def test_what_is_kept(text: str, place: int, kept: list[str]) -> None:
    assert cuts(text).kept(place) == kept


def test_nothing_is_kept_of_nodes_out_of_order() -> None:
    assert cuts("{ y = MatMul (a, v) a = MatMul (x, u) }").kept(1) == []


@pytest.mark.parametrize(
    ("text", "tensor", "first"), [(CHAIN, 1, 2), (COMPUTED, 0, 1), (TIED, 0, 1), (BODY, 0, 3), (RESIDUAL, 2, 5)]
)
def test_what_changes_with_a_tensor(text: str, tensor: int, first: int) -> None:
    assert cuts(text).first_use((("graph", 0), ("initializer", tensor))) == first


def test_what_changes_with_a_tensor_of_a_node() -> None:
    found = cuts(BODY)
    assert found.first_use((("graph", 0), ("node", 1), ("attribute", 0), ("t", 0))) == 2
    assert found.first_use((("functions", 0), ("node", 1))) == 0
