"""The order in which the nodes of a model compute."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from onnx_tools.compaction.mapping.trace import said
from onnx_tools.errors import InvalidModelFile
from onnx_tools.graph_index import GraphIndex
from onnx_tools.graph_parts import Node


def in_order(index: GraphIndex) -> list[Node]:
    """The nodes in an order in which each follows those that it reads from.

    A node with subgraphs follows those that make what these give. Raises `InvalidModelFile` for a cycle.
    """
    ordered = _without_cycles(index)
    reached = {id(node) for node in ordered}
    lost = next((node for node in index.nodes if id(node) not in reached), None)
    if lost is not None:
        raise InvalidModelFile(f"{said(lost)} waits for what is made of its own result: the graph has a cycle")
    return ordered


def _without_cycles(index: GraphIndex) -> list[Node]:
    """The same without the nodes on cycles and those behind."""
    waiting = {id(node): 0 for node in index.nodes}
    for node in index.nodes:  # not by inputs: a call of a function reads nothing, its body does
        for output in node.outputs:
            for reader, _ in output.readers if output is not None and output.producer is node else ():
                waiting[id(reader)] += 1
    for node in index.nodes:
        for owner in _owners(node):
            waiting[id(owner)] += 1
    ready = deque(node for node in index.nodes if not waiting[id(node)])
    ordered = []
    while ready:
        node = ready.popleft()
        ordered.append(node)
        for output in node.outputs:
            readers = output.readers if output is not None and output.producer is node else ()
            _serve(waiting, ready, (reader for reader, _ in readers))
        _serve(waiting, ready, _owners(node))
    return ordered


def _owners(node: Node) -> list[Node]:
    """The nodes that give what `node` makes as a result of their subgraphs, each as often as it does."""
    made = (output for output in node.outputs if output is not None and output.producer is node)
    return [scope.owner for output in made for scope in output.output_of if scope.owner is not None]


def _serve(waiting: dict[int, int], ready: deque[Node], nodes: Iterable[Node]) -> None:
    """One of the things that each of the nodes waits for is there."""
    for node in nodes:
        waiting[id(node)] -= 1
        if not waiting[id(node)]:
            ready.append(node)
