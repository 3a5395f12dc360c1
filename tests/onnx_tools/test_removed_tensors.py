"""Stored tensors of every kind and type, cut: the elements that stay are what they were, bit by bit."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_tools.compaction.mapping.tracing import map_channels
from onnx_tools.compaction.removing.elements import cut, packed, read
from onnx_tools.errors import InvalidTensor
from onnx_tools.graph_index import GraphIndex
from onnx_tools.model_file import ModelFile
from onnx_tools.values import ValueReader
from tests.onnx_tools.compacting import compare, feeds_of, half, halved, removed, save, with_weights, zero

KINDS = [
    *("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E5M2", "BOOL", "COMPLEX64"),
    *("INT4", "UINT4", "FLOAT4E2M1", "INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32", "INT64", "UINT64"),
]


def stored(kind: str, *, raw: bool) -> TensorProto:
    """A tensor (3, 5, 7) that has values of all sorts."""
    data_type = TensorProto.DataType.Value(kind)
    values = np.random.default_rng(3).integers(0, 6, (3, 5, 7)).astype(helper.tensor_dtype_to_np_dtype(data_type))
    if raw:
        return numpy_helper.from_array(values, "w")
    return helper.make_tensor("w", data_type, values.shape, values.reshape(-1))


def model_of(tensor: TensorProto) -> onnx.ModelProto:
    graph = helper.make_graph([], "g", [], [helper.make_tensor_value_info("w", tensor.data_type, None)], [tensor])
    return helper.make_model(graph, ir_version=11, opset_imports=[helper.make_opsetid("", 23)])


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "in a field"])
@pytest.mark.parametrize("kind", KINDS)
def test_elements_of_every_type(tmp_path: pathlib.Path, kind: str, raw: bool) -> None:
    tensor = stored(kind, raw=raw)
    if kind == "COMPLEX64" and not raw:
        pytest.skip("complex numbers are read from raw bytes only")
    file = save(model_of(tensor), tmp_path / "model.onnx")
    masks = {0: np.array([True, False, True]), 2: np.array([False, True, True, False, True, True, True])}
    with ValueReader(file) as reader:
        elements = cut(read(reader, GraphIndex(file.skeleton).tensors[0]), masks)
    found = TensorProto(
        dims=elements.shape, data_type=tensor.data_type, raw_data=bytes(packed(elements, tensor.data_type))
    )
    expected = numpy_helper.to_array(tensor)[masks[0]][:, :, masks[2]]
    np.testing.assert_array_equal(numpy_helper.to_array(found), expected)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"int64_data": [1, 2]}, "3 values expected in int64_data, 2 found"),
        ({"dims": [-1, -3], "int64_data": [1, 2, 3]}, "does not fit its data"),
        ({"data_type": TensorProto.STRING, "string_data": [b"a", b"b", b"c"]}, "values of data type 8 can't be cut"),
    ],
)
def test_elements_that_cannot_be_read(tmp_path: pathlib.Path, changes: dict[str, object], text: str) -> None:
    tensor = TensorProto(**{"name": "w", "dims": [3], "data_type": TensorProto.INT64, **changes})
    file = save(model_of(tensor), tmp_path / "model.onnx")
    with ValueReader(file) as reader, pytest.raises(InvalidTensor, match=text):
        read(reader, GraphIndex(file.skeleton).tensors[0])


PLACES = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 6] x) => (float[N, 5] y)
<float[6, 4] w, float[4, 5] v>
{
  a = MatMul (x, w)
  bias = Constant <%s> ()
  b = Add (a, bias)
  y = MatMul (b, v)
}
"""


@pytest.mark.parametrize("place", ["value_floats = [1.0, 2.0, 3.0, 4.0]", "value = float[4] {1.0, 2.0, 3.0, 4.0}"])
def test_data_of_constant_nodes(tmp_path: pathlib.Path, place: str) -> None:
    model = with_weights(PLACES % place)
    smaller = halved(model, tmp_path, feeds_of(model))
    (attribute,) = smaller.graph.node[1].attribute
    assert attribute.name == place.split(maxsplit=1)[0]
    left = list(attribute.floats) or numpy_helper.to_array(attribute.t).tolist()
    assert left == [2.0, 4.0]


def test_fields_become_raw_bytes(tmp_path: pathlib.Path) -> None:
    model = with_weights(PLACES % "value_floats = [1.0, 2.0, 3.0, 4.0]")
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(helper.make_tensor(tensor.name, tensor.data_type, values.shape, values.reshape(-1)))
    smaller = halved(model, tmp_path, feeds_of(model))
    assert [list(tensor.dims) for tensor in smaller.graph.initializer] == [[6, 2], [2, 5]]


TIED = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 6] x) => (float[N, 6] y)
<float[6, 8] w>
{
  a = MatMul (x, w)
  b = Relu (a)
  back = Transpose <perm = [1, 0]> (w)
  y = MatMul (b, back)
}
"""


def test_a_tied_weight(tmp_path: pathlib.Path) -> None:
    model = with_weights(TIED)
    smaller = halved(model, tmp_path, feeds_of(model))
    assert list(smaller.graph.initializer[0].dims) == [6, 4]


TWO = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 6] x) => (float[N, 5] y, float[N, 5] z)
<float[6, 40] w, float[40, 5] v, float[6, 40] w2, float[40, 5] v2, float[6, 5] u>
{
  a = MatMul (x, w)
  y = MatMul (a, v)
  b = MatMul (x, w2)
  c = MatMul (b, v2)
  d = MatMul (x, u)
  z = Add (c, d)
}
"""


def scattered(folder: pathlib.Path, places: dict[str, tuple[str, int]], model: onnx.ModelProto) -> pathlib.Path:
    """The model with its tensors in data files at these offsets."""
    for tensor in model.graph.initializer:
        location, offset = places[tensor.name]
        data, path = tensor.raw_data, folder / location
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        tensor.external_data.add(key="checksum", value="0" * 40)
        tensor.external_data.add(key="offset", value=str(offset))
        tensor.external_data.add(key="length", value=str(len(data)))
        old = path.read_bytes() if path.exists() else b""
        path.write_bytes(old[:offset].ljust(offset, b"\x55") + data + old[offset + len(data) :])
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


BYTES = 6 * 40 * 4
OTHERS = {"v": ("one", 5 * BYTES), "v2": ("two", 128), "u": ("two", 0)}


@pytest.mark.parametrize(
    ("places", "least"),
    [
        ({"w": ("one", 7), "w2": ("one", 7 + BYTES)}, BYTES),
        ({"w": ("one", 7), "w2": ("one", 7)}, BYTES),
        ({"w": ("one", 7), "w2": ("one", 7 + BYTES // 2)}, -BYTES),
        ({"w": ("one", 7), "w2": ("two", 4096)}, BYTES // 2),
    ],
    ids=["apart", "the same bytes", "overlapping", "two files"],
)
def test_external_data(tmp_path: pathlib.Path, places: dict[str, tuple[str, int]], least: int) -> None:
    model = with_weights(TWO)
    channels = map_channels(model)
    gone = half(channels)
    feeds = feeds_of(model)
    zero(model, channels, gone)
    if places["w"] == places["w2"]:
        model.graph.initializer[2].raw_data = model.graph.initializer[0].raw_data
    path = scattered(tmp_path, {**OTHERS, **places}, model)
    before = sum(file.stat().st_size for file in tmp_path.iterdir() if file.name in ("one", "two"))
    output = removed(ModelFile.open(path), gone)
    compare(path, output, feeds)
    assert sum(file.stat().st_size for file in tmp_path.glob("out.onnx.data*")) <= before - least
