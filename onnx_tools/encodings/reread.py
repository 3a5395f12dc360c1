"""Reading a decoded file again before it gets its name: is it a model, and are its weights those that were encoded?"""

from __future__ import annotations

import pathlib
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from onnx_tools.encodings.found import Found
from onnx_tools.errors import InvalidTensor
from onnx_tools.file_blocks import read_at
from onnx_tools.graph_index import GraphIndex
from onnx_tools.model_file import Location, ModelFile, iter_tensors, tensor_at
from onnx_tools.wire import Path

_BLOCK = 1 << 22
"""Bytes that are read at once."""


def refuse_broken(finished: pathlib.Path, found: Sequence[Found]) -> None:
    """Read a decoded file again: a marker that was tampered with may give anything.

    Raises `InvalidTensor` or `InvalidExternalData` if a tensor does not fit its bytes, or if the values of a weight
    are not those that were encoded.
    """
    model = ModelFile.open(finished)
    for path, tensor in iter_tensors(model.skeleton):
        if tensor.data_location == TensorProto.EXTERNAL or path in model.payloads:
            model.location(path, tensor)
    missing = _missing(model, found)
    if missing:
        raise InvalidTensor(
            f"weight {missing!r}: does not come back with the values that were encoded; decode an unchanged copy"
        )


def _missing(model: ModelFile, found: Sequence[Found]) -> str:
    """The name of a weight that the model does not have with its type, shape and checksum; "" if it has all."""
    wanted = Counter((item.name, item.marker.data_type, item.marker.dims, item.marker.crc32) for item in found)
    kinds = {key[:3] for key in wanted}
    for tensor in GraphIndex(model.skeleton).tensors:
        kind = (tensor.value.name if tensor.value else "", tensor.data_type, tensor.shape)
        if kind in kinds:
            wanted[(*kind, _checksum(model, tensor.path))] -= 1
    return next((key[0] for key, count in wanted.items() if count > 0), "")


def _checksum(model: ModelFile, path: Path) -> int:
    """The CRC-32 of a tensor's values as they lie in the file, read in blocks."""
    tensor = tensor_at(model.skeleton, path)
    location = model.location(path, tensor)
    return zlib.crc32(tensor.raw_data) if location is None else _checksum_at(location)


def _checksum_at(location: Location) -> int:
    crc = 0
    with location.file.open("rb", buffering=0) as file:
        for start in range(0, location.length, _BLOCK):
            data = np.empty(min(_BLOCK, location.length - start), np.uint8)
            read_at(file.fileno(), data.data, location.offset + start)
            crc = zlib.crc32(data.data, crc)
    return crc
