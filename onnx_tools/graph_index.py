"""An index over an ONNX model: scopes, producers, readers, and every stored tensor with its path.

The model may be a skeleton (its large payloads cut out), so only shapes, types and *small* integer tensors are looked
at. It may also be hostile: cycles, names missing or given twice, endless nesting. Nothing here recurses and nothing
raises; what makes no sense resolves to None. Time and memory are linear in the size of the graph: what is asked of a
node again and again is worked out once, and texts that are made of names are cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator
from typing import Any

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, SparseTensorProto, TensorProto

from onnx_tools.body_inputs import unchanged_inputs
from onnx_tools.function_calls import Functions
from onnx_tools.graph_parts import (
    ATTRIBUTE,
    CONSTANT,
    FUNCTION,
    INITIALIZER,
    LITERAL,
    SPARSE,
    TRAINING,
    Node,
    Path,
    Reader,
    Scope,
    StoredTensor,
    Value,
    element_count,
    shortened,
    text_of,
)

_LITERAL_TYPES = {
    "value_float": TensorProto.FLOAT,
    "value_floats": TensorProto.FLOAT,
    "value_int": TensorProto.INT64,
    "value_ints": TensorProto.INT64,
    "value_string": TensorProto.STRING,
    "value_strings": TensorProto.STRING,
}
_RANDOM = frozenset({"RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial", "Dropout"})


class GraphIndex:
    """The index of one model; built once, then only read.

    `scopes` in the order of their appearance, `nodes` and `tensors` in model order (a graph's initializers, then its
    nodes, each followed by its subgraphs; the body of a function stands in `nodes` behind each node that calls it, its
    tensors stand once, behind those of the graphs). `overridable`: stored tensors of the main graph, by name, that are
    inputs too and shall not be taken as known.
    """

    def __init__(self, model: ModelProto, overridable: Container[str] = ()) -> None:
        self._overridable = overridable
        self.scopes: list[Scope] = []
        self.nodes: list[Node] = []
        self.tensors: list[StoredTensor] = []
        self._functions = Functions(model)
        self._in_functions: dict[Path, StoredTensor] = {}
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
            if node.local and (body := self._functions.open(node)) is not None:
                stack.append(self._opened(body))

    def _opened(self, scope: Scope) -> Iterator[Node]:
        """The nodes of `scope`; it is opened when the first is asked for, which keeps model order."""
        yield from self._nodes_of(self._open_scope(scope))

    def _open_scope(self, scope: Scope) -> Scope:
        self.scopes.append(scope)
        if isinstance(scope.graph, FunctionProto):
            return scope
        for graph_input in scope.graph.input:
            value = self._define(scope, graph_input.name)
            if value is not None:
                value.fed = scope.parent is not None or graph_input.name in self._overridable
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
            is_values = below[-1][0] == "values"
            stored = _stored(tensor, below, SPARSE, scope)
            self._add(_as_dense(stored, sparse) if is_values else stored, value if is_values else None)

    def _add(self, stored: StoredTensor, value: Value | None) -> None:
        if stored.path[0][0] != "functions":
            self.tensors.append(stored)
        elif (known := self._in_functions.setdefault(stored.path, stored)) is not stored:
            known.copies += [] if value is None else [value]
            stored = known
        if stored.value is None:
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
            known = scope.values[name] = Value(text_of(name))
        else:
            known.duplicated |= not is_input or known.tensor is not None
        return known

    def _nodes_of(self, scope: Scope) -> Iterator[Node]:
        for i, proto in enumerate(scope.graph.node):
            node = Node(proto, (*scope.path, ("node", i)), scope)
            node.local = self._functions.has(node)
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
                found.append(_subscope(graph, below, node, attribute))
            self._add_attribute_data(node, attribute, path)
        return found

    def _add_attribute_data(self, node: Node, attribute: AttributeProto, path: Path) -> None:
        value = node.outputs[0] if node.outputs else None
        what = f"attribute '{shortened(attribute.name)}' of {node.op_type}"
        if node.is_constant and attribute.name in _LITERAL_TYPES:
            self._add(_literal(attribute, path, node, value), value)
        elif len(attribute.floats) > 1:
            self._add(_listed_floats(attribute, path, node, what), None)
        of_constant = node.is_constant and attribute.name == "value"
        for tensor, below in _data_of(attribute, path):
            place = CONSTANT if of_constant and below[-1][0] == "t" else ATTRIBUTE
            stored = _stored(tensor, below, place, node.scope)
            stored.what, stored.node = what, node
            stored.name = node.own_label if place == ATTRIBUTE else (value.name if value else stored.name)
            if below[-1][0] == "values":
                many, i = below[-2]
                _as_dense(stored, attribute.sparse_tensors[i] if many == "sparse_tensors" else attribute.sparse_tensor)
            self._add(stored, value if place == CONSTANT else None)

    def _add_unreachable(self, model: ModelProto) -> None:
        """Tensors of functions; then those that no graph of ours reads: of functions not called, of training_info."""
        self.tensors += self._in_functions.values()
        for place, repeated in ((FUNCTION, model.functions), (TRAINING, model.training_info)):
            for i, message in enumerate(repeated):
                name = "functions" if place == FUNCTION else "training_info"
                for tensor, path in _tensors_below(message, ((name, i),)):
                    if path not in self._in_functions:
                        self.tensors.append(_stored(tensor, path, place, None))

    def _connect(self) -> None:
        """Readers and results; a call comes before the nodes of its body, so the body's inputs are known there."""
        bodies = {id(scope.call): scope for scope in self.scopes if scope.call is not None}
        for node in self.nodes:
            node.inputs = [node.scope.resolve(name) for name in node.proto.input]
            if (body := bodies.get(id(node))) is not None:
                _give_arguments(node, body)
                continue
            for i, value in enumerate(node.inputs):
                if value is not None:
                    value.readers.append(Reader(node, i))
        for scope in self.scopes:
            if isinstance(scope.graph, FunctionProto):
                _give_results(scope)
                continue
            for output in scope.graph.output:
                value = scope.resolve(output.name)
                if value is not None and value.output_of[-1:] != [scope]:
                    value.output_of.append(scope)
        self._connect_bodies()

    def _connect_bodies(self) -> None:
        """Hand what a Loop and its kin pass on unchanged to the names it has in the body and behind the node."""
        for scope in self.scopes:
            for place, inside, after in unchanged_inputs(scope.owner, scope) if scope.owner is not None else ():
                given = scope.owner.inputs[place] if scope.owner is not None else None
                if given is not None and scope.owner is not None:
                    scope.owner.passed |= {place}
                    given.handed_to += [inside] if after is None else [inside, after]

    def _mark_constants(self) -> None:
        """Spread `constant` from stored tensors forward; a cycle simply never becomes constant."""
        ready = deque(value for t in self.tensors for value in t.values if not value.fed)
        waiting = {id(node): _inputs_to_wait_for(node) for node in self.nodes}
        while ready:
            value = ready.popleft()
            if value.constant:
                continue
            value.constant = True
            ready.extend(value.handed_to)
            for node, _ in value.readers:
                waiting[id(node)] -= 1
                if waiting[id(node)] == 0:
                    ready.extend(output for output in node.outputs if output is not None and not output.constant)


def _subscope(graph: GraphProto, path: Path, node: Node, attribute: AttributeProto) -> Scope:
    outside = node.scope
    inside = f"{node.own_label}/{shortened(attribute.name)}"
    label = shortened(f"{outside.label}/{inside}") if outside.label else inside
    return Scope(graph, path, label, outside, owner=node, calls=outside.calls, given=outside.given)


def _give_arguments(call: Node, body: Scope) -> None:
    """The inputs of a function are the values that the call gives it; one that is not given is None."""
    for name, value in zip(body.graph.input, call.inputs, strict=False):
        text = str(name)
        if text in body.values:
            body.values[text].duplicated = True
        elif value is not None:
            body.values[text] = value


def _give_results(body: Scope) -> None:
    assert body.call is not None
    for name, value in zip(body.graph.output, body.call.outputs, strict=False):
        result = body.resolve(str(name))
        if result is not None and value is not None:
            result.handed_to.append(value)


def _inputs_to_wait_for(node: Node) -> int:
    """How many constant inputs make the node's outputs constant; -1 when nothing does."""
    if node.op_type in _RANDOM or any(a.HasField("g") or a.graphs for a in node.proto.attribute):
        return -1
    return sum(1 for name in node.proto.input if name) or -1


def _stored(tensor: TensorProto, path: Path, place: str, scope: Scope | None) -> StoredTensor:
    name = text_of(tensor.name) or "/".join(f"{part}[{i}]" for part, i in path if part not in ("graph", "t", "g"))
    return StoredTensor(name, path, place, tuple(tensor.dims), tensor.data_type, scope, proto=tensor)


def _as_dense(values: StoredTensor, sparse: SparseTensorProto) -> StoredTensor:
    """The values of a sparse tensor, described as the tensor that they make."""
    stored, elements = element_count(values.shape), element_count(tuple(sparse.dims))
    if stored <= elements < 1 << 63:
        values.shape, values.zeros = tuple(sparse.dims), elements - stored
    return values


def _literal(attribute: AttributeProto, path: Path, node: Node, value: Value | None) -> StoredTensor:
    """A Constant node's `value_float` and its kin: data that is no TensorProto."""
    count = len(attribute.floats) or len(attribute.ints) or len(attribute.strings)
    shape = (count,) if attribute.name.endswith("s") else ()
    name = value.name if value is not None else node.own_label
    data_type = _LITERAL_TYPES[attribute.name]
    what = f"{attribute.name} of Constant"
    return StoredTensor(name, path, LITERAL, shape, data_type, node.scope, what, node=node)


def _listed_floats(attribute: AttributeProto, path: Path, node: Node, what: str) -> StoredTensor:
    """Numbers that an operator holds itself, such as the coefficients of a LinearRegressor."""
    name, shape = f"{node.own_label}.{shortened(attribute.name)}", (len(attribute.floats),)
    return StoredTensor(name, path, ATTRIBUTE, shape, TensorProto.FLOAT, node.scope, what, node=node)


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
