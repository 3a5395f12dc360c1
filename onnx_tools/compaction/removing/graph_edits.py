"""What changes in the graphs of a model when channels leave, gathered before anything is written.

Paths are those of the model's file. Tensors that are only cut are not noted here: they are large, and are cut while
they are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from onnx_tools.compaction.removing.elements import packed
from onnx_tools.graph_index import GraphIndex
from onnx_tools.graph_parts import ATTRIBUTE, Node, Path, Reader, StoredTensor, Value
from onnx_tools.model_file import message_at


class GraphEdits:
    """Changes of nodes and small tensors.

    `nodes`: changed copies; `behind`: new nodes behind them. `values`: new values of stored tensors.
    `added`: new initializers of the main graph. `left`: inputs that are read no more. `dropped`: messages that go.
    """

    def __init__(self, index: GraphIndex, skeleton: onnx.ModelProto) -> None:
        self.nodes: dict[Path, NodeProto] = {}
        self.behind: dict[Path, list[NodeProto]] = {}
        self.values: dict[Path, tuple[StoredTensor, NDArray[Any]]] = {}
        self.added: list[TensorProto] = []
        self.left: dict[Reader, Value] = {}
        self.dropped: set[Path] = set()
        self._skeleton = skeleton
        self._names = _Names(index)

    def node(self, node: Node) -> NodeProto:
        """A copy of a node to be changed, always the same one. Raises `ValueError` if it holds data or graphs."""
        if node.path not in self.nodes:
            if holds_data(node):
                raise ValueError(f"{node.op_type} {node.label!r} holds data or graphs, and can't be changed as a node")
            copy = self.nodes[node.path] = NodeProto()
            copy.CopyFrom(message_at(self._skeleton, node.path))
        return self.nodes[node.path]

    def attribute(self, node: Node, name: str, value: int | Sequence[int] | None) -> None:
        """Give an attribute of a node a value; None takes it away."""
        attributes = self.node(node).attribute
        kept = [attribute for attribute in attributes if attribute.name != name]
        place = next((i for i, attribute in enumerate(attributes) if attribute.name == name), len(kept))
        if value is not None:
            kept.insert(place, onnx.helper.make_attribute(name, value))
        copies = [onnx.AttributeProto.FromString(attribute.SerializeToString()) for attribute in kept]
        del attributes[:]
        attributes.extend(copies)

    def set_input(self, node: Node, index: int, name: str) -> None:
        """Let a node read another value at one of its inputs."""
        old = node.inputs[index] if index < len(node.inputs) else None
        if old is not None:
            self.left[Reader(node, index)] = old
        inputs = self.node(node).input
        inputs.extend([""] * (index + 1 - len(inputs)))
        inputs[index] = name

    def constant(self, base: str, elements: NDArray[Any], data_type: int) -> str:
        """Add an initializer to the main graph, which all graphs see, and return its name, which is free."""
        name = self.free_name(base)
        data = bytes(packed(elements, data_type))
        self.added.append(TensorProto(name=name, dims=elements.shape, data_type=data_type, raw_data=data))
        return name

    def free_name(self, base: str) -> str:
        """A name for a value that none has in any graph."""
        return self._names.free(base)

    def give(self, readers: Sequence[Reader], elements: NDArray[Any], data_type: int, suffix: str) -> None:
        """Let readers of one value read these elements: stored in its place if nobody else reads it."""
        node, index = readers[0]
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is not None and value.tensor is not None and _belongs_to(value, readers):
            self.values[value.tensor.path] = (value.tensor, elements)
            return
        for node, index in readers:
            self.set_input(node, index, self.constant(f"{node.own_label}_{suffix}", elements, data_type))


def holds_data(node: Node) -> bool:
    """Whether a node has tensors or graphs in attributes, whose values may not be in the skeleton."""
    held = ("t", "g", "sparse_tensor")
    return any(
        attribute.tensors or attribute.graphs or attribute.sparse_tensors or any(map(attribute.HasField, held))
        for attribute in node.proto.attribute
    )


def _belongs_to(value: Value, readers: Sequence[Reader]) -> bool:
    """Whether only these readers use a stored value, which may be changed for them then."""
    tensor = value.tensor
    if tensor is None or tensor.copies or tensor.place == ATTRIBUTE or tensor.path[0][0] != "graph":
        return False
    known = {(id(node), index) for node, index in readers}
    used = value.output_of or value.handed_to or value.duplicated or value.fed
    return not used and all((id(node), index) in known for node, index in value.readers)


class _Names:
    """Names that values of a model have."""

    def __init__(self, index: GraphIndex) -> None:
        self._taken = {str(name) for scope in index.scopes for name in scope.values}
        self._taken.update(str(name) for node in index.nodes for name in node.proto.input)
        self._next: dict[str, int] = {}

    def free(self, base: str) -> str:
        number = self._next.get(base, 0)
        name = f"{base}_{number}" if number else base
        while name in self._taken:
            number += 1
            name = f"{base}_{number}"
        self._next[base] = number + 1
        self._taken.add(name)
        return name
