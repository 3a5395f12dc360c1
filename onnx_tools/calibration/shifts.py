"""What is added to all that a layer gives: its bias, or the mean that a normalisation behind it takes away."""

from __future__ import annotations

from collections.abc import Collection
from math import prod
from typing import NamedTuple

from onnx import ModelProto

from onnx_tools.graph_index import GraphIndex
from onnx_tools.graph_parts import Node, StoredTensor, Value
from onnx_tools.weights import Weight, find_weights
from onnx_tools.wire import Path

_MEAN, _VARIANCE = 3, 4


class Shift(NamedTuple):
    """A stored tensor with an element for each output of a layer, in their order. `sign`: -1 if it is taken away."""

    tensor: Weight
    sign: int


class Norm(NamedTuple):
    """A BatchNormalization of the main graph, which no other node shares its statistics with."""

    node: Node
    mean: Weight
    variance: Weight

    @property
    def label(self) -> str:
        """Its name for people."""
        return self.node.label


class Additions:
    """Finds them in one model: `shifts` by the name of the weight, `norms` in model order.

    `shared`: tensors that have bytes in common with others, which are neither.
    """

    def __init__(self, model: ModelProto, shared: Collection[Path] = ()) -> None:
        found = find_weights(model)
        self._index = GraphIndex(model)
        floats = (weight for weight in found.maskable().values() if weight.quantisation is None)
        self._stored = {weight.path: weight for weight in floats if weight.path not in shared}
        self._tensors = {tensor.path: tensor for tensor in self._index.tensors}
        self.shifts: dict[str, Shift] = {}
        for weight in found.weights:
            node = _only_reader(self._tensors[weight.path]) if weight.path not in shared else None
            shift = None if node is None or node.scope is not self._index.scopes[0] else self._behind(node, weight.path)
            if shift is not None:
                self.shifts[weight.name] = shift
        self.norms = tuple(norm for norm in map(self._norm, self._index.nodes) if norm is not None)

    def _behind(self, node: Node, path: Path) -> Shift | None:
        """The shift of what a node gives; its weight must be the second input."""
        if len(node.inputs) < 2 or not _holds(node.inputs[1], path):
            return None
        if node.op_type == "Conv" or (node.op_type == "Gemm" and not _scaled(node)):
            if len(node.inputs) > 2 and node.inputs[2] is not None:
                return self._shift(node.inputs[2], 1)
            return self._taken_away(node)
        return self._added(node) if node.op_type == "MatMul" else None

    def _taken_away(self, node: Node) -> Shift | None:
        """The mean of a normalisation that alone reads what `node` gives."""
        norm = _reader_of(node)
        found = None if norm is None else self._norm(norm)
        return None if found is None or norm is None or norm.inputs[0] is not node.outputs[0] else Shift(found.mean, -1)

    def _added(self, node: Node) -> Shift | None:
        """The stored operand of an Add that alone reads what `node` gives."""
        reader = _reader_of(node)
        if reader is None or reader.op_type != "Add" or reader.domain or len(reader.inputs) != 2:
            return None
        others = [value for value in reader.inputs if value is not node.outputs[0]]
        return self._shift(others[0], 1) if len(others) == 1 else None

    def _norm(self, node: Node) -> Norm | None:
        if node.op_type != "BatchNormalization" or node.domain or node.scope is not self._index.scopes[0]:
            return None
        training = node.attributes.get("training_mode")
        if len(node.inputs) != 5 or node.inputs[0] is None or len(node.outputs) > 1 or (training and training.i):
            return None
        mean, variance = self._shift(node.inputs[_MEAN], -1), self._shift(node.inputs[_VARIANCE], -1)
        return None if mean is None or variance is None else Norm(node, mean.tensor, variance.tensor)

    def _shift(self, value: Value | None, sign: int) -> Shift | None:
        """The stored floats that lie along one axis, the last one of an operand that is broadcast."""
        tensor = None if value is None else value.tensor
        if tensor is None or tensor.path not in self._stored or _only_reader(tensor) is None:
            return None
        weight = self._stored[tensor.path]
        return Shift(weight, sign) if prod(weight.shape) == (weight.shape or (0,))[-1] else None


def _only_reader(tensor: StoredTensor) -> Node | None:
    """The node that alone reads a tensor, once; None if it is seen anywhere else."""
    return _single(tensor.values[0]) if len(tensor.values) == 1 else None


def _reader_of(node: Node) -> Node | None:
    """The node that alone reads what a node gives."""
    value = node.outputs[0] if node.outputs else None
    return None if value is None else _single(value)


def _single(value: Value) -> Node | None:
    other = value.output_of or value.handed_to or value.duplicated or value.fed
    return None if other or len(value.readers) != 1 else value.readers[0].node


def _holds(value: Value | None, path: Path) -> bool:
    return value is not None and value.tensor is not None and value.tensor.path == path


def _scaled(node: Node) -> bool:
    """Whether a Gemm scales its product or its third input."""
    return any(name in node.attributes and node.attributes[name].f != 1 for name in ("alpha", "beta"))
