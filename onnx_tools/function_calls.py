"""Calls of a model's local functions, spelled out: each call gets the body as a scope of its own.

So what a call is given is followed into the body like any other data, for each call apart. A function whose calls would
never end stays closed, and so does every call once `MOST_PARTS` parts of bodies have been spelled out: a file of a few
kilobytes can describe calls without number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto

from onnx_tools.graph_parts import Node, Scope, domain_of, shortened

MOST_PARTS = 500_000
"""Parts (nodes, their inputs, outputs and attributes) of all bodies that are spelled out."""

_Key = tuple[str | bytes, str | bytes, str | bytes]


class Functions:
    """The local functions of a model, and how much of them may still be spelled out."""

    def __init__(self, model: ModelProto) -> None:
        self._names = frozenset((domain_of(f.domain), shortened(f.name)) for f in model.functions)
        self._found: dict[_Key, list[int]] = defaultdict(list)
        self._functions = model.functions
        for i, function in enumerate(model.functions):
            self._found[_key(function.domain, function.name, function.overload)].append(i)
        self._endless = self._find_endless()
        self._sizes: dict[int, int] = {}
        self._left = MOST_PARTS

    def has(self, node: Node) -> bool:
        """Whether the node calls a function of the model, not an operator."""
        return (node.domain, node.op_type) in self._names

    def open(self, node: Node) -> Scope | None:
        """The body for one call, or None; then `node.closed` says why."""
        at = self._found.get(_called(node.proto), []) if self._names else []
        if len(at) != 1:
            node.closed = "which is defined twice" if at else "of which no such overload is defined"
        elif at[0] in self._endless:
            node.closed = "whose calls never end"
        elif self._left <= 0:
            node.closed = "which is one call of too many"
        else:
            self._left -= self._size(at[0])
            return _body(self._functions[at[0]], at[0], node)
        return None

    def _size(self, i: int) -> int:
        if i not in self._sizes:
            function = self._functions[i]
            named = (function.input, function.output, function.attribute, function.attribute_proto)
            self._sizes[i] = 1 + sum(map(len, named)) + sum(map(_parts_of, _nodes_below(function)))
        return self._sizes[i]

    def _find_endless(self) -> set[int]:
        """The functions from which a chain of calls comes back to a function in it; the others are peeled off."""
        callers: dict[int, list[int]] = defaultdict(list)
        waiting: dict[int, int] = {}
        for i, function in enumerate(self._functions):
            called = {at for node in _nodes_below(function) for at in self._found.get(_called(node), ())}
            waiting[i] = len(called)
            for at in called:
                callers[at].append(i)
        ready = [i for i, count in waiting.items() if count == 0]
        while ready:
            done = ready.pop()
            del waiting[done]
            for caller in callers[done]:
                waiting[caller] -= 1
                if waiting[caller] == 0:
                    ready.append(caller)
        return set(waiting)


def _key(domain: str | bytes, name: str | bytes, overload: str | bytes) -> _Key:
    return ("" if domain == "ai.onnx" else domain, name, overload)


def _called(node: NodeProto) -> _Key:
    return _key(node.domain, node.op_type, node.overload)


def _nodes_below(root: Any) -> Iterator[NodeProto]:
    """The nodes of a function or a graph, those of its subgraphs too."""
    stack = [root]
    while stack:
        for node in stack.pop().node:
            yield node
            for attribute in node.attribute:
                stack += [attribute.g] if attribute.HasField("g") else []
                stack += attribute.graphs


def _parts_of(node: NodeProto) -> int:
    """What a node costs in the index, with what its attributes hold apart from nodes."""
    parts = 4 + len(node.input) + len(node.output)
    for attribute in node.attribute:
        parts += 1 + len(attribute.tensors) + len(attribute.sparse_tensors)
        for graph in (attribute.g, *attribute.graphs):
            parts += len(graph.input) + len(graph.output) + len(graph.initializer) + len(graph.sparse_initializer)
    return parts


def _body(function: FunctionProto, i: int, node: Node) -> Scope:
    given = {attribute.name: attribute for attribute in reversed(function.attribute_proto)}
    given |= node.attributes
    label = shortened(function.name)
    return Scope(function, (("functions", i),), label, call=node, calls=f"{node.label}/", given=_known(function, given))


def _known(function: FunctionProto, given: dict[str, AttributeProto]) -> dict[str, AttributeProto]:
    names = {*function.attribute, *(attribute.name for attribute in function.attribute_proto)}
    return {name: attribute for name, attribute in given.items() if name in names}
