"""External tensors that lie on the same bytes, in methods with data: one weight, that several read."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from onnx_tools import DataMethod, Selection, prune_file, verify_files
from oxiprune_gpu import PruningConfig

EVERY_SIZE = Selection(min_elements=0)
X = (np.random.default_rng(2).standard_normal((100, 12)) @ np.random.default_rng(3).standard_normal((12, 12))).astype(
    "f4"
)
W = np.random.default_rng(1).standard_normal((12, 12)).astype("f4")
BODY = "h = MatMul (x, {0}) r = Relu (h) k = MatMul (r, {1}) y = Tanh (k)"
LONG = np.random.default_rng(4).standard_normal((160, 160)).astype("f4")


def written(folder: pathlib.Path, body: str, values: NDArray[Any], *names: str) -> pathlib.Path:
    """A model whose tensors of these names all lie on the bytes of `values`."""
    n = len(values)
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[N, {n}] x) => (float[N, {n}] y) {{ {body} }}'
    )
    folder.mkdir()
    (folder / "data").write_bytes(values.tobytes())
    for name in names:
        tensor = model.graph.initializer.add(name=name, dims=values.shape, data_type=TensorProto.FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="data")
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def pruned(model: pathlib.Path, method: DataMethod) -> dict[str, NDArray[Any]]:
    output = model.with_name("pruned.onnx")
    prune_file(model, output, config=method.new_values(model, PruningConfig(0.5), EVERY_SIZE))
    assert verify_files(model, output, runtime=False).checks[0].outcome == "passed"
    return {each.name: numpy_helper.to_array(each) for each in onnx.load(output).graph.initializer}


@pytest.mark.parametrize("order", ["once", "layers"])
@pytest.mark.parametrize(("choice", "repair"), [("wanda", False), ("sparsegpt", True), (None, True)])
@pytest.mark.parametrize("values", [W, LONG], ids=["short", "long"])
def test_they_become_what_one_weight_that_is_read_twice_becomes(tmp_path, order, choice, repair, values):
    x = X if values is W else np.tile(X, (1, 14))[:, :160] + np.eye(100, 160, dtype="f4")
    method = DataMethod({"x": x}, choice, repair=repair, order=order)
    one = pruned(written(tmp_path / "one", BODY.format("w", "w"), values, "w"), method)
    two = pruned(written(tmp_path / "two", BODY.format("w", "v"), values, "w", "v"), method)
    np.testing.assert_array_equal(two["w"], one["w"])
    np.testing.assert_array_equal(two["v"], one["w"])


def test_biases_on_the_same_bytes_stay(tmp_path):
    body = "h = MatMul (x, a) i = Add (h, w) r = Relu (i) k = MatMul (r, b) y = Add (k, v)"
    path = written(tmp_path / "m", body, np.zeros(12, "f4"), "w", "v")
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer.extend(numpy_helper.from_array(W * sign, name) for name, sign in (("a", 1), ("b", -1)))
    path.write_bytes(model.SerializeToString())
    after = pruned(path, DataMethod({"x": X}, None, repair=True))
    assert not after["w"].any()
    assert not after["v"].any()


def test_one_that_something_else_reads_stays_dense_for_all(tmp_path):
    """What is not pruned is not seen as pruned by layers behind it."""
    body = "h = MatMul (x, w) r = Relu (h) k = MatMul (r, a) y = Add (k, v)"
    path = written(tmp_path / "m", body, W, "w", "v")
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer.append(numpy_helper.from_array(-W, "a"))
    path.write_bytes(model.SerializeToString())
    values = DataMethod({"x": X[:12]}, "wanda", order="layers").new_values(path, PruningConfig(0.5), EVERY_SIZE)
    assert list(values.tensors) == ["a"]
