"""An index over an ONNX model: scopes, producers, readers, and every stored tensor with its path.

The model may be a skeleton (its large payloads cut out), so only shapes, types and *small* integer tensors are looked
at. It may also be hostile: cycles, names missing or given twice, endless nesting. Nothing here recurses and nothing
raises; what makes no sense resolves to None. Time and memory are linear in the size of the graph: what is asked of a
node again and again is worked out once, and texts that are made of names are cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

Path = tuple[tuple[str, int], ...]
"""Where a message lies in the protobuf: field names with the occurrence's index, from the model down."""

INITIALIZER = "initializer"
CONSTANT = "constant"
SPARSE = "sparse initializer"
ATTRIBUTE = "attribute"
LITERAL = "literal"
FUNCTION = "local function"
TRAINING = "training_info"

_LITERAL_TYPES = {
    "value_float": TensorProto.FLOAT,
    "value_floats": TensorProto.FLOAT,
    "value_int": TensorProto.INT64,
    "value_ints": TensorProto.INT64,
    "value_string": TensorProto.STRING,
    "value_strings": TensorProto.STRING,
}
_MOST_LETTERS = 200
_MOST_INTS = 256
_LONGEST_TEXT = 500
_RANDOM = frozenset({"RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial", "Dropout"})


@dataclass(eq=False, repr=False)
class StoredTensor:
    """Data that the file holds. `place` is one of the constants above; `what` names the attribute for ATTRIBUTE.

    `value` is the name it is read by; None where nothing in a graph can read it by name.
    """

    name: str
    path: Path
    place: str
    shape: tuple[int, ...]
    data_type: int
    scope: Scope | None = None
    what: str = ""
    value: Value | None = None
    proto: TensorProto | None = None

    @cached_property
    def ints(self) -> tuple[int, ...] | None:
        """The elements of a small tensor of integers; else None."""
        return None if self.proto is None else _small_ints(self.proto)


class Reader(NamedTuple):
    """A node that reads a value, and at which of its inputs."""

    node: Node
    input_index: int


@dataclass(eq=False, repr=False)
class Value:
    """A name of one scope. `duplicated`: defined twice there, so that nobody can say what it is.

    `constant`: computed from stored data only. `output_of`: scopes that return it. `fed`: an input of a subgraph,
    which gets its data from the node around it.
    """

    name: str
    tensor: StoredTensor | None = None
    producer: Node | None = None
    readers: list[Reader] = field(default_factory=list)
    output_of: list[Scope] = field(default_factory=list)
    constant: bool = False
    duplicated: bool = False
    fed: bool = False


@dataclass(eq=False, repr=False)
class Scope:
    """A graph: the main one (`label` is "") or a subgraph (`label` like "If_0/then_branch")."""

    graph: GraphProto
    path: Path
    label: str = ""
    parent: Scope | None = None
    values: dict[str, Value] = field(default_factory=dict)

    @cached_property
    def sparse_names(self) -> frozenset[str]:
        """The names of its sparse initializers."""
        return frozenset(_text(sparse.values.name) for sparse in self.graph.sparse_initializer)

    def resolve(self, name: str) -> Value | None:
        """The value that `name` means here: inner names shadow outer ones. None for "" and unknown names."""
        scope: Scope | None = self if name else None
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.parent
        return None


@dataclass(eq=False, repr=False)
class Node:
    """A node in its scope. `inputs` and `outputs` keep the positions; None stands for a missing or unknown name.

    `local`: it calls a function of the model itself, whatever operator of ONNX has the same name.
    """

    proto: NodeProto
    path: Path
    scope: Scope
    inputs: list[Value | None] = field(default_factory=list)
    outputs: list[Value | None] = field(default_factory=list)
    local: bool = False

    @cached_property
    def op_type(self) -> str:
        """The operator's name, cut if nobody would read it."""
        return _short(self.proto.op_type)

    @cached_property
    def domain(self) -> str:
        """The operator's domain, "" for ai.onnx."""
        return _domain(self.proto.domain)

    @cached_property
    def label(self) -> str:
        """What a person finds it by: its name, else its first output, else its place. Cut if nobody would read it."""
        outputs = (name for name in self.proto.output if name)
        return _short(self.proto.name or next(outputs, "")) or f"{self.op_type}[{self.path[-1][1]}]"

    @cached_property
    def ambiguous(self) -> bool:
        """Whether the name of an output is defined twice."""
        return any(output is not None and output.duplicated for output in self.outputs)

    @cached_property
    def constant(self) -> bool:
        """Whether what it gives is computed from stored data only."""
        return all(output is None or output.constant for output in self.outputs)

    @cached_property
    def _attributes(self) -> dict[str, AttributeProto]:
        """By name; of those with one name the first."""
        return {attribute.name: attribute for attribute in reversed(self.proto.attribute)}

    def int_attribute(self, name: str, default: int) -> int:
        """An integer attribute, or `default`."""
        attribute = self._attributes.get(name)
        return default if attribute is None else int(attribute.i)

    def text_attribute(self, name: str) -> str:
        """A text attribute; "" when absent, or longer than any that makes sense."""
        attribute = self._attributes.get(name)
        return "" if attribute is None or len(attribute.s) > _LONGEST_TEXT else _text(attribute.s)

    def ints_attribute(self, name: str) -> tuple[int, ...] | None:
        """A list of integers given as attribute; None when absent. A very long one is cut: it fits no tensor."""
        attribute = self._attributes.get(name)
        return None if attribute is None else tuple(attribute.ints[: _MOST_INTS + 1])

    def ints(self, name: str, index: int) -> tuple[int, ...] | None:
        """A list of integers that older opsets give as attribute `name` and newer ones as input `index`."""
        given = self.ints_attribute(name)
        return self.input_ints(index) if given is None else given

    @property
    def is_constant(self) -> bool:
        """Whether it is ONNX's Constant."""
        return self.op_type == "Constant" and self.domain == "" and not self.local

    def has_input(self, index: int) -> bool:
        """Whether optional input `index` is given."""
        return index < len(self.proto.input) and self.proto.input[index] != ""

    def input_ints(self, index: int) -> tuple[int, ...] | None:
        """The elements of input `index` when it is a small constant of integers; else None."""
        value = self.inputs[index] if index < len(self.inputs) else None
        if value is None or value.duplicated or value.fed:
            return None
        if value.tensor is not None and value.tensor.proto is not None:
            return value.tensor.ints
        if value.producer is not None and value.producer.is_constant:
            return value.producer.ints_attribute("value_ints")
        return None

    def input_shape(self, index: int) -> tuple[int, ...] | None:
        """The shape of input `index` when it is stored data; else None."""
        value = self.inputs[index] if index < len(self.inputs) else None
        return value.tensor.shape if value is not None and value.tensor is not None else None


class GraphIndex:
    """The index of one model; built once, then only read.

    `scopes` in the order of their appearance, `nodes` and `tensors` in model order (a graph's initializers, then its
    nodes, each followed by its subgraphs), `functions` the (domain, name) of the model's local functions.
    """

    def __init__(self, model: ModelProto) -> None:
        self.scopes: list[Scope] = []
        self.nodes: list[Node] = []
        self.tensors: list[StoredTensor] = []
        self.functions = frozenset((_domain(f.domain), _short(f.name)) for f in model.functions)
        self._walk(model.graph)
        self._add_unreachable(model)
        self._connect()
        self._mark_constants()

    def _walk(self, graph: GraphProto) -> None:
        """Visit graphs depth first in model order, with a stack of our own: nesting may be deep."""
        main = self._open_scope(Scope(graph, (("graph", 0),)))
        stack = [iter(self._nodes_of(main))]
        while stack:
            node = next(stack[-1], None)
            if node is None:
                stack.pop()
                continue
            stack.extend(self._opened(subgraph) for subgraph in reversed(self._visit_attributes(node)))

    def _opened(self, scope: Scope) -> Iterator[Node]:
        """The nodes of `scope`; it is opened when the first is asked for, which keeps model order."""
        yield from self._nodes_of(self._open_scope(scope))

    def _open_scope(self, scope: Scope) -> Scope:
        self.scopes.append(scope)
        for graph_input in scope.graph.input:
            value = self._define(scope, graph_input.name)
            if value is not None:
                value.fed = scope.parent is not None
        inputs = {graph_input.name for graph_input in scope.graph.input}
        for i, tensor in enumerate(scope.graph.initializer):
            stored = _stored(tensor, (*scope.path, ("initializer", i)), INITIALIZER, scope)
            self._add(stored, self._define(scope, tensor.name, is_input=tensor.name in inputs))
        for i, sparse in enumerate(scope.graph.sparse_initializer):
            self._add_sparse(scope, sparse, (*scope.path, ("sparse_initializer", i)), inputs)
        return scope

    def _add_sparse(self, scope: Scope, sparse: SparseTensorProto, path: Path, inputs: set[str]) -> None:
        name = sparse.values.name
        value = self._define(scope, name, is_input=name in inputs)
        for tensor, below in _tensors_below(sparse, path):
            self._add(_stored(tensor, below, SPARSE, scope), value if below[-1][0] == "values" else None)

    def _add(self, stored: StoredTensor, value: Value | None) -> None:
        self.tensors.append(stored)
        stored.value = value
        if value is not None and value.tensor is None:
            value.tensor = stored

    @staticmethod
    def _define(scope: Scope, name: str, is_input: bool = False) -> Value | None:
        """A new value; one that exists is returned as it is when it is the graph input of an initializer."""
        if not name:
            return None
        known = scope.values.get(name)
        if known is None:
            known = scope.values[name] = Value(_text(name))
        else:
            known.duplicated |= not is_input or known.tensor is not None
        return known

    def _nodes_of(self, scope: Scope) -> Iterator[Node]:
        for i, proto in enumerate(scope.graph.node):
            node = Node(proto, (*scope.path, ("node", i)), scope)
            node.local = (node.domain, node.op_type) in self.functions
            for name in proto.output:
                value = self._define(scope, name)
                if value is not None and value.producer is None:
                    value.producer = node
                node.outputs.append(value)
            self.nodes.append(node)
            yield node

    def _visit_attributes(self, node: Node) -> list[Scope]:
        """Note the tensors of a node's attributes; return its subgraphs as scopes not yet opened."""
        found: list[Scope] = []
        for i, attribute in enumerate(node.proto.attribute):
            path = (*node.path, ("attribute", i))
            for graph, below in _graphs_of(attribute, path):
                found.append(Scope(graph, below, _scope_label(node, attribute), node.scope))
            self._add_attribute_data(node, attribute, path)
        return found

    def _add_attribute_data(self, node: Node, attribute: AttributeProto, path: Path) -> None:
        value = node.outputs[0] if node.outputs else None
        what = f"attribute '{_short(attribute.name)}' of {node.op_type}"
        if node.is_constant and attribute.name in _LITERAL_TYPES:
            self.tensors.append(_literal(attribute, path, node, value))
        elif len(attribute.floats) > 1:
            self.tensors.append(_listed_floats(attribute, path, node, what))
        of_constant = node.is_constant and attribute.name == "value"
        for tensor, below in _data_of(attribute, path):
            place = CONSTANT if of_constant and below[-1][0] == "t" else ATTRIBUTE
            stored = _stored(tensor, below, place, node.scope)
            stored.what = what
            stored.name = node.label if place == ATTRIBUTE else (value.name if value else stored.name)
            self._add(stored, value if place == CONSTANT else None)

    def _add_unreachable(self, model: ModelProto) -> None:
        """Tensors that no graph of ours reads: bodies of local functions, training information."""
        for place, repeated in ((FUNCTION, model.functions), (TRAINING, model.training_info)):
            for i, message in enumerate(repeated):
                name = "functions" if place == FUNCTION else "training_info"
                for tensor, path in _tensors_below(message, ((name, i),)):
                    self.tensors.append(_stored(tensor, path, place, None))

    def _connect(self) -> None:
        for node in self.nodes:
            node.inputs = [node.scope.resolve(name) for name in node.proto.input]
            for i, value in enumerate(node.inputs):
                if value is not None:
                    value.readers.append(Reader(node, i))
        for scope in self.scopes:
            for output in scope.graph.output:
                value = scope.resolve(output.name)
                if value is not None and value.output_of[-1:] != [scope]:
                    value.output_of.append(scope)

    def _mark_constants(self) -> None:
        """Spread `constant` from stored tensors forward; a cycle simply never becomes constant."""
        ready = deque(t.value for t in self.tensors if t.value is not None and not t.value.fed)
        waiting = {id(node): _inputs_to_wait_for(node) for node in self.nodes}
        while ready:
            value = ready.popleft()
            if value.constant:
                continue
            value.constant = True
            for node, _ in value.readers:
                waiting[id(node)] -= 1
                if waiting[id(node)] == 0:
                    ready.extend(output for output in node.outputs if output is not None and not output.constant)


def _text(given: str | bytes) -> str:
    """A protobuf string for people: one that is not valid UTF-8 arrives as bytes."""
    return given.decode(errors="backslashreplace") if isinstance(given, bytes) else given


def _short(given: str | bytes) -> str:
    """Text that is copied for all that a node holds; else a megabyte of name could become terabytes."""
    return _text(given) if len(given) <= _MOST_LETTERS else f"{_text(given[:_MOST_LETTERS])}..."


def _scope_label(node: Node, attribute: AttributeProto) -> str:
    inside = f"{node.label}/{_short(attribute.name)}"
    return _short(f"{node.scope.label}/{inside}") if node.scope.label else inside


def element_count(shape: tuple[int, ...]) -> int:
    """Elements of a tensor of any shape, 0 with a negative size. Beyond 2^63 some number that is as impossible."""
    if min(shape, default=1) <= 0:
        return 0
    count = 1
    for size in shape:
        count *= size
        if count >= 1 << 63:
            break
    return count


def _domain(given: str | bytes) -> str:
    domain = _short(given)
    return "" if domain == "ai.onnx" else domain


def _inputs_to_wait_for(node: Node) -> int:
    """How many constant inputs make the node's outputs constant; -1 when nothing does."""
    if node.op_type in _RANDOM or any(a.HasField("g") or a.graphs for a in node.proto.attribute):
        return -1
    return sum(1 for name in node.proto.input if name) or -1


def _stored(tensor: TensorProto, path: Path, place: str, scope: Scope | None) -> StoredTensor:
    name = _text(tensor.name) or "/".join(f"{part}[{i}]" for part, i in path if part not in ("graph", "t", "g"))
    return StoredTensor(name, path, place, tuple(tensor.dims), tensor.data_type, scope, proto=tensor)


def _literal(attribute: AttributeProto, path: Path, node: Node, value: Value | None) -> StoredTensor:
    """A Constant node's `value_float` and its kin: data that is no TensorProto."""
    count = len(attribute.floats) or len(attribute.ints) or len(attribute.strings)
    shape = (count,) if attribute.name.endswith("s") else ()
    name = value.name if value is not None else node.label
    data_type = _LITERAL_TYPES[attribute.name]
    return StoredTensor(name, path, LITERAL, shape, data_type, node.scope, f"{attribute.name} of Constant", value)


def _listed_floats(attribute: AttributeProto, path: Path, node: Node, what: str) -> StoredTensor:
    """Numbers that an operator holds itself, such as the coefficients of a LinearRegressor."""
    name, shape = f"{node.label}.{_short(attribute.name)}", (len(attribute.floats),)
    return StoredTensor(name, path, ATTRIBUTE, shape, TensorProto.FLOAT, node.scope, what)


def _graphs_of(attribute: AttributeProto, path: Path) -> Iterator[tuple[GraphProto, Path]]:
    if attribute.HasField("g"):
        yield attribute.g, (*path, ("g", 0))
    for i, graph in enumerate(attribute.graphs):
        yield graph, (*path, ("graphs", i))


def _data_of(attribute: AttributeProto, path: Path) -> Iterator[tuple[TensorProto, Path]]:
    """The tensors of an attribute outside its subgraphs."""
    if attribute.HasField("t"):
        yield attribute.t, (*path, ("t", 0))
    for i, tensor in enumerate(attribute.tensors):
        yield tensor, (*path, ("tensors", i))
    if attribute.HasField("sparse_tensor"):
        yield from _tensors_below(attribute.sparse_tensor, (*path, ("sparse_tensor", 0)))
    for i, sparse in enumerate(attribute.sparse_tensors):
        yield from _tensors_below(sparse, (*path, ("sparse_tensors", i)))


def _tensors_below(root: Any, path: Path) -> Iterator[tuple[TensorProto, Path]]:
    """Every TensorProto inside a message, in the order of field numbers."""
    stack = [(root, path)]
    while stack:
        message, here = stack.pop()
        if isinstance(message, TensorProto):
            yield message, here
            continue
        found = []
        for descriptor, value in message.ListFields():
            if descriptor.message_type is not None:
                items = [value] if hasattr(value, "ListFields") else value
                found += [(item, (*here, (descriptor.name, i))) for i, item in enumerate(items)]
        stack += reversed(found)


def _small_ints(tensor: TensorProto) -> tuple[int, ...] | None:
    """The elements of a small int32 or int64 tensor; None when they are not there or don't fit the shape."""
    kinds: dict[int, tuple[str, Any]] = {
        TensorProto.INT64: ("<i8", tensor.int64_data),
        TensorProto.INT32: ("<i4", tensor.int32_data),
    }
    if tensor.data_type not in kinds or len(tensor.dims) > 1 or tensor.data_location == TensorProto.EXTERNAL:
        return None
    width, values = kinds[tensor.data_type]
    count = tensor.dims[0] if tensor.dims else 1
    if count > _MOST_INTS:
        return None
    if len(tensor.raw_data) == count * np.dtype(width).itemsize:
        return tuple(int(v) for v in np.frombuffer(tensor.raw_data, width)) if count else ()
    return tuple(values) if len(values) == count else None
