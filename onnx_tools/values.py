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

from onnx_tools.errors import InvalidModelFile, InvalidTensor
from onnx_tools.file_blocks import FileBlocks
from onnx_tools.model_file import ModelFile, check_in_skeleton, dtype_of, refuse_contradictions, tensor_at
from onnx_tools.wire import Path
from oxiprune_gpu import ArrayBlocks, BlockSource

_TYPED_FIELDS = {4: "float_data", 8: "double_data", 2: "int32_data"}
"""Field for values that are not raw bytes, by the width of the dtype; 16-bit values are the low bits of an int32."""


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

    def blocks(self, path: Path, shape: tuple[int, ...]) -> BlockSource:
        """The values of the weight at `path`, seen in `shape`, for reading only."""
        tensor = tensor_at(self._model.skeleton, path)
        location = self._model.location(path, tensor)
        if location is None:
            return ArrayBlocks(decode(tensor).reshape(shape))
        dtype = dtype_of(tensor)
        if dtype is None or math.prod(shape) * dtype.itemsize != location.length:
            raise InvalidTensor(f"tensor {tensor.name!r}: shape {list(shape)} does not fit its data")
        return FileBlocks(self._descriptor(location.file), location.offset, shape, dtype)

    def _descriptor(self, file: pathlib.Path) -> int:
        if file not in self._descriptors:
            try:
                self._descriptors[file] = os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            except OSError as error:
                raise InvalidModelFile(f"{file}: cannot be read: {error.strerror}") from error
        return self._descriptors[file]


def decode(tensor: onnx.TensorProto) -> NDArray[Any]:
    """The values inside a float `TensorProto`, as a new array of its shape.

    Raises `InvalidTensor` if they do not fit its shape, contradict each other, or are not inside it: the checks of
    `ModelFile.location`, so that a model in memory is refused where its file is.
    """
    dtype = dtype_of(tensor)
    if dtype is None:
        raise InvalidTensor(f"tensor {tensor.name!r}: data type {tensor.data_type} is not float")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise InvalidTensor(f"tensor {tensor.name!r}: its external data is not loaded; use onnx.load, or prune_file")
    refuse_contradictions(tensor, None)
    check_in_skeleton(tensor)
    return _decoded(tensor, dtype).reshape(tuple(tensor.dims))


def encode(tensor: onnx.TensorProto, values: NDArray[Any]) -> None:
    """Put `values` into a `TensorProto` that `decode` read, in the field they came from."""
    if tensor.HasField("raw_data"):
        tensor.raw_data = values.tobytes()
        return
    width = values.dtype.itemsize
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
