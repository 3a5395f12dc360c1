"""Taking tensors apart into their values, wherever those are stored, and the rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_tools.errors import OnnxToolsError
from onnx_tools.model_file import Location, ModelFile
from onnx_tools.values import decode
from onnx_tools.verification.byte_spans import SpanComparer
from onnx_tools.wire import Path

_VALUE_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "raw_data", "double_data", "uint64_data")


def serialised(tensor: TensorProto) -> bytes:
    """Return its bytes, equal for equal tensors."""
    return bytes(tensor.SerializeToString(deterministic=True))


def shell_of(tensor: TensorProto) -> bytes:
    """Return the tensor without its values."""
    shell = TensorProto()
    shell.CopyFrom(tensor)
    for field in _VALUE_FIELDS:
        shell.ClearField(field)
    return serialised(shell)


def values_of(tensor: TensorProto) -> bytes:
    """Return nothing but the values of the tensor."""
    values = TensorProto()
    for field in _VALUE_FIELDS:
        if field == "raw_data":
            values.raw_data = tensor.raw_data
        else:
            getattr(values, field).extend(getattr(tensor, field))
    return serialised(values)


def whole_tensor(spans: SpanComparer, model: ModelFile, path: Path, tensor: TensorProto) -> TensorProto:
    """Return `tensor` with its payload back in; itself if none was cut out."""
    payload = model.payloads.get(path)
    if payload is None:
        return tensor
    whole = TensorProto()
    whole.CopyFrom(tensor)
    data = spans.read(model.path, payload.offset, payload.length)
    if payload.field == "raw_data":
        whole.raw_data = data.tobytes()
    else:
        getattr(whole, payload.field).extend(data.view(np.float32 if payload.field == "float_data" else np.float64))
    return whole


def value_bytes(spans: SpanComparer, model: ModelFile, path: Path, tensor: TensorProto) -> NDArray[np.uint8] | None:
    """Return the bytes of the values of a tensor that `decode` reads; None if they do not fit its shape."""
    try:
        location = model.location(path, tensor)
        if location is None:
            return decode(tensor).reshape(-1).view(np.uint8)
    except OnnxToolsError:
        return None
    return spans.read(location.file, location.offset, location.length)


def located(model: ModelFile, path: Path, tensor: TensorProto) -> Location | None:
    """Return where the values lie, outside the skeleton; None too if they do not fit the shape."""
    try:
        return model.location(path, tensor)
    except OnnxToolsError:
        return None
