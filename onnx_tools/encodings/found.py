"""Finding the encoded weights of a model, and rebuilding their values without a runtime."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, SparseTensorProto

from onnx_tools.encodings.layouts import LAYOUTS, MOST_ELEMENTS, Scattered
from onnx_tools.encodings.marker import SPARSE, Marker, read_marker
from onnx_tools.encodings.sources import WIDTHS, checksum
from onnx_tools.errors import InvalidModelFile, InvalidTensor
from onnx_tools.file_blocks import read_at
from onnx_tools.graph_index import GraphIndex
from onnx_tools.graph_parts import ENCODED, INITIALIZER, Node, Scope, Value, element_count
from onnx_tools.model_file import ModelFile, tensor_at
from onnx_tools.wire import Path

_MOST_NODES = 64
_CHANGED = "was changed since it was encoded; decode an unchanged copy of the file"


@dataclass(frozen=True)
class Found:
    """An encoded weight. `pieces`: where the tensors it is stored in lie.

    `anchor`: the record that the weight's own comes back in the place of; `others`: records that go.
    """

    name: str
    marker: Marker
    pieces: dict[str, Path]
    anchor: Path
    others: tuple[Path, ...]
    values_inside: tuple[str, ...]
    """Names of what its nodes compute on the way, itself included."""

    @property
    def dense_bytes(self) -> int | None:
        """Bytes of its values, by what the marker says; None if that can't be."""
        dtype, elements = WIDTHS.get(self.marker.data_type), element_count(self.marker.dims)
        if dtype is None or elements > MOST_ELEMENTS or not self.marker.has_room_for(elements * dtype.itemsize):
            return None
        return elements * dtype.itemsize

    def blocks(self, model: ModelFile) -> Iterator[NDArray[Any]]:
        """The values of the weight, as unsigned integers, flat, in blocks.

        Raises `InvalidTensor` if what is stored does not fit, or, after the last block, if it gave other values than
        were encoded.
        """
        dtype = WIDTHS.get(self.marker.data_type)
        if dtype is None or self.dense_bytes is None or self.marker.fill >> 8 * dtype.itemsize:
            raise InvalidTensor(f"weight {self.name!r}: {_CHANGED}")
        try:
            pieces = {role: _bytes_of(model, path) for role, path in self.pieces.items()}
            scattered = self._unpacked(pieces, dtype)
        except (InvalidTensor, ValueError) as error:
            raise InvalidTensor(f"weight {self.name!r}: {error}; it {_CHANGED}") from None
        crc = 0
        for block in scattered.blocks():
            crc = checksum(block, crc)
            yield block
        if crc != self.marker.crc32:
            raise InvalidTensor(f"weight {self.name!r}: does not give the values that were encoded: it {_CHANGED}")

    def _unpacked(self, pieces: dict[str, NDArray[np.uint8]], dtype: np.dtype[Any]) -> Scattered:
        if self.marker.encoding == SPARSE:
            return Scattered(
                pieces["places"].view("<i8"), pieces["values"].view(dtype), element_count(self.marker.dims), 0
            )
        return LAYOUTS[self.marker.encoding].unpack(dict(pieces), self.marker.dims, self.marker.fill, dtype)


def find_encoded(model: ModelFile) -> list[Found]:
    """The encoded weights of a model, in the order of its nodes, sparse initializers last.

    Raises `InvalidModelFile` if the nodes of one are not those that encoding wrote.
    """
    if ENCODED.encode() not in model.skeleton.SerializeToString():
        return []  # faster than an index of a graph of many nodes
    index = GraphIndex(model.skeleton)
    marked = [(node, marker) for node in index.nodes if (marker := read_marker(node.proto.doc_string)) is not None]
    found = [_from_node(node, marker) for node, marker in marked]
    for scope in index.scopes:
        for i, sparse in enumerate(scope.graph.sparse_initializer if isinstance(scope.graph, GraphProto) else ()):
            marker = read_marker(sparse.values.doc_string)
            if marker is not None:
                found.append(_sparse(sparse, (*scope.path, ("sparse_initializer", i)), marker))
    return found


def _from_node(node: Node, marker: Marker) -> Found:
    if marker.encoding == SPARSE:
        return _sparse_constant(node.proto, node.path, marker)
    if marker.encoding not in LAYOUTS:
        raise InvalidModelFile(f"weight '{node.label}' has the encoding {marker.encoding!r:.40}; update oxiprune-gpu")
    nodes, tensors = _chain(node)
    if not tensors or not node.proto.output:
        raise InvalidModelFile(f"weight '{node.label}' {_CHANGED}")
    pieces = {
        role: _input(nodes, operator, at, node) for role, (operator, at) in LAYOUTS[marker.encoding].roles.items()
    }
    records = sorted([*(inner.path for inner in nodes), *tensors])
    anchor = node.path if marker.before[:1] == b"\x0a" else min(tensors)
    names = tuple(name for inner in nodes for name in inner.proto.output)
    others = tuple(path for path in records if path != anchor)
    return Found(str(node.proto.output[0]), marker, pieces, anchor, others, names)


def _chain(last: Node) -> tuple[list[Node], list[Path]]:
    """The nodes and initializers that a marked node stands at the end of; nothing else may read them."""
    nodes, tensors, todo = [last], {}, list(last.inputs)
    while todo:
        value = todo.pop()
        if value is None or len(nodes) > _MOST_NODES:
            raise InvalidModelFile(f"weight '{last.label}' {_CHANGED}")
        if value.producer is not None and value.producer not in nodes:
            nodes.append(value.producer)
            todo += value.producer.inputs
        elif value.producer is None:
            tensors[_initializer(value, last.scope, last)] = value
    inside = {id(node) for node in nodes}
    values = [*tensors.values(), *(output for node in nodes[1:] for output in node.outputs)]
    if any(v is None or v.output_of or any(id(r.node) not in inside for r in v.readers) for v in values):
        raise InvalidModelFile(f"weight '{last.label}' {_CHANGED}: other nodes read what it is made of")
    if any(node.scope is not last.scope for node in nodes) or not last.outputs:
        raise InvalidModelFile(f"weight '{last.label}' {_CHANGED}")
    return nodes, list(tensors)


def _initializer(value: Value, scope: Scope, last: Node) -> Path:
    stored = value.tensor
    if stored is None or stored.place != INITIALIZER or stored.scope is not scope or value.duplicated:
        raise InvalidModelFile(f"weight '{last.label}' {_CHANGED}")
    return stored.path


def _input(nodes: list[Node], operator: str, at: int, last: Node) -> Path:
    """The initializer that the only node of an operator reads at one of its inputs."""
    found = [node.inputs[at] for node in nodes if node.op_type == operator and at < len(node.inputs)]
    if len(found) != 1 or found[0] is None or found[0].tensor is None:
        raise InvalidModelFile(f"weight '{last.label}' {_CHANGED}")
    return found[0].tensor.path


def _sparse(sparse: SparseTensorProto, path: Path, marker: Marker, record: Path | None = None, name: str = "") -> Found:
    if marker.encoding != SPARSE:
        raise InvalidModelFile(f"the sparse tensor {sparse.values.name!r} {_CHANGED}")
    pieces = {"values": (*path, ("values", 0)), "places": (*path, ("indices", 0))}
    return Found(name or sparse.values.name, marker, pieces, record or path, (), ())


def _sparse_constant(node: NodeProto, path: Path, marker: Marker) -> Found:
    for i, attribute in enumerate(node.attribute):
        if attribute.HasField("sparse_tensor") and node.output:
            inner = (*path, ("attribute", i), ("sparse_tensor", 0))
            return _sparse(attribute.sparse_tensor, inner, marker, path, node.output[0])
    raise InvalidModelFile(f"a sparse Constant {_CHANGED}")


def _bytes_of(model: ModelFile, path: Path) -> NDArray[np.uint8]:
    tensor = tensor_at(model.skeleton, path)
    location = model.location(path, tensor)
    if location is None:
        return np.frombuffer(tensor.raw_data, np.uint8).copy()
    data = np.empty(location.length, np.uint8)
    with location.file.open("rb", buffering=0) as file:
        read_at(file.fileno(), data.data, location.offset)
    return data
