"""Pieces of a model as records of a `GraphProto`: tensors with their values elsewhere, nodes, sparse tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import onnx
from onnx import NodeProto, SparseTensorProto, TensorProto

from onnx_tools.wire import FileSpan, Rope, field_record


def _number(message: type, name: str) -> int:
    return int(message.DESCRIPTOR.fields_by_name[name].number)  # type: ignore[attr-defined]


INITIALIZER = _number(onnx.GraphProto, "initializer")
NODE = _number(onnx.GraphProto, "node")
_SPARSE_INITIALIZER = _number(onnx.GraphProto, "sparse_initializer")
_RAW_DATA = _number(TensorProto, "raw_data")
_VALUES, _INDICES = _number(SparseTensorProto, "values"), _number(SparseTensorProto, "indices")
_ATTRIBUTE = _number(NodeProto, "attribute")
_SPARSE_TENSOR = _number(onnx.AttributeProto, "sparse_tensor")


def tensor_message(tensor: TensorProto, values: FileSpan) -> Rope:
    """A tensor without values of its own, with the bytes at `values` as `raw_data`."""
    return [tensor.SerializeToString(), *field_record(_RAW_DATA, [values])]


def initializers(tensors: Iterable[Rope]) -> Rope:
    """The tensors as initializers."""
    return [piece for tensor in tensors for piece in field_record(INITIALIZER, tensor)]


def nodes(protos: Iterable[NodeProto]) -> Rope:
    """The nodes."""
    return [piece for proto in protos for piece in field_record(NODE, [proto.SerializeToString()])]


class SparseParts(NamedTuple):
    """A sparse tensor: the messages of its values and of its flat indices, and its shape."""

    values: Rope
    indices: Rope
    dims: tuple[int, ...]

    def message(self) -> Rope:
        """The `SparseTensorProto`."""
        shape = SparseTensorProto(dims=self.dims).SerializeToString()
        return [*field_record(_VALUES, self.values), *field_record(_INDICES, self.indices), shape]


def sparse_initializer(parts: SparseParts) -> Rope:
    """A sparse initializer; its name is that of the values."""
    return field_record(_SPARSE_INITIALIZER, parts.message())


def sparse_constant(output: str, marker: str, parts: SparseParts) -> Rope:
    """A Constant node that gives a sparse tensor."""
    node = NodeProto(op_type="Constant", output=[output], doc_string=marker)
    attribute = onnx.AttributeProto(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR)
    value: Rope = [attribute.SerializeToString(), *field_record(_SPARSE_TENSOR, parts.message())]
    return field_record(NODE, [node.SerializeToString(), *field_record(_ATTRIBUTE, value)])
