"""Adjustments carried out: attributes and lists that count channels say what is left of them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_tools.compaction.mapping.adjustments import Adjustment, Bounds, Counts, Follows, Parts, Picks
from onnx_tools.compaction.mapping.channel_map import Mask, Remaining
from onnx_tools.compaction.mapping.factors import Size
from onnx_tools.compaction.mapping.trace import said
from onnx_tools.compaction.removing.elements import cut, read_integers
from onnx_tools.compaction.removing.graph_edits import GraphEdits
from onnx_tools.errors import InvalidModelFile
from onnx_tools.graph_parts import Node, Reader, Value
from onnx_tools.values import ValueReader

Ints = NDArray[Any]


def adjust(edits: GraphEdits, remaining: Remaining, reader: ValueReader, opset: int) -> None:
    """Carry out all adjustments of a model. Raises `InvalidModelFile` for one that can't be."""
    adjuster = _Adjuster(edits, remaining, reader, opset)
    done = set()
    for adjustment in remaining.map.adjustments:
        key = (type(adjustment), *(getattr(adjustment, field.name) for field in fields(adjustment)))
        if key not in done:
            adjuster.adjust(adjustment)
        done.add(key)
    adjuster.settle()


class _Adjuster:
    def __init__(self, edits: GraphEdits, remaining: Remaining, reader: ValueReader, opset: int) -> None:
        self._edits = edits
        self._remaining = remaining
        self._reader = reader
        self._opset = opset
        self._wanted: dict[Reader, tuple[str, Ints]] = {}

    def adjust(self, adjustment: Adjustment) -> None:
        match adjustment:
            case Follows():
                self._follow(adjustment)
            case Counts():
                self._count(adjustment)
            case Parts():
                self._divide(adjustment)
            case Bounds():
                self._bound(adjustment)
            case Picks():
                self._pick(adjustment)

    def settle(self) -> None:
        """Give lists that are inputs; nodes that read one list and want the same of it go on sharing it."""
        together: dict[tuple[int, str, bytes], tuple[list[Reader], Ints]] = {}
        for reader, (name, ints) in self._wanted.items():
            key = (id(_input(*reader)), ints.dtype.str, ints.tobytes())
            together.setdefault((key[0], name + key[1], key[2]), ([], ints))[0].append(reader)
        for readers, ints in together.values():
            name = self._wanted[readers[0]][0]
            kind = TensorProto.INT32 if ints.itemsize == 4 else TensorProto.INT64
            self._edits.give(readers, ints, int(kind), name)

    def _masks(self, value: Value | None) -> dict[int, Mask]:
        return self._remaining.masks(self._remaining.map.of(value))

    def _sizes(self, value: Value | None) -> list[Size] | None:
        """The sizes of a value's axes when the channels have left."""
        dims = self._remaining.map.shapes.of(value)
        lost = {} if value is None else self._remaining.sizes(value)
        return None if dims is None else [lost.get(axis, size) for axis, size in enumerate(dims)]

    def _list(self, node: Node, name: str, index: int) -> Ints | None:
        """A list that is an attribute or a stored input, as it is wanted so far; None if it is neither."""
        wanted = self._wanted.get(Reader(node, index))
        if wanted is not None:
            return wanted[1]
        attribute = node.attributes.get(name)
        if attribute is not None:
            return np.array(attribute.ints, np.int64)
        value = _input(node, index)
        return None if value is None or value.tensor is None else read_integers(self._reader, value.tensor)

    def _set(self, node: Node, name: str, index: int, ints: Ints) -> None:
        old = self._list(node, name, index)
        if old is not None and np.array_equal(old, ints):
            return
        if name in node.attributes:
            self._edits.attribute(node, name, ints.tolist())
        else:
            self._wanted[Reader(node, index)] = (name, ints)

    def _follow(self, wanted: Follows) -> None:
        node, masks = wanted.node, self._masks(wanted.value)
        if not masks and not self._masks(_input(node, 0)):
            return
        given = self._list(node, "shape", wanted.index)
        if given is None:
            raise _stuck(node, "the shape that it is given is computed")
        before, after = self._sizes(_input(node, 0)), self._sizes(wanted.value)
        copies = node.op_type == "Reshape" and not node.int_attribute("allowzero", 0)
        first = wanted.first
        if node.op_type == "Expand" and after is not None:
            first = len(after) - len(given)
        new = given.copy()
        for axis, size in enumerate(given.tolist(), first):
            if axis in masks and size == len(masks[axis]):
                new[axis - first] = int(masks[axis].sum())
            elif size == 0 and copies:
                new[axis - first] = _copied(axis, before, after)
        self._set(node, "shape", wanted.index, new)

    def _count(self, wanted: Counts) -> None:
        size = self._remaining.sizes(wanted.value).get(wanted.axis)
        if size is None:
            return
        if size % wanted.per:
            raise _stuck(wanted.node, f"{size} channels are left, not a multiple of {wanted.per}")
        self._edits.attribute(wanted.node, wanted.name, size // wanted.per)

    def _divide(self, wanted: Parts) -> None:
        node, axis = wanted.node, wanted.axis
        if axis not in self._masks(_input(node, 0)):
            return
        sizes = []
        for output in node.outputs:
            after = self._sizes(output)
            if after is None or not isinstance(after[axis], int):
                raise _stuck(node, "an output has no known size, or no name")
            sizes.append(int(after[axis] or 0))
        explicit = "split" in node.attributes or node.has_input(1)
        if not explicit and len(set(sizes)) == 1:
            return
        if "num_outputs" in node.attributes:
            self._edits.attribute(node, "num_outputs", None)
        if self._opset < 13:
            self._edits.attribute(node, "split", sizes)
        else:
            self._set(node, "split", 1, np.array(sizes, np.int64))

    def _bound(self, wanted: Bounds) -> None:
        node = wanted.node
        mask = self._masks(_input(node, 0)).get(wanted.axis)
        if mask is None:
            return
        dims, axes = self._remaining.map.shapes.of(_input(node, 0)), self._list(node, "axes", 3)
        for name, index in (("starts", 1), ("ends", 2)):
            bounds = self._list(node, name, index)
            if bounds is None:
                raise _stuck(node, f"its {name} are computed")
            listed = list(range(len(bounds))) if axes is None else axes.tolist()
            place = listed.index(wanted.axis if wanted.axis in listed else wanted.axis - len(dims or ()))
            bounds = bounds.copy()
            bounds[place] = _bound_after(int(bounds[place]), mask)
            self._set(node, name, index, bounds)

    def _pick(self, wanted: Picks) -> None:
        node, axis = wanted.node, wanted.axis
        mask = self._masks(_input(node, 0)).get(axis)
        if mask is None:
            return
        indices = self._list(node, "", 1)
        if indices is None:
            raise _stuck(node, "its indices are computed")
        going = self._masks(node.outputs[0])
        own = {k: going[axis + k] for k in range(indices.ndim) if axis + k in going}
        left = cut(indices, own) % len(mask)
        if not mask[left].all():
            raise _stuck(node, "it picks an entry that left")
        numbers = np.cumsum(mask) - 1
        self._set(node, "", 1, numbers[left].astype(indices.dtype))


def _input(node: Node, index: int) -> Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _copied(axis: int, before: list[Size] | None, after: list[Size] | None) -> int:
    """0, which copies a size of the input, unless the output has another one."""
    old = before[axis] if before is not None and axis < len(before) else None
    new = after[axis] if after is not None else None
    return new if isinstance(old, int) and isinstance(new, int) and old != new else 0


def _bound_after(bound: int, mask: Mask) -> int:
    """A start or an end, counted in the entries that stay; one behind the last entry stays as it is."""
    if bound >= len(mask):
        return bound
    place = max(bound + len(mask), 0) if bound < 0 else bound
    return int(mask[:place].sum())


def _stuck(node: Node, why: str) -> InvalidModelFile:
    return InvalidModelFile(f"{said(node)} can't be adjusted to fewer channels: {why}; keep the channels that it has")
