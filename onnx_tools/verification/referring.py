"""A model for onnxruntime that is handed over without its large data, which is mapped from where it lies."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping

import onnx
from onnx import TensorProto

from onnx_tools.file_blocks import read_at
from onnx_tools.model_file import ModelFile, iter_tensors, tensor_at
from onnx_tools.wire import Path

FOLDER = "session.model_external_initializers_file_folder_path"
"""The entry of a session's configuration that names the folder of the data."""


def common_folder(model: ModelFile) -> pathlib.Path:
    """The folder above all files of the model, symbolic links resolved. Raises as `ModelFile.data_files`."""
    return pathlib.Path(os.path.commonpath([file.parent for file in (model.file, *model.data_files())]))


def referring(model: ModelFile, folder: pathlib.Path) -> onnx.ModelProto:
    """A copy of the model without its large initializers, which onnxruntime is to map from files below `folder`."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.skeleton)
    for _, tensor in iter_tensors(proto):
        if (file := model.data_file(tensor)) is not None:
            _refer(tensor, {"location": file.relative_to(folder)})
    with model.file.open("rb") as opened:
        for path, payload in model.payloads.items():
            tensor = tensor_at(proto, path)
            if is_initializer(path):
                where = {"location": model.file.relative_to(folder), "offset": payload.offset, "length": payload.length}
                _refer(tensor, where)
            else:
                data = bytearray(payload.length)
                read_at(opened.fileno(), memoryview(data), payload.offset)
                tensor.raw_data = bytes(data)
    return proto


def is_initializer(path: Path) -> bool:
    """Whether it is one of the main graph."""
    return len(path) == 2 and path[1][0] == "initializer"


def _refer(tensor: TensorProto, entries: Mapping[str, object]) -> None:
    """Set entries of external data; others stay."""
    kept = {entry.key: entry.value for entry in tensor.external_data}
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in {**kept, **entries}.items():
        tensor.external_data.add(key=key, value=value.as_posix() if isinstance(value, pathlib.Path) else str(value))
