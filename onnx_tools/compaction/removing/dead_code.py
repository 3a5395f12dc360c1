"""What nobody needs any more once nodes read other values than before."""

from __future__ import annotations

from collections import deque

from onnx import FunctionProto

from onnx_tools.compaction.removing.graph_edits import GraphEdits, holds_data
from onnx_tools.graph_index import GraphIndex
from onnx_tools.graph_parts import INITIALIZER, Node, Path, Reader, Value


def drop_unread(edits: GraphEdits, index: GraphIndex) -> None:
    """Drop values that lost their last reader, and what only they needed; what was unused before stays."""
    lost: dict[int, int] = {}
    unread = deque(edits.left.values())
    inputs = _inputs(index) if unread else {}
    while unread:
        value = unread.popleft()
        lost[id(value)] = lost.get(id(value), 0) + 1
        if _is_needed(value, lost):
            continue
        if value.producer is not None:
            if not any(output is not None and _is_needed(output, lost) for output in value.producer.outputs):
                unread.extend(_dropped(edits, value.producer))
        elif value.tensor is not None and value.tensor.place == INITIALIZER and not value.tensor.copies:
            edits.dropped.update((value.tensor.path, *inputs.get(id(value), ())))


def _is_needed(value: Value, lost: dict[int, int]) -> bool:
    return bool(
        lost.get(id(value), 0) < len(value.readers)
        or value.output_of
        or value.handed_to
        or value.duplicated
        or value.fed
    )


def _dropped(edits: GraphEdits, node: Node) -> list[Value]:
    """Drop a node if it does nothing but compute; return what it read."""
    bare = node.is_constant or not holds_data(node)
    if node.local or node.domain or not bare or node.path in edits.dropped or node.path[0][0] != "graph":
        return []
    edits.dropped.add(node.path)
    return [value for i, value in enumerate(node.inputs) if value is not None and Reader(node, i) not in edits.left]


def _inputs(index: GraphIndex) -> dict[int, list[Path]]:
    """The graph inputs of values: initializers have them in models of old IR versions."""
    found: dict[int, list[Path]] = {}
    for scope in index.scopes:
        for i, info in enumerate(() if isinstance(scope.graph, FunctionProto) else scope.graph.input):
            found.setdefault(id(scope.values.get(info.name)), []).append((*scope.path, ("input", i)))
    return found
