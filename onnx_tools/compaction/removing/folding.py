"""Folds carried out: constants that channels leave behind are added to biases, or by an Add behind a node."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import FunctionProto, NodeProto, TensorProto

from onnx_tools.compaction.constants.folds import Fold
from onnx_tools.compaction.mapping.channel_map import Remaining
from onnx_tools.compaction.mapping.trace import said
from onnx_tools.compaction.removing.elements import cut, read
from onnx_tools.compaction.removing.graph_edits import GraphEdits, holds_data
from onnx_tools.graph_parts import Node, Reader, StoredTensor, Value
from onnx_tools.model_file import DTYPES
from onnx_tools.values import ValueReader

_BIASES = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "BatchNormalization": 2}
"""Where operators take a bias of one number a channel, along axis 1 of their output."""


def foldable(node: Node) -> bool:
    """Whether a constant can be added to what a node gives: it is an operator without data or graphs in attributes."""
    output = node.outputs[0] if node.outputs else None
    return not (output is None or output.duplicated or node.local or holds_data(node) or node.path[0][0] != "graph")


def fold(edits: GraphEdits, remaining: Remaining, reader: ValueReader, opset: int, folds: Sequence[Fold]) -> None:
    """Add constants to what nodes give.

    Sums are made in float64 and rounded once, to the type of the layer. Raises `ValueError` for a node that is not
    `foldable`, and for one whose bias, or output, is not of floats.
    """
    folder = _Folder(edits, remaining, reader, opset) if folds else None
    for each in _together(folds):
        if folder is not None:
            folder.fold(each)


def _together(folds: Iterable[Fold]) -> list[Fold]:
    """One fold for each node and axis."""
    found: dict[tuple[Node, int], Fold] = {}
    for each in folds:
        key = (each.node, each.axis)
        found[key] = Fold(*key, found[key].values + each.values) if key in found else each
    return list(found.values())


class _Folder:
    def __init__(self, edits: GraphEdits, remaining: Remaining, reader: ValueReader, opset: int) -> None:
        self._edits = edits
        self._remaining = remaining
        self._reader = reader
        self._opset = opset
        self._types = _types_of(remaining)

    def fold(self, each: Fold) -> None:
        node = each.node
        if not foldable(node):
            raise ValueError(f"{said(node)}: nothing can be added to what it gives")
        masks = self._remaining.masks(self._remaining.map.of(node.outputs[0]))
        values = cut(each.values, {0: masks[each.axis]} if each.axis in masks else {})
        if not values.any():
            return
        if not self._add_to_bias(each, values):
            self._add_behind(each, values)

    def _add_to_bias(self, each: Fold, values: NDArray[np.float64]) -> bool:
        node, index = each.node, _bias_of(each)
        if index is None:
            return False
        value = node.inputs[index] if index < len(node.inputs) else None
        if not node.has_input(index):
            kind = self._type(node)
            name = self._edits.constant(f"{node.own_label}_bias", _rounded(values, kind), kind)
            self._edits.set_input(node, index, name)
            return True
        bias = None if value is None or value.duplicated or value.fed else value.tensor
        if bias is None or bias.shape != each.values.shape:
            return False
        dtype = DTYPES.get(bias.data_type)
        if dtype is None:
            raise ValueError(f"{said(node)}: its bias '{bias.name}' is not of floats")
        old = cut(read(self._reader, bias), self._masks_of(bias)).view(dtype)
        new = _rounded(old.astype(np.float64) + values, bias.data_type)
        self._edits.give([Reader(node, index)], new, bias.data_type, "bias")
        return True

    def _masks_of(self, tensor: StoredTensor) -> dict[int, NDArray[np.bool_]]:
        return self._remaining.masks(self._remaining.map.of(tensor.value))

    def _add_behind(self, each: Fold, values: NDArray[np.float64]) -> None:
        node, kind, edits = each.node, self._type(each.node), self._edits
        dims, output = self._remaining.map.shapes.of(node.outputs[0]), node.outputs[0]
        if dims is None or output is None:
            raise ValueError(f"{said(node)}: the rank of what it gives is not known")
        old_style = self._opset < 7
        shape = (-1,) if old_style else (-1, *(1,) * (len(dims) - 1 - each.axis))
        elements = _rounded(values, kind).reshape(shape)
        bias = edits.constant(f"{node.own_label}_bias", elements, kind)
        inner = edits.free_name(f"{output.name}_without_bias")
        add = NodeProto(op_type="Add", input=[inner, bias], output=[output.name], name=f"{bias}_add")
        if old_style:
            add.attribute.add(name="broadcast", type=2, i=1)
            add.attribute.add(name="axis", type=2, i=each.axis)
        edits.node(node).output[0] = inner
        edits.behind.setdefault(node.path, []).append(add)

    def _type(self, node: Node) -> int:
        """The data type of what a node gives."""
        inputs = [value.tensor.data_type for value in node.inputs if value is not None and value.tensor is not None]
        known = self._types.get(id(node.outputs[0]), next((kind for kind in inputs if kind in DTYPES), 0))
        if known not in DTYPES:
            raise ValueError(f"{said(node)}: what it gives is not known to be of floats")
        return known


def _bias_of(each: Fold) -> int | None:
    """Which input of a node is a bias that a fold can be added to."""
    node = each.node
    scaled = node.op_type == "Gemm" and "beta" in node.attributes and node.attributes["beta"].f != 1
    return None if node.domain or each.axis != 1 or scaled else _BIASES.get(node.op_type)


def _types_of(remaining: Remaining) -> dict[int, int]:
    """The data types of computed values, by the identity of the value."""
    found: dict[int, int] = {}
    for scope in remaining.map.index.scopes:
        for info in () if isinstance(scope.graph, FunctionProto) else (*scope.graph.value_info, *scope.graph.output):
            value: Value | None = scope.values.get(info.name)
            if value is not None and info.type.tensor_type.elem_type:
                found[id(value)] = info.type.tensor_type.elem_type
    return found


def _rounded(values: NDArray[np.float64], data_type: int) -> NDArray[Any]:
    """The nearest numbers of a data type, to even where two are."""
    dtype = DTYPES[data_type]
    if data_type != TensorProto.BFLOAT16:
        return values.astype(dtype)
    # Through float32, whose last bit is made odd where it is not exact: else two roundings would go astray.
    near = values.astype(np.float32)
    bits = np.abs(near).view(np.uint32)
    exact = near.astype(np.float64) == values
    too_far = np.abs(near.astype(np.float64)) > np.abs(values)
    odd = np.where(exact | ~np.isfinite(near), bits, (bits - too_far) | 1).astype(np.uint32)
    return np.copysign(odd.view(np.float32), values).astype(np.float32).astype(dtype)
