"""Weights that can be encoded, as they lie in the file; and why others can't."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_tools.encodings.layouts import MOST_ELEMENTS, Kept
from onnx_tools.errors import InvalidModelFile
from onnx_tools.file_blocks import contents, read_at
from onnx_tools.model_file import Location, ModelFile, tensor_at
from onnx_tools.shared_bytes import sharing
from onnx_tools.weights import Weight
from onnx_tools.wire import Path, Span, locate

WIDTHS: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype("<u4"),
    TensorProto.FLOAT16: np.dtype("<u2"),
    TensorProto.BFLOAT16: np.dtype("<u2"),
    TensorProto.DOUBLE: np.dtype("<u8"),
    TensorProto.INT8: np.dtype("u1"),
    TensorProto.UINT8: np.dtype("u1"),
}
"""Data types that can be encoded, with the unsigned type that holds their bits."""

_QUANTISED = (TensorProto.INT8, TensorProto.UINT8)
_FIRST_IR_VERSION = 4


@dataclass(frozen=True)
class Source:
    """A weight that can be encoded: its values at `location`, inside the record at `record_path` of the graph `graph`.

    `name`: what its readers call it; that of `weight` is for people. `before` and `after`: the bytes of that record
    around the values; of an external tensor, all of it before.
    """

    weight: Weight
    name: str
    tensor: TensorProto
    location: Location
    graph: Path
    record_path: Path
    before: bytes
    after: bytes

    @property
    def is_constant(self) -> bool:
        """Whether a Constant node holds it, and not an initializer."""
        return self.record_path[-1][0] == "node"

    @property
    def external(self) -> bool:
        """Whether its values lie in a data file."""
        return self.tensor.data_location == TensorProto.EXTERNAL

    @property
    def bytes(self) -> int:
        """What it takes in the files of the model."""
        return len(self.before) + len(self.after) + self.location.length

    def values(self) -> NDArray[Any]:
        """Its elements, flat, as unsigned integers."""
        bits = np.empty(self.location.length // WIDTHS[self.tensor.data_type].itemsize, WIDTHS[self.tensor.data_type])
        try:
            with self.location.file.open("rb", buffering=0) as file:
                read_at(file.fileno(), bits.view(np.uint8).data, self.location.offset)
        except OSError as error:
            raise InvalidModelFile(f"{self.location.file}: cannot be read: {error.strerror}") from error
        return bits

    def kept(self) -> Kept:
        """What of it is stored: all but +0.0, or of a quantised weight all but its most frequent value.

        That is its zero point wherever zeros are what pruning made of it.
        """
        bits = self.values()
        fill = int(np.bincount(bits, minlength=256).argmax()) if self.tensor.data_type in _QUANTISED else 0
        return Kept.of(bits, fill, tuple(self.tensor.dims))


def checksum(bits: NDArray[Any], before: int = 0) -> int:
    """The CRC-32 of the values as they lie in a file; `before`: that of the values in front of them."""
    return zlib.crc32(np.ascontiguousarray(bits).view(np.uint8).data, before)


def find_sources(model: ModelFile, weights: Sequence[Weight]) -> dict[Path, Source | str]:
    """For each weight how it lies in the file, or why it can't be encoded."""
    shared, inputs = sharing(model), _Inputs(model)
    found: dict[Path, Source | str] = {}
    records: dict[Path, Path] = {}
    for weight in weights:
        reason = _obstacle(model, weight, shared) or inputs.obstacle(weight)
        if reason:
            found[weight.path] = reason
        else:
            records[weight.path] = _record_path(weight)
    with model.file.open("rb") as file, contents(file.fileno(), model.stamp[0]) as data:
        spans = locate(data, set(records.values())) if records else {}
        for weight in weights:
            if weight.path in records:
                record = records[weight.path]
                found[weight.path] = _source(model, weight, record, data, spans[record])
    return found


def _source(model: ModelFile, weight: Weight, record: Path, data: Any, span: Span) -> Source:
    tensor = tensor_at(model.skeleton, weight.path)
    location = model.location(weight.path, tensor)
    assert location is not None
    end = span.offset + span.length
    start, stop = (end, end) if tensor.data_location == TensorProto.EXTERNAL else _extent(location)
    before, after = bytes(data[span.offset : start]), bytes(data[stop:end])
    return Source(weight, _name(model, weight, record), tensor, location, record[:-1], record, before, after)


def _record_path(weight: Weight) -> Path:
    """The record of the graph that holds a weight: its initializer, or its Constant node."""
    return weight.path if weight.path[-1][0] == "initializer" else weight.path[:-2]


def _name(model: ModelFile, weight: Weight, record: Path) -> Any:
    """What a weight's readers call it; bytes where that is not UTF-8."""
    graph, (kind, index) = graph_at(model.skeleton, record[:-1]), record[-1]
    return graph.initializer[index].name if kind == "initializer" else next(iter(graph.node[index].output), "")


def _extent(location: Location) -> tuple[int, int]:
    return location.offset, location.offset + location.length


def _obstacle(model: ModelFile, weight: Weight, shared: Mapping[Path, str]) -> str:
    """Why a weight can't be encoded, whatever its values; "" if it can."""
    return _obstacle_of_place(model, weight, shared) or _obstacle_of_data(model, weight)


def _obstacle_of_place(model: ModelFile, weight: Weight, shared: Mapping[Path, str]) -> str:
    if not model.regular:
        return "the file gives a singular message twice"
    if weight.path[0][0] != "graph":
        return f"lies in {weight.path[0][0]}, where no initializer can"
    if weight.path[-1][0] != "initializer" and weight.path[-1] != ("t", 0):
        return f"is stored in {weight.path[-1][0]}"
    if model.skeleton.ir_version < _FIRST_IR_VERSION:
        return f"IR version {model.skeleton.ir_version} wants every initializer to be an input; 4 is the first without"
    return f"has bytes in common with '{shared[weight.path]}'" if weight.path in shared else ""


def _obstacle_of_data(model: ModelFile, weight: Weight) -> str:
    tensor = tensor_at(model.skeleton, weight.path)
    if tensor.data_type not in WIDTHS:
        return f"no layout takes {TensorProto.DataType.Name(tensor.data_type)}"
    if model.location(weight.path, tensor) is None:
        return "is small, or its values do not lie in one piece"
    if weight.elements > MOST_ELEMENTS:
        return f"has more than {MOST_ELEMENTS:,} elements"
    return ""


class _Inputs:
    """The names of each graph's inputs, read once."""

    def __init__(self, model: ModelFile) -> None:
        self._model = model
        self._names: dict[Path, set[Any]] = {}

    def obstacle(self, weight: Weight) -> str:
        """Why the name of a weight, or its graph, keeps it from being encoded."""
        record = _record_path(weight)
        graph, name = graph_at(self._model.skeleton, record[:-1]), _name(self._model, weight, record)
        if not isinstance(name, str) or not name:
            return "its name is empty, or not UTF-8"
        if record[:-1] not in self._names:
            self._names[record[:-1]] = {given.name for given in graph.input}
        if name in self._names[record[:-1]]:
            return "is an input of its graph too, so that it can be replaced from outside"
        return "" if len(graph.node) else "its graph has no nodes"


def graph_at(model: onnx.ModelProto, path: Path) -> onnx.GraphProto:
    """The graph at `path`."""
    message: Any = model
    for name, index in path:
        value = getattr(message, name)
        message = value[index] if hasattr(value, "add") else value
    assert isinstance(message, onnx.GraphProto)
    return message
