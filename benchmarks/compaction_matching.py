"""Which entries of stored weights left a model, found by comparing it with the original; and the original without them.

What a node reads must be what it read before without some entries of its axes. The masked model is the original with
those entries zeroed, in a copy for each reader. Only weights of two axes and more are compared: biases stay, since what
a channel carries is multiplied by zeros where it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

LARGEST_SEARCH = 4_000_000
"""Elements of a weight whose lines are searched one by one; in larger ones every line must have a value of its own."""


class Unmatched(Exception):
    """What a node reads is not what it read before without some entries."""


@dataclass(frozen=True)
class Reading:
    """A stored tensor, and the input of a node that reads it."""

    node: onnx.NodeProto
    index: int
    tensor: onnx.TensorProto


def readings(graph: onnx.GraphProto, outer: dict[str, onnx.TensorProto], at: str = "") -> Iterator[tuple[str, Reading]]:
    """Everything stored that a node reads, with a name for the reader; subgraphs see the tensors of the outer graph."""
    stored = outer | {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            stored[node.output[0]] = node.attribute[0].t
    for node in graph.node:
        name = f"{at}/{next(filter(None, node.output), '')}"
        for index, read in enumerate(node.input):
            if read in stored:
                yield f"{name}:{index}", Reading(node, index, stored[read])
        for attribute in node.attribute:
            for number, inner in enumerate([attribute.g] if attribute.HasField("g") else attribute.graphs):
                yield from readings(inner, stored, f"{name}.{attribute.name}{number}")


def masked(before: onnx.ModelProto, after: onnx.ModelProto) -> onnx.ModelProto:
    """The original with zeros where AFTER has nothing.

    Raises:
        Unmatched: what a node reads is not part of what it read before.
    """
    found = onnx.ModelProto()
    found.CopyFrom(before)
    found.ir_version = max(found.ir_version, 4)  # before, every initializer must be an input too
    now = dict(readings(after.graph, {}))
    for number, (name, reading) in enumerate(list(readings(found.graph, {}))):
        if name in now and len(reading.tensor.dims) > 1 and reading.tensor.dims != now[name].tensor.dims:
            old, new = (numpy_helper.to_array(tensor) for tensor in (reading.tensor, now[name].tensor))
            stays = kept_by_groups(old, new, groups_of(reading.node), name)
            values = np.where(stays, old, zero_of(found.graph, reading)).astype(old.dtype)
            reading.node.input[reading.index] = f"masked{number}"
            found.graph.initializer.append(numpy_helper.from_array(values, f"masked{number}"))
    return found


def zero_of(graph: onnx.GraphProto, reading: Reading) -> Any:
    """What stands for zero in a weight: the zero point where it is quantised."""
    if reading.node.op_type != "DequantizeLinear" or len(reading.node.input) < 3:
        return 0
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    point = stored[reading.node.input[2]]
    axis = next((a.i for a in reading.node.attribute if a.name == "axis"), 1)
    rank = len(reading.tensor.dims)
    return point.reshape([-1 if at == axis % rank else 1 for at in range(rank)]) if point.ndim == 1 else point


def groups_of(node: onnx.NodeProto) -> int:
    """How many groups of channels a convolution has; 1 for what has none."""
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


def kept_by_groups(old: Any, new: Any, groups: int, name: str) -> Any:
    """As `kept`, where each group of a convolution may have lost other input channels."""
    if groups == 1 or old.shape[1] == new.shape[1] or len(new) % groups:
        return kept(old, new, name)
    blocks = zip(np.split(old, groups), np.split(new, groups), strict=True)
    return np.concatenate([kept(some, others, name) for some, others in blocks])


def kept(old: Any, new: Any, name: str) -> Any:
    """Which elements of `old` are those of `new`, in their order."""
    cut = [axis for axis in range(old.ndim) if old.shape[axis] != new.shape[axis]]
    if old.ndim != new.ndim or len(cut) > 2:
        raise Unmatched(f"{name}: {old.shape} has become {new.shape}")
    lines = by_value(old, new, cut) or by_search(old, new, cut)
    whole = [lines[cut.index(axis)] if axis in cut else np.arange(old.shape[axis]) for axis in range(old.ndim)]
    if not np.array_equal(old[np.ix_(*whole)], new):
        raise Unmatched(f"{name}: its values are not those that were there")
    stays = np.zeros(old.shape, bool)
    stays[np.ix_(*whole)] = True
    return stays


def by_value(old: Any, new: Any, cut: list[int]) -> list[Any] | None:
    """Find the lines along the axes `cut` by values that occur once; None where some have no such value."""
    values, first, counts = np.unique(old, return_index=True, return_counts=True)
    at = np.minimum(np.searchsorted(values, new.reshape(-1)), values.size - 1)
    sure = (values[at] == new.reshape(-1)) & (counts[at] == 1)
    theirs = np.unravel_index(first[at[sure]], old.shape)
    ours = np.unravel_index(np.flatnonzero(sure), new.shape)
    lines = []
    for axis in cut:
        line = np.full(new.shape[axis], -1)
        line[ours[axis]] = theirs[axis]
        if (line < 0).any():
            return None
        lines.append(line)
    return lines


def by_search(old: Any, new: Any, cut: list[int]) -> list[Any]:
    """The same, line by line: the first lines in which those of `new` are found in their order."""
    if old.size > LARGEST_SEARCH:
        raise Unmatched("too large to be searched")
    old, new = (np.moveaxis(values, cut, range(len(cut))) for values in (old, new))
    if len(cut) == 1:
        return [in_order(old, new)]
    rows, after = [], 0
    for line in new:
        matching = (row for row in range(after, len(old)) if is_part(old[row], line))
        rows.append(next(matching, len(old) - 1))
        after = rows[-1] + 1
    return [np.array(rows), in_order(np.moveaxis(old[rows], 1, 0), np.moveaxis(new, 1, 0))]


def is_part(old: Any, new: Any) -> bool:
    """Whether the entries of `new` are among those of `old`, in their order."""
    try:
        in_order(old, new)
    except Unmatched:
        return False
    return True


def in_order(old: Any, new: Any) -> Any:
    """Where the entries of `new` stand in `old`, each behind the one before."""
    entries = iter(enumerate(entry.tobytes() for entry in old))
    wanted = [entry.tobytes() for entry in new]
    places = [next((at for at, entry in entries if entry == want), -1) for want in wanted]
    if -1 in places:
        raise Unmatched("an entry is not among those that were there")
    return np.array(places)


def elements(model: onnx.ModelProto) -> int:
    """Stored numbers, also those in subgraphs and in Constant nodes."""
    tensors = {id(reading.tensor): reading.tensor for _, reading in readings(model.graph, {})}
    return sum(int(np.prod(tensor.dims)) for tensor in tensors.values())
