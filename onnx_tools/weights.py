"""Which stored tensors of a model are weights, found by who reads them, never by their shape.

Every stored tensor is followed forward, through Reshape, Transpose, Slice and their like, to the nodes that use it.
It is a weight if all of them read it at a weight slot of the op table; else it is left alone, and says why.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto

from onnx_tools import op_table
from onnx_tools.graph_index import GraphIndex
from onnx_tools.graph_parts import Path, StoredTensor, element_count
from onnx_tools.model_file import DTYPES
from onnx_tools.operators import UnitAxis
from onnx_tools.quantisation.scheme import Quantisation
from onnx_tools.readings import Follower, Reading, dtype_name_of
from onnx_tools.reasons import PIECE, reason_of_type, reason_of_use, why_unusable

_MOST_LETTERS = 200
DISAGREE_ON_REDUCTION = "consumers disagree on the reduction axis"
"""`Weight.columns_missing` of a weight that several nodes share and that has no one reduction axis."""


@dataclass(frozen=True)
class Weight:
    """A stored tensor that can be pruned. One mask, however many nodes read it.

    `path`: where its TensorProto lies, or the attribute that holds it as a list of floats. `shape`: of its elements,
    which the file may hold in another one, several to a byte. `dtype`: of the values that it is pruned by, float32 if
    it is quantised. `op_types`, `consumers`: the nodes that use it, each named by its name or first output. `rows`: its
    output channels, `columns`: its input channels (the axis that is summed); None where it has none, and
    `rows_missing`, `columns_missing` say why. `depthwise`: a convolution with one input channel per group. `optional`:
    why it is pruned only if that is asked for, a key of `operators.OPTIONAL`; "" for the others.
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

    def as_weight(
        self, dtype: np.dtype[Any], op_types: tuple[str, ...] = (), consumers: tuple[str, ...] = ()
    ) -> Weight:
        """The same as a weight without rows and columns, to be pruned by a mask."""
        what = (self.name, self.path, self.shape, dtype, self.elements, op_types, consumers)
        return Weight(*what, rows=None, columns=None, rows_missing=self.reason, columns_missing=self.reason)


@dataclass(frozen=True)
class FoundWeights:
    """All stored data of a model, in model order: a graph's initializers, then its nodes with their subgraphs."""

    weights: tuple[Weight, ...]
    left_alone: tuple[LeftAlone, ...]

    def maskable(self) -> dict[str, Weight]:
        """By name: the weights, and what else is stored as floats (biases, normalisations) as if it were one."""
        floats = {str(dtype): dtype for dtype in DTYPES.values()}
        others = (item for item in self.left_alone if item.dtype_name in floats and item.zeros is None)
        found = {item.name: item.as_weight(floats[item.dtype_name]) for item in others}
        return found | {weight.name: weight for weight in self.weights}


def find_weights(model: ModelProto) -> FoundWeights:
    """Find the weights of a model; the skeleton of one will do, since no value of a weight is looked at.

    Everything else that the model stores is listed as left alone, with the reason. Raises nothing, however broken the
    graph is: what can't be understood is left alone.
    """
    index = GraphIndex(model)
    follower = Follower(index)
    names = _unique_names(index.tensors)
    found = [_judge(tensor, name, follower) for tensor, name in zip(index.tensors, names, strict=True)]
    return FoundWeights(
        tuple(item for item in found if isinstance(item, Weight)),
        tuple(item for item in found if isinstance(item, LeftAlone)),
    )


def _judge(tensor: StoredTensor, name: str, follower: Follower) -> Weight | LeftAlone:
    """Weight or not: first by how it is stored, then by who reads it."""
    if (held := _held(tensor, name)) is not None:
        return held
    reason = PIECE if follower.is_piece(tensor) else why_unusable(tensor)
    readings = [] if reason else follower.readings(tensor)
    usable = tensor.data_type in DTYPES or any(reading.passage.quantisation for reading in readings)
    reason = reason or (reason_of_use(readings) if usable else reason_of_type(tensor, readings))
    if reason:
        what = (name, tensor.path, tensor.shape, dtype_name_of(tensor.data_type), element_count(tensor.shape))
        return LeftAlone(*what, reason, tensor.zeros)
    return _weight(tensor, name, readings)


def _weight(tensor: StoredTensor, name: str, readings: list[Reading]) -> Weight:
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
    slot = op_table.attribute_slot(node, attribute.name)
    if slot is None or node.attributes.get(attribute.name) != attribute:
        return None
    by_caller = any(other.ref_attr_name for other in node.proto.attribute)
    axes = "its outputs are given by the caller" if by_caller else slot.axes(node, tensor.shape[0])
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


def _is_depthwise(reading: Reading) -> bool:
    shape = reading.layout.shape if reading.layout else None
    return bool(reading.slot and reading.node and shape and reading.slot.is_depthwise(reading.node, shape))


def _units(reading: Reading, which: int) -> UnitAxis | str:
    """The stored units along a consumer's output (0) or reduction (1) axis, or why there are none."""
    node, slot, layout = reading.node, reading.slot, reading.layout
    assert node is not None
    assert slot is not None
    assert layout is not None
    if layout.axes is None:
        return layout.why
    axis = slot.axes(node, len(layout.axes))[which]
    run = slot.runs_of(node, slot.index, len(layout.axes))[which] if slot.runs_of is not None else None
    if axis is None and run is not None:
        return layout.joined(run).unit_axis(run.start)
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
