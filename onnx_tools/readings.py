"""Who reads a stored tensor, and as what: it is followed forward to the nodes that use it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from onnx import TensorProto

from onnx_tools import op_table
from onnx_tools.graph_index import GraphIndex
from onnx_tools.graph_parts import Node, Reader, Scope, StoredTensor, Value
from onnx_tools.layout import MOST_AXES, Layout, PassThrough, pass_through
from onnx_tools.operators import WeightSlot
from onnx_tools.quantisation.finding import NOTHING_PASSED, Passage, passed, read_at

_MOST_STEPS = 1000
_MOST_READERS = 10_000
NOT_COVERED = "not yet covered"


@dataclass(frozen=True)
class Reading:
    """One use of a tensor at the end of its way. `slot`: it is a weight there; else `what` says what it is."""

    what: str
    node: Node | None = None
    slot: WeightSlot | None = None
    layout: Layout | None = None
    passage: Passage = NOTHING_PASSED
    known: bool = True

    @property
    def is_weight(self) -> bool:
        """Whether it can be pruned for this reader."""
        return self.slot is not None and not self.passage.why


@dataclass(frozen=True)
class _Step:
    value: Value
    layout: Layout
    passage: Passage = NOTHING_PASSED


class Follower:
    """Follows tensors to everything that uses them.

    Real graphs take a few steps per node. A hostile one could take their square, so steps are counted: every reader
    and output that is looked at is one.
    """

    def __init__(self, index: GraphIndex) -> None:
        self._steps_left = 10_000 + 10 * len(index.nodes) + sum(len(node.inputs) for node in index.nodes)
        self._rebuilding = _rebuilding(index)

    def is_piece(self, tensor: StoredTensor) -> bool:
        """Whether it is part of what an encoded weight is stored as."""
        readers = {reader.node for value in tensor.values for reader in value.readers}
        return tensor.node in self._rebuilding or not self._rebuilding.isdisjoint(readers)

    def readings(self, tensor: StoredTensor) -> list[Reading]:
        """All uses of a tensor, in the order of distance."""
        todo = deque(_Step(value, Layout.of(tensor.shape)) for value in tensor.values)
        seen = set(todo)
        found: list[Reading] = []
        readers = sum(len(step.value.readers) for step in todo)
        allowed = given = min(self._steps_left, _MOST_STEPS + min(readers, _MOST_READERS))
        while todo and allowed >= 0:
            step = todo.popleft()
            allowed -= len(step.value.readers) + len(step.value.output_of) + len(step.value.handed_to)
            fresh = [replace(step, value=value) for value in step.value.handed_to] if allowed >= 0 else []
            todo.extend(following for following in fresh if following not in seen)
            seen.update(fresh)
            found += [Reading(_output_text(scope)) for scope in step.value.output_of] if allowed >= 0 else []
            for reader in step.value.readers if allowed >= 0 else ():
                onward = _onward(step, reader, tensor, allowed + 2)
                found += [_reading(step, reader, tensor)] if onward is None else []
                allowed -= max(len(onward or ()) - 1, 0)
                fresh = [following for following in onward or () if following not in seen]
                seen.update(fresh)
                todo.extend(fresh)
                if allowed < 0:
                    break
        self._steps_left -= given - allowed
        found += [Reading(f"used in too many places: {NOT_COVERED}")] if allowed < 0 else []
        return [reading for reading in found if reading.what]


def _rebuilding(index: GraphIndex) -> set[Node]:
    """The nodes that rebuild encoded weights: what they read are pieces, whatever their operators read elsewhere."""
    todo = [node for node in index.nodes if node.inputs and node.ends_encoded]
    found = set(todo)
    while todo:
        producers = {value.producer for value in todo.pop().inputs if value is not None}
        fresh = [node for node in producers if node is not None and node.constant and node not in found]
        found.update(fresh)
        todo += fresh
    return found


def _onward(step: _Step, reader: Reader, tensor: StoredTensor, most: int) -> list[_Step] | None:
    """Where a node hands the tensor on to, `most` places at most; None if it is the end of the way."""
    node = reader.node
    row = pass_through(node, reader.input_index)
    if row is None or not node.outputs or node.ambiguous or (row.joins and not node.constant):
        return None
    passage = passed(step.passage, node, step.layout, tensor, dtype_name_of(tensor.data_type))
    return list(islice(_handed_on(node, row, replace(step, passage=passage)), most))


def _handed_on(node: Node, row: PassThrough, step: _Step) -> Iterator[_Step]:
    for i, output in enumerate(islice(node.outputs, row.outputs)):
        if output is None:
            continue
        layout = step.layout if step.layout.axes is None else row.follow(node, i, step.layout)
        if layout.axes is not None and len(layout.axes) > MOST_AXES:
            layout = layout.lost("too many axes")
        yield _Step(output, layout, step.passage)


def _reading(step: _Step, reader: Reader, tensor: StoredTensor) -> Reading:
    """What the tensor is to the node at the end of its way; an empty `what` is harmless."""
    node, i = reader
    op = op_name(node)
    if node.local:
        return Reading(f"passed to local function {op}, {node.closed}", node)
    if i in node.passed:
        return Reading("")
    slot = op_table.weight_slot(node, i, None if step.layout.axes is None else len(step.layout.axes))
    if slot is not None:
        passage = read_at(step.passage, node, slot, step.layout, tensor)
        return Reading(f"weight of {op}", node, slot, _layout_of(step.layout, passage), passage)
    if (node.domain, node.op_type, i) in op_table.HARMLESS:
        return Reading("")
    text = _told(node, i)
    return Reading(text or f"read by {op}", node, passage=step.passage, known=text != "")


def _layout_of(layout: Layout, passage: Passage) -> Layout:
    """The layout of the elements, which have another shape than the tensor where they are packed."""
    quantisation = passage.quantisation
    packed = quantisation is not None and quantisation.shape != layout.stored
    return Layout.of(quantisation.shape) if quantisation is not None and packed else layout


def _told(node: Node, i: int) -> str:
    """What the op table says of an input that is no weight slot; "" if nothing."""
    op = op_name(node)
    if (other := op_table.other_slot(node, i)) is not None:
        return f"{other.what} of {op}"
    if (other := op_table.uncovered_slot(node, i)) is not None:
        return f"{other.what} of {op}: {NOT_COVERED}"
    row = pass_through(node, i)
    if row is None:
        return ""
    joined = row.joins and not node.constant
    return f"joined with computed values by {op}" if joined else f"handed on by {op} under a name defined twice"


def _output_text(scope: Scope) -> str:
    return f"output of subgraph {scope.label}" if scope.label else "graph output"


def op_name(node: Node | None) -> str:
    """The operator with its domain."""
    if node is None:
        return "?"
    return f"{node.domain} {node.op_type}" if node.domain else node.op_type


def dtype_name_of(data_type: int) -> str:
    """Lower-case name of a TensorProto data type, "double" as numpy says it."""
    try:
        name = str(TensorProto.DataType.Name(data_type))
    except ValueError:
        return f"data type {data_type}"
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(name, name.lower())
