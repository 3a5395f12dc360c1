"""The values of weights: as blocks of a file where they lie in one piece, else decoded from their `TensorProto`."""

from __future__ import annotations

import math
import os
import pathlib
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_tools.errors import InvalidModelFile, InvalidTensor
from onnx_tools.file_blocks import FileBlocks
from onnx_tools.model_file import (
    ModelFile,
    bits_of_type,
    check_in_skeleton,
    dtype_of,
    refuse_contradictions,
    tensor_at,
)
from onnx_tools.wire import Path
from oxiprune_gpu import ArrayBlocks, BlockSource

_TYPED_FIELDS = {4: "float_data", 8: "double_data", 2: "int32_data"}
"""Field for values that are not raw bytes, by the width of the dtype; 16-bit values are the low bits of an int32."""

_WIDE: dict[int, tuple[str, str]] = {
    TensorProto.INT32: ("int32_data", "<i4"),
    TensorProto.INT64: ("int64_data", "<i8"),
    TensorProto.UINT32: ("uint64_data", "<u4"),
    TensorProto.UINT64: ("uint64_data", "<u8"),
}
"""Wide integers, by data type: field for values that are not raw bytes, and dtype."""

_SIGNED = {TensorProto.INT8, TensorProto.INT16}
"""Types whose values in int32_data are negative where the highest bit is set."""


class ValueReader:
    """Reads the weights of a model file, as a context manager that keeps its files open."""

    def __init__(self, model: ModelFile) -> None:
        self._model = model
        self._descriptors: dict[pathlib.Path, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def blocks(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any] | None = None) -> BlockSource:
        """The tensor at `path`, seen in `shape`, for reading only. `dtype`: that of floats, or uint8 for all bytes."""
        tensor = tensor_at(self._model.skeleton, path)
        location = self._model.location(path, tensor)
        dtype = dtype or dtype_of(tensor) or np.dtype(np.uint8)
        if location is None:
            return ArrayBlocks(decode(tensor).reshape(-1).view(dtype).reshape(shape))
        if math.prod(shape) * dtype.itemsize != location.length:
            raise InvalidTensor(f"tensor {tensor.name!r}: shape {list(shape)} does not fit its data")
        return FileBlocks(self._descriptor(location.file), location.offset, shape, dtype)

    def small(self, path: Path) -> NDArray[np.uint8]:
        """A copy of the bytes of a whole tensor, flat. Its type is one that `decode` knows."""
        tensor = tensor_at(self._model.skeleton, path)
        location = self._model.location(path, tensor)
        if location is None:
            return decode(tensor).reshape(-1).view(np.uint8)
        found = np.empty(location.length, np.uint8)
        source = FileBlocks(self._descriptor(location.file), location.offset, found.shape, found.dtype)
        source.load(0, len(found), found)
        return found

    def _descriptor(self, file: pathlib.Path) -> int:
        if file not in self._descriptors:
            try:
                self._descriptors[file] = os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            except OSError as error:
                raise InvalidModelFile(f"{file}: cannot be read: {error.strerror}") from error
        return self._descriptors[file]


def decode(tensor: onnx.TensorProto) -> NDArray[Any]:
    """The values inside a `TensorProto`, as a new array.

    Floats (float16, bfloat16, float32, float64) come in its shape. Of other types of numbers the bytes come, flat, as
    they lie in raw_data. Raises `InvalidTensor` if the values do not fit its shape, contradict each other, or are not
    inside it: the checks of `ModelFile.location`, so that a model in memory is refused where its file is.
    """
    dtype = dtype_of(tensor)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise InvalidTensor(f"tensor {tensor.name!r}: its external data is not loaded; use onnx.load, or prune_file")
    refuse_contradictions(tensor, None)
    check_in_skeleton(tensor)
    if dtype is None:
        return _decoded_bytes(tensor)
    return _decoded(tensor, dtype).reshape(tuple(tensor.dims))


def encode(tensor: onnx.TensorProto, values: NDArray[Any]) -> None:
    """Put `values` into a `TensorProto` that `decode` read, in the field they came from."""
    if tensor.HasField("raw_data"):
        tensor.raw_data = values.tobytes()
        return
    width = values.dtype.itemsize
    if dtype_of(tensor) is None:
        tensor.int32_data[:] = _as_int32(tensor, values)
        return
    field = getattr(tensor, _TYPED_FIELDS[width])
    del field[:]
    field.extend((values.view(np.uint16) if width == 2 else values).reshape(-1).tolist())


def _decoded(tensor: onnx.TensorProto, dtype: np.dtype[Any]) -> NDArray[Any]:
    if tensor.HasField("raw_data"):
        return np.frombuffer(tensor.raw_data, dtype).copy()
    field = getattr(tensor, _TYPED_FIELDS[dtype.itemsize])
    if dtype.itemsize == 2:
        return np.array(field, np.int32).astype(np.uint16).view(dtype)
    return np.array(field, dtype)


def _decoded_bytes(tensor: onnx.TensorProto) -> NDArray[np.uint8]:
    """The bytes of narrow values; int32_data holds one element of 8 or 16 bits an entry, or a byte of smaller ones."""
    bits = bits_of_type(tensor)
    wide = _WIDE.get(tensor.data_type)
    if bits is None or (bits > 16 and wide is None):
        raise InvalidTensor(f"tensor {tensor.name!r}: values of data type {tensor.data_type} can't be read")
    if tensor.HasField("raw_data"):
        return np.frombuffer(tensor.raw_data, np.uint8).copy()
    if wide is not None:
        return _wide_bytes(tensor, *wide)
    values = np.array(tensor.int32_data, np.int32)
    width = max(bits, 8)
    expected = (math.prod(tensor.dims) * bits + width - 1) // width
    _refuse_other_count(tensor, "int32_data", len(values), expected)
    if ((values < -(1 << (width - 1))) | (values >= 1 << width)).any():
        raise InvalidTensor(f"tensor {tensor.name!r}: a value in int32_data does not fit {width} bits")
    return values.astype(f"<u{width // 8}").view(np.uint8)


def _wide_bytes(tensor: onnx.TensorProto, field: str, dtype: str) -> NDArray[np.uint8]:
    values = getattr(tensor, field)
    _refuse_other_count(tensor, field, len(values), math.prod(tensor.dims))
    return np.array(values, f"{dtype[:2]}8").astype(dtype).view(np.uint8)


def _refuse_other_count(tensor: onnx.TensorProto, field: str, found: int, expected: int) -> None:
    if found != expected:
        raise InvalidTensor(f"tensor {tensor.name!r}: {expected} values expected in {field}, {found} found")


def _as_int32(tensor: onnx.TensorProto, data: NDArray[np.uint8]) -> list[int]:
    """The entries of int32_data for the bytes of narrow values; entries whose bits are unchanged stay as they are."""
    old = np.array(tensor.int32_data, np.int32)
    new = data.view(f"<u{len(data) // max(len(old), 1)}" if len(old) else np.uint8)
    signed = new.view(f"<i{new.itemsize}") if tensor.data_type in _SIGNED else new
    entries: list[int] = np.where(old.astype(new.dtype) == new, old, signed.astype(np.int32)).tolist()
    return entries
