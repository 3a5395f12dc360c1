"""Which stored tensors of a model are weights, found by who reads them, never by their shape.

Every stored tensor is followed forward, through Reshape, Transpose, Slice and their like, to the nodes that use it.
It is a weight if all of them read it at a weight slot of the op table; else it is left alone, and says why.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from onnx_tools import graph_parts, operators
from onnx_tools.graph_index import GraphIndex
from onnx_tools.graph_parts import Node, Path, Reader, Scope, StoredTensor, Value, element_count
from onnx_tools.layout import MOST_AXES, Layout, PassThrough, pass_through
from onnx_tools.model_file import DTYPES
from onnx_tools.operators import UnitAxis, WeightSlot
from onnx_tools.quantisation.finding import NOTHING_PASSED, Passage, passed, read_at
from onnx_tools.quantisation.scheme import Quantisation

_MOST_STEPS = 1000
_MOST_READERS = 10_000
_MOST_LETTERS = 200
_NOT_COVERED = "not yet covered"


@dataclass(frozen=True)
class Weight:
    """A stored tensor that can be pruned. One mask, however many nodes read it.

    `path`: where its TensorProto lies. `shape`: of its elements, which the file may hold in another one, several to a
    byte. `dtype`: of the values that it is pruned by, float32 if it is quantised. `op_types`, `consumers`: the nodes
    that use it, each named by its name or first output. `rows`: its output channels, `columns`: its input channels (the
    axis that is summed); None where it has none, and `rows_missing`, `columns_missing` say why. `depthwise`: a
    convolution with one input channel per group. `optional`: why it is pruned only if that is asked for, a key of
    `operators.OPTIONAL`; "" for the others.
    """

    name: str
    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    elements: int
    op_types: tuple[str, ...]
    consumers: tuple[str, ...]
    rows: UnitAxis | None
    columns: UnitAxis | None
    rows_missing: str = ""
    columns_missing: str = ""
    depthwise: bool = False
    optional: str = ""
    quantisation: Quantisation | None = None

    @property
    def dtype_name(self) -> str:
        """The type it is stored in, like "float32", "int8", "float8e4m3fn"."""
        return str(self.dtype) if self.quantisation is None else self.quantisation.kind.name

    @property
    def bytes(self) -> int:
        """Bytes that its values take in the file, padding included."""
        return self.elements * self.dtype.itemsize if self.quantisation is None else self.quantisation.stored_bytes

    def stored_as(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and dtype to read and write it in: `shape`, or flat bytes if it is quantised."""
        return (shape, self.dtype) if self.quantisation is None else ((self.bytes,), np.dtype(np.uint8))


@dataclass(frozen=True)
class LeftAlone:
    """Stored data that is not pruned, and the reason. `dtype_name`: like "int64", "float8e4m3fn".

    `zeros`: of a tensor that is stored sparse, the elements that are not stored; None of others. Its `shape` and
    `elements` are those of the dense tensor.
    """

    name: str
    path: Path
    shape: tuple[int, ...]
    dtype_name: str
    elements: int
    reason: str
    zeros: int | None = None


@dataclass(frozen=True)
class FoundWeights:
    """All stored data of a model, in model order: a graph's initializers, then its nodes with their subgraphs."""

    weights: tuple[Weight, ...]
    left_alone: tuple[LeftAlone, ...]


@dataclass(frozen=True)
class _Reading:
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


def find_weights(model: ModelProto) -> FoundWeights:
    """Find the weights of a model; the skeleton of one will do, since no value of a weight is looked at.

    Everything else that the model stores is listed as left alone, with the reason. Raises nothing, however broken the
    graph is: what can't be understood is left alone.
    """
    index = GraphIndex(model)
    follower = _Follower(index)
    names = _unique_names(index.tensors)
    found = [_judge(tensor, name, follower) for tensor, name in zip(index.tensors, names, strict=True)]
    return FoundWeights(
        tuple(item for item in found if isinstance(item, Weight)),
        tuple(item for item in found if isinstance(item, LeftAlone)),
    )


def _judge(tensor: StoredTensor, name: str, follower: _Follower) -> Weight | LeftAlone:
    """Weight or not: first by how it is stored, then by who reads it."""
    if (held := _held(tensor, name)) is not None:
        return held
    reason = _unusable(tensor)
    readings = [] if reason else follower.readings(tensor)
    usable = tensor.data_type in DTYPES or any(reading.passage.quantisation for reading in readings)
    reason = reason or (_reason_of_use(readings) if usable else _reason_of_type(tensor, readings))
    if reason:
        elements = element_count(tensor.shape)
        return LeftAlone(name, tensor.path, tensor.shape, _dtype_name(tensor.data_type), elements, reason, tensor.zeros)
    return _weight(tensor, name, readings)


def _weight(tensor: StoredTensor, name: str, readings: list[_Reading]) -> Weight:
    rows, rows_missing = _agreed([_units(reading, 0) for reading in readings], "output axis")
    summing = [reading for reading in readings if reading.slot and reading.slot.reduction is not None]
    columns, columns_missing = _agreed([_units(reading, 1) for reading in summing or readings[:1]], "reduction axis")
    nodes = [reading.node for reading in readings if reading.node is not None]
    quantisation = readings[0].passage.quantisation
    shape = tensor.shape if quantisation is None else quantisation.shape
    return Weight(
        name=name,
        path=tensor.path,
        shape=shape,
        dtype=DTYPES.get(tensor.data_type, np.dtype(np.float32)),
        elements=element_count(shape),
        op_types=tuple(dict.fromkeys(node.op_type for node in nodes)),
        consumers=tuple(node.label for node in dict.fromkeys(nodes)),
        rows=rows,
        columns=columns,
        rows_missing=rows_missing,
        columns_missing=columns_missing,
        depthwise=any(_is_depthwise(reading) for reading in readings),
        optional=next((reading.slot.kind for reading in readings if reading.slot and reading.slot.kind), ""),
        quantisation=quantisation,
    )


def _held(tensor: StoredTensor, name: str) -> Weight | None:
    """The weight that a node holds itself, as a list of floats."""
    node, dtype = tensor.node, DTYPES.get(tensor.data_type)
    if node is None or dtype is None or tensor.path[-1][0] != "attribute" or not tensor.shape:
        return None
    attribute = node.proto.attribute[tensor.path[-1][1]]
    slot = operators.attribute_slot(node, attribute.name)
    if slot is None or node.attributes.get(attribute.name) != attribute:
        return None
    axes = slot.axes(node, tensor.shape[0])
    rows, columns, missing = (None, None, axes) if isinstance(axes, str) else (*axes, "")
    return Weight(
        name=name,
        path=tensor.path,
        shape=tensor.shape,
        dtype=dtype,
        elements=tensor.shape[0],
        op_types=(node.op_type,),
        consumers=(node.label,),
        rows=rows,
        columns=columns,
        rows_missing=missing,
        columns_missing=missing,
        optional=slot.kind,
    )


def _is_depthwise(reading: _Reading) -> bool:
    shape = reading.layout.shape if reading.layout else None
    return bool(reading.slot and reading.node and shape and reading.slot.is_depthwise(reading.node, shape))


def _units(reading: _Reading, which: int) -> UnitAxis | str:
    """The stored units along a consumer's output (0) or reduction (1) axis, or why there are none."""
    node, slot, layout = reading.node, reading.slot, reading.layout
    assert node is not None
    assert slot is not None
    assert layout is not None
    if layout.axes is None:
        return layout.why
    axis = slot.axes(node, len(layout.axes))[which]
    if which == 1 and slot.reduction is None:
        return f"{node.op_type} '{node.label}' looks entries up and sums nothing"
    if axis is None:
        kind = ("output", "reduction")[which]
        return f"{node.op_type} '{node.label}' gives a tensor of {len(layout.axes)} axes no {kind} axis"
    # An axis 0 that is not in the file (Unsqueeze, Concat): this tensor is one entry of it, so lies in one group.
    groups = slot.group_count(node, layout.axes[0].size) if layout.axes[0].pieces != () else 1
    return "the number of groups is not known" if groups is None else layout.unit_axis(axis, groups)


def _agreed(units: list[UnitAxis | str], what: str) -> tuple[UnitAxis | None, str]:
    """The one axis that all consumers mean."""
    first = units[0]
    for other in units:
        if isinstance(other, str):
            return None, other
        if isinstance(first, UnitAxis) and other.partition() != first.partition():
            return None, f"consumers disagree on the {what}"
    return (None, first) if isinstance(first, str) else (first, "")


def _unusable(tensor: StoredTensor) -> str:
    """Why a tensor can't be a weight, whoever reads it; "" if nothing speaks against it."""
    is_list = tensor.place == graph_parts.LITERAL and tensor.data_type in DTYPES and tensor.shape != ()
    if not is_list and tensor.place not in (graph_parts.INITIALIZER, graph_parts.CONSTANT):
        return _place_reason(tensor)
    if len(tensor.shape) > MOST_AXES or min(tensor.shape, default=1) < 0:
        return "impossible shape"
    if 0 in tensor.shape:
        return "empty tensor"
    if any(value.duplicated for value in tensor.values):
        return _place_reason(tensor) if _has_sparse_twin(tensor) else "its name is defined twice in one graph"
    return "overridden by an input of its subgraph" if any(value.fed for value in tensor.values) else ""


def _place_reason(tensor: StoredTensor) -> str:
    """The reason that lies in where the tensor is stored; initializers come here when a sparse one has their name."""
    if tensor.zeros is not None or tensor.place == graph_parts.SPARSE:
        return "stored sparse: decode it first" if tensor.path[-1][0] == "values" else "indices of a sparse tensor"
    if tensor.place in (graph_parts.ATTRIBUTE, graph_parts.LITERAL):
        repeated = tensor.node is not None and (tensor.node.domain, tensor.node.op_type) == ("", "ConstantOfShape")
        return f"{tensor.what}, one value repeated: no part of it can be zero" if repeated else tensor.what
    if tensor.place == graph_parts.FUNCTION:
        return "inside a local function that no call reaches"
    if tensor.place == graph_parts.TRAINING:
        return f"inside {tensor.place}"
    return "a sparse initializer has its name"


def _has_sparse_twin(tensor: StoredTensor) -> bool:
    if tensor.scope is None or tensor.value is None or tensor.place != graph_parts.INITIALIZER:
        return False
    return tensor.value.name in tensor.scope.sparse_names


def _reason_of_use(readings: list[_Reading]) -> str:
    """Why a tensor is no weight; "" if every reader reads it as one, and as the same."""
    weights = [reading for reading in readings if reading.is_weight]
    others = [reading for reading in readings if not reading.is_weight]
    if not readings:
        return "unused by any node"
    if others and not weights:
        return _summary(others)
    if others:
        return f"weight of {_op_name(weights[0].node)}, but also {_listed(_with_label(other) for other in others)}"
    alike = len({reading.passage.quantisation for reading in readings}) == 1
    return "" if alike else "consumers disagree on its scale or zero point"


def _summary(readings: list[_Reading]) -> str:
    """What a tensor is that no node reads as a weight."""
    known = [_what(reading) for reading in readings if reading.known]
    unknown = dict.fromkeys(_op_name(reading.node) for reading in readings if not reading.known)
    if unknown:
        only = "" if known else "only "
        known.append(f"read {only}by {_listed(unknown, ', ')} (not a weight slot)")
    return _listed(known)


def _what(reading: _Reading) -> str:
    if reading.slot is None or not reading.passage.why:
        return reading.what
    return f"quantised weight of {_op_name(reading.node)} ({reading.passage.text}): {reading.passage.why}"


def _with_label(reading: _Reading) -> str:
    text = _what(reading) if reading.known else f"read by {_op_name(reading.node)}"
    return f"{text} '{reading.node.label}'" if reading.node is not None and not reading.passage.text else text


def _listed(texts: Iterable[str], separator: str = " and ") -> str:
    """The first few of the different texts."""
    different = list(dict.fromkeys(texts))
    more = [f"{len(different) - 3} more"] if len(different) > 3 else []
    return separator.join(different[:3] + more)


def _reason_of_type(tensor: StoredTensor, readings: list[_Reading]) -> str:
    """Why a tensor of another type is left alone: what it is if that is known, else its type."""
    dtype = _dtype_name(tensor.data_type)
    told = [reading for reading in readings if reading.known]
    direct = [reading.node for reading in readings if reading.slot is not None and not reading.passage.text]
    if direct:
        return f"weight of {_op_name(direct[0])} with unsupported dtype {dtype}"
    if told and _looks_quantised(tensor, told):
        return _summary(told)
    if not readings and not dtype.startswith(("int64", "bool", "string")):
        return "unused by any node"
    return f"unsupported dtype {dtype}" if dtype.startswith(("float", "complex")) else f"not floating point ({dtype})"


def _looks_quantised(tensor: StoredTensor, readings: list[_Reading]) -> bool:
    """Narrow integers are weights of quantised operators; wide ones only behind DequantizeLinear."""
    wide = (TensorProto.INT64, TensorProto.UINT64, TensorProto.BOOL, TensorProto.STRING)
    return tensor.data_type not in wide or any(reading.passage.text for reading in readings)


class _Follower:
    """Follows tensors to everything that uses them.

    Real graphs take a few steps per node. A hostile one could take their square, so steps are counted: every reader
    and output that is looked at is one.
    """

    def __init__(self, index: GraphIndex) -> None:
        self._steps_left = 10_000 + 10 * len(index.nodes) + sum(len(node.inputs) for node in index.nodes)

    def readings(self, tensor: StoredTensor) -> list[_Reading]:
        """All uses of a tensor, in the order of distance."""
        todo = deque(_Step(value, Layout.of(tensor.shape)) for value in tensor.values)
        seen = set(todo)
        found: list[_Reading] = []
        readers = sum(len(step.value.readers) for step in todo)
        allowed = given = min(self._steps_left, _MOST_STEPS + min(readers, _MOST_READERS))
        while todo and allowed >= 0:
            step = todo.popleft()
            allowed -= len(step.value.readers) + len(step.value.output_of) + len(step.value.handed_to)
            fresh = [replace(step, value=value) for value in step.value.handed_to] if allowed >= 0 else []
            todo.extend(following for following in fresh if following not in seen)
            seen.update(fresh)
            found += [_Reading(_output_text(scope)) for scope in step.value.output_of] if allowed >= 0 else []
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
        found += [_Reading(f"used in too many places: {_NOT_COVERED}")] if allowed < 0 else []
        return [reading for reading in found if reading.what]


def _onward(step: _Step, reader: Reader, tensor: StoredTensor, most: int) -> list[_Step] | None:
    """Where a node hands the tensor on to, `most` places at most; None if it is the end of the way."""
    node = reader.node
    row = pass_through(node, reader.input_index)
    if row is None or not node.outputs or node.ambiguous or (row.joins and not node.constant):
        return None
    passage = passed(step.passage, node, step.layout, tensor, _dtype_name(tensor.data_type))
    return list(islice(_handed_on(node, row, replace(step, passage=passage)), most))


def _handed_on(node: Node, row: PassThrough, step: _Step) -> Iterator[_Step]:
    for i, output in enumerate(islice(node.outputs, row.outputs)):
        if output is None:
            continue
        layout = step.layout if step.layout.axes is None else row.follow(node, i, step.layout)
        if layout.axes is not None and len(layout.axes) > MOST_AXES:
            layout = layout.lost("too many axes")
        yield _Step(output, layout, step.passage)


def _reading(step: _Step, reader: Reader, tensor: StoredTensor) -> _Reading:
    """What the tensor is to the node at the end of its way; an empty `what` is harmless."""
    node, i = reader
    op = _op_name(node)
    if node.local:
        return _Reading(f"passed to local function {op}, {node.closed}", node)
    if i in node.passed:
        return _Reading("")
    slot = operators.weight_slot(node, i, None if step.layout.axes is None else len(step.layout.axes))
    if slot is not None:
        passage = read_at(step.passage, node, slot, step.layout, tensor)
        return _Reading(f"weight of {op}", node, slot, _layout_of(step.layout, passage), passage)
    if (node.domain, node.op_type, i) in operators.HARMLESS:
        return _Reading("")
    text = _told(node, i)
    return _Reading(text or f"read by {op}", node, passage=step.passage, known=text != "")


def _layout_of(layout: Layout, passage: Passage) -> Layout:
    """The layout of the elements, which have another shape than the tensor where they are packed."""
    quantisation = passage.quantisation
    packed = quantisation is not None and quantisation.shape != layout.stored
    return Layout.of(quantisation.shape) if quantisation is not None and packed else layout


def _told(node: Node, i: int) -> str:
    """What the op table says of an input that is no weight slot; "" if nothing."""
    op = _op_name(node)
    if (other := operators.other_slot(node, i)) is not None:
        return f"{other.what} of {op}"
    if (other := operators.uncovered_slot(node, i)) is not None:
        return f"{other.what} of {op}: {_NOT_COVERED}"
    row = pass_through(node, i)
    if row is None:
        return ""
    joined = row.joins and not node.constant
    return f"joined with computed values by {op}" if joined else f"handed on by {op} under a name defined twice"


def _output_text(scope: Scope) -> str:
    return f"output of subgraph {scope.label}" if scope.label else "graph output"


def _op_name(node: Node | None) -> str:
    if node is None:
        return "?"
    return f"{node.domain} {node.op_type}" if node.domain else node.op_type


def _dtype_name(data_type: int) -> str:
    """Lower-case name of a TensorProto data type, "double" as numpy says it."""
    try:
        name = str(TensorProto.DataType.Name(data_type))
    except ValueError:
        return f"data type {data_type}"
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(name, name.lower())


def _unique_names(tensors: list[StoredTensor]) -> list[str]:
    """The tensors' names; where one is taken twice, those in subgraphs get their subgraph in front, others a number."""
    counts = Counter(tensor.name for tensor in tensors)
    taken = {name for name, count in counts.items() if count == 1}
    numbers: Counter[str] = Counter()
    names: list[str] = []
    for tensor in tensors:
        name = tensor.name
        if counts[name] > 1:
            label = tensor.scope.label if tensor.scope is not None else ""
            name = name if len(name) <= _MOST_LETTERS else f"{name[:_MOST_LETTERS]}..."
            name = _free(f"{label}/{name}" if label else name, taken, numbers)
        names.append(name)
    return names


def _free(wanted: str, taken: set[str], numbers: Counter[str]) -> str:
    """`wanted`, or with the first free number behind it; `numbers` remembers how far each name has come."""
    name = wanted
    while name in taken:
        numbers[wanted] += 1
        name = f"{wanted}#{numbers[wanted] + 1}"
    taken.add(name)
    return name
