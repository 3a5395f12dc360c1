"""Where the run of a model can be cut: what must be kept of it so that another run can start behind some nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto

from onnx_tools.wire import Path


class Cuts:
    """The places between the nodes of a main graph; place n is in front of node n.

    Inputs of the graph and what is computed from stored data alone are there in every run, and never kept.
    """

    def __init__(self, graph: GraphProto) -> None:
        self._graph = graph
        self._reads = [read_by(node) for node in graph.node]
        self._makers = {name: number for number, node in enumerate(graph.node) for name in node.output if name}
        self._constant = self._find_constant()
        self._sorted = all(
            self._makers.get(name, -1) < number for number, names in enumerate(self._reads) for name in names
        )
        self._last = {name: number for number, names in enumerate(self._reads) for name in names}
        self._uses: dict[str, int] = {}
        self._find_uses()

    def kept(self, place: int) -> list[str]:
        """The values that nodes in front of a place give and nodes behind it read; none where no cut is of use."""
        if not self._sorted:
            return []
        return [
            name
            for name, maker in self._makers.items()
            if maker < place <= self._last.get(name, -1) and not self._constant[maker]
        ]

    def first_use(self, path: Path) -> int:
        """The first node whose results change with a stored tensor."""
        field, number = path[1] if path[0] == ("graph", 0) and len(path) > 1 else ("", 0)
        if field == "node":
            return self._effect(number)
        return self._uses.get(self._graph.initializer[number].name, len(self._reads)) if field == "initializer" else 0

    def _find_constant(self) -> list[bool]:
        """Of each node, whether what it gives is computed from stored data alone."""
        stored = {tensor.name for tensor in self._graph.initializer}
        stored |= {tensor.values.name for tensor in self._graph.sparse_initializer}
        found = []
        for node, names in zip(self._graph.node, self._reads, strict=True):
            found.append(node.op_type == "Constant" or (bool(names) and names <= stored))
            stored |= set(node.output) if found[-1] else set()
        return found

    def _find_uses(self) -> None:
        """Of each name, the first node that is not constant and whose results change with it."""
        for number in reversed(range(len(self._reads))):
            effect = self._effect(number)
            for name in self._reads[number]:
                self._uses[name] = min(self._uses.get(name, effect), effect)

    def _effect(self, number: int) -> int:
        if not self._constant[number]:
            return number
        return min((self._uses.get(name, len(self._reads)) for name in self._graph.node[number].output), default=0)


def read_by(node: NodeProto) -> set[str]:
    """The names that a node reads, with all that are read in its bodies."""
    found = set(node.input)
    graphs = list(_bodies(node))
    while graphs:
        graph = graphs.pop()
        found.update(output.name for output in graph.output)
        for inner in graph.node:
            found.update(inner.input)
            graphs += _bodies(inner)
    return found - {""}


def _bodies(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def reduce_to(graph: GraphProto, wanted: Iterable[str], given: Mapping[str, int]) -> None:
    """Leave the nodes and tensors alone that some values need, which become its outputs.

    `given`: names of values that become inputs, with their element types; nodes in front of them are not needed.
    """
    wanted = set(wanted)
    nodes = _needed(graph, wanted, given)
    names = {name for node in nodes for name in read_by(node)} | wanted
    names |= {each.name for each in graph.input}  # stored tensors that callers may override are to stay
    made = {name for node in nodes for name in node.output}
    tensors = [tensor for tensor in graph.initializer if tensor.name in names]
    outputs = [output for output in graph.output if output.name in wanted]
    known = [info for info in graph.value_info if info.name in made]
    for field, values in (("node", nodes), ("initializer", tensors), ("output", outputs), ("value_info", known)):
        graph.ClearField(field)
        getattr(graph, field).extend(values)
    for name, kind in given.items():
        if name in names and name not in made:
            graph.input.append(_input(name, kind))


def _needed(graph: GraphProto, wanted: Iterable[str], given: Mapping[str, int]) -> list[NodeProto]:
    makers = {name: number for number, node in enumerate(graph.node) for name in node.output}
    stack, seen, needed = list(wanted), set(given), set()
    while stack:
        name = stack.pop()
        if name in seen or name not in makers:
            continue
        seen.add(name)
        if makers[name] not in needed:
            needed.add(makers[name])
            stack.extend(read_by(graph.node[makers[name]]))
    return [graph.node[number] for number in sorted(needed)]


def _input(name: str, kind: int) -> ValueInfoProto:
    found = ValueInfoProto(name=name)
    found.type.tensor_type.elem_type = kind
    return found


def element_type(text: str) -> int | None:
    """The element type of what onnxruntime calls tensor(float) and so on; None for what numpy has no array for."""
    name = text.removeprefix("tensor(").removesuffix(")").upper()
    return TensorProto.DataType.Value(name) if text.startswith("tensor(") and name in _PLAIN else None


_PLAIN = {"FLOAT", "DOUBLE", "FLOAT16", "BOOL", *(f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64))}
