"""Values of weights: read where they lie, decoded from a TensorProto, encoded back into the field they came from."""

from __future__ import annotations

import math
import os
import pathlib
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from onnx_tools.errors import InvalidExternalData, InvalidTensor
from onnx_tools.model_file import ModelFile
from onnx_tools.values import ValueReader, decode, encode
from onnx_tools.wire import Path
from oxiprune_gpu import BlockSource
from tests.storages import STORAGES

Array = NDArray[Any]
WEIGHT: Path = (("graph", 0), ("initializer", 1))
BIAS: Path = (("graph", 0), ("initializer", 0))


def tensor_of(array: Array, field: str = "raw_data") -> TensorProto:
    tensor = numpy_helper.from_array(array, "w")
    if field != "raw_data":
        tensor.ClearField("raw_data")
        getattr(tensor, field).extend((array.view(np.uint16) if field == "int32_data" else array).ravel().tolist())
    return tensor


def all_of(source: BlockSource) -> Array:
    """The values of a source, read in blocks of seven."""
    size, scratch = math.prod(source.shape), np.empty(7, source.dtype)
    blocks = [source.load(start, min(start + 7, size), scratch).copy() for start in range(0, size, 7)]
    return np.concatenate(blocks).reshape(source.shape)


@pytest.mark.parametrize(("dtype", "field"), STORAGES)
def test_decode_and_encode(dtype: Any, field: str) -> None:
    special = [0.0, -0.0, np.inf, -np.inf, 1e-40, 65504.0, -1 / 3, 2.0**-24]
    array = np.array(special, np.float64).astype(dtype).reshape(2, 4)
    tensor = tensor_of(array, field)
    before = tensor.SerializeToString()
    found = decode(tensor)
    assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())
    encode(tensor, found)
    assert tensor.SerializeToString() == before
    found[0, 2:] = 0  # a copy: the tensor does not change before it is encoded
    assert tensor.SerializeToString() == before
    encode(tensor, found)
    assert numpy_helper.to_array(tensor).tobytes() == found.tobytes()
    assert [f.name for f, _ in tensor.ListFields()].count(field) == 1


def test_a_scalar_and_an_empty_tensor() -> None:
    assert decode(tensor_of(np.array(2.5, np.float32))).shape == ()
    assert decode(tensor_of(np.zeros((0, 3), np.float32))).shape == (0, 3)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"raw_data": b"12345"}, r"of shape \[3\]: 12 bytes of data expected, 5 found"),
        ({"raw_data": b"1234"}, r"of shape \[3\]: 12 bytes of data expected, 4 found"),
        ({"float_data": [1, 2, 3]}, "values given twice, in float_data and raw_data"),
        ({"int32_data": [1]}, "values given twice, in int32_data and raw_data"),
        ({"dims": [-1, -3]}, "a negative dimension"),
        ({"dims": [1 << 40, 1 << 40]}, "impossibly many elements"),
        ({"data_type": TensorProto.COMPLEX64, "raw_data": bytes(24)}, "values of data type 14 can't be read"),
        ({"data_location": TensorProto.EXTERNAL}, "not loaded"),
    ],
)
def test_tensors_that_cannot_be_decoded(changes: dict[str, Any], text: str) -> None:
    tensor = tensor_of(np.ones(3, np.float32))
    for name, value in changes.items():
        if isinstance(value, list):
            getattr(tensor, name)[:] = value
        else:
            setattr(tensor, name, value)
    with pytest.raises(InvalidTensor, match=f"'w'.*{text}"):
        decode(tensor)


@pytest.mark.parametrize("number", [-1, 0x10000, -(1 << 31)])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_numbers_that_are_no_16_bits_are_refused(dtype: Any, number: int) -> None:
    tensor = tensor_of(np.ones(3).astype(dtype), "int32_data")
    tensor.int32_data[1] = number
    with pytest.raises(InvalidTensor, match="a value in int32_data does not fit 16 bits"):
        decode(tensor)


@pytest.mark.parametrize(("dtype", "field"), STORAGES)
@pytest.mark.parametrize("count", [6, 600], ids=["in the skeleton", "a payload"])
def test_reading_from_a_file(
    tmp_path: pathlib.Path, small_model: onnx.ModelProto, dtype: Any, field: str, count: int
) -> None:
    array = np.random.default_rng(1).standard_normal(count).astype(dtype)
    small_model.graph.initializer[1].CopyFrom(tensor_of(array, field))
    path = tmp_path / "model.onnx"
    path.write_bytes(small_model.SerializeToString())
    with ValueReader(ModelFile.open(path)) as reader:
        found = all_of(reader.blocks(WEIGHT, (count // 6, 6)))
    assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, (count // 6, 6), array.tobytes())


def test_reading_external_data(external_file: pathlib.Path) -> None:
    model = ModelFile.open(external_file)
    right = numpy_helper.to_array(onnx.load(external_file).graph.initializer[1])
    with ValueReader(model) as reader:
        for shape in ((16, 32), (512,), (16, 32)):  # the same file is opened once
            assert np.array_equal(all_of(reader.blocks(WEIGHT, shape)), right.reshape(shape))
        assert np.array_equal(all_of(reader.blocks(BIAS, (32,))), 0.5 + np.arange(32))


def test_a_shape_that_does_not_fit(small_file: pathlib.Path) -> None:
    refusal = pytest.raises(InvalidTensor, match=r"'weight': shape \[16, 31\] does not fit its data")
    with ValueReader(ModelFile.open(small_file)) as reader, refusal:
        reader.blocks(WEIGHT, (16, 31))


def test_files_are_closed_and_their_loss_is_an_error(external_file: pathlib.Path) -> None:
    model, closed = ModelFile.open(external_file), []
    with ValueReader(model) as reader:
        reader.blocks(WEIGHT, (512,))
        closed += reader._descriptors.values()
    assert len(closed) == 1
    for descriptor in closed:
        with pytest.raises(OSError, match=r"descriptor"):
            os.fstat(descriptor)
    (external_file.parent / "weights.bin").unlink()
    with ValueReader(model) as reader, pytest.raises(InvalidExternalData, match="cannot be found"):
        reader.blocks(WEIGHT, (512,))
