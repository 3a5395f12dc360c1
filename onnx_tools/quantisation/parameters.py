"""The stored tensors of scales and zero points, and which of their elements belongs to which of the weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

from onnx_tools.graph_parts import CONSTANT, INITIALIZER, Node, StoredTensor, Value
from onnx_tools.layout import MOST_AXES, Layout
from onnx_tools.quantisation.kinds import KINDS, SCALE_DTYPES, Kind
from onnx_tools.quantisation.scheme import Grid, Parameter, Quantisation

GridOf = Callable[[tuple[int, ...]], Grid | str]
"""The grid of a parameter of some shape, or what is wrong with that."""


@dataclass(frozen=True)
class Sharing:
    """How a weight in `layout` shares scales along `axis`: one an entry, or one for `block` neighbours.

    `lines`: axis 0 stands alone (the directions of an LSTM); a parameter of one axis goes along it, others along it
    and `axis`, which is the last.
    """

    layout: Layout
    axis: int | None
    block: int = 0
    lines: bool = False

    def grid_of(self, shape: tuple[int, ...]) -> Grid | str:
        """See `GridOf`."""
        if prod(shape) == 1:
            return Grid()
        sizes = self.layout.shape
        if sizes is None:
            return f"goes along an axis that is lost: {self.layout.why}"
        if self.axis is None or not -len(sizes) <= self.axis < len(sizes):
            return f"of shape {list(shape)} goes along an axis that the weight has not"
        if self.block:
            return self._blocks(shape, self.axis % len(sizes), self.block)
        if self.lines and len(shape) > 1:
            return self._blocks((shape[0], 1, *shape[1:]), 1, sizes[1] or 0)
        return self._entries(shape, 0 if self.lines else self.axis)

    def _entries(self, shape: tuple[int, ...], axis: int) -> Grid | str:
        assert self.layout.axes is not None
        run = self.layout.axes[axis].run()
        if self.layout.axes[axis].cut or run is None:
            return "goes along an axis that was cut or mixed with others before"
        if shape != (run[1],):
            return f"of shape {list(shape)} does not fit the {run[1]} entries of its axis"
        return Grid(run[1], run[0])

    def _blocks(self, shape: tuple[int, ...], axis: int, block: int) -> Grid | str:
        sizes = self.layout.row_major_shape()
        if sizes is None:
            return "has blocks of a weight that is rearranged before"
        wanted = (*sizes[:axis], -(-sizes[axis] // max(block, 1)), *sizes[axis + 1 :])
        if block < 1 or shape != wanted:
            return f"of shape {list(shape)} does not fit blocks of {block} along axis {axis} of {list(sizes)}"
        return Grid(sizes[axis], prod(sizes[axis + 1 :]), block)


def scale_at(node: Node, index: int, grid_of: GridOf) -> Parameter | str:
    """The scales that `node` reads at `index`, or what is wrong with them."""
    tensor = stored_input(node, index)
    if tensor is None:
        return "its scale is not stored data"
    if tensor.data_type not in SCALE_DTYPES:
        return "its scale is not floating point"
    return _parameter(tensor, "scale", grid_of)


def zero_point_at(node: Node, index: int, kind: Kind, grid_of: GridOf, packed_row: int = 0) -> Parameter | str | None:
    """The zero points that `node` reads at `index`, None if none are given, or what is wrong with them."""
    if not node.has_input(index):
        return None
    tensor = stored_input(node, index)
    if tensor is None:
        return "its zero point is not stored data"
    found = KINDS.get(tensor.data_type)
    if found is None or (found != kind and not (packed_row and found.name == "uint8")):
        return f"its zero point is of another type than {kind.name}"
    return _parameter(tensor, "zero point", grid_of, packed_row)


def quantisation_of(
    quantisation: Quantisation, scale: Parameter | str | None, zero_point: Parameter | str | None
) -> Quantisation | str:
    """A quantisation with its parameters, or what is wrong with one of them."""
    if isinstance(scale, str):
        return scale
    if isinstance(zero_point, str):
        return zero_point
    return replace(quantisation, scale=scale, zero_point=zero_point)


def _parameter(tensor: StoredTensor, what: str, grid_of: GridOf, packed_row: int = 0) -> Parameter | str:
    grid = grid_of(tensor.shape)
    if isinstance(grid, str):
        return f"its {what} {grid}"
    return Parameter(tensor.path, tensor.data_type, prod(tensor.shape), grid, packed_row)


def input_value(node: Node, index: int) -> Value | None:
    """The value that `node` reads at `index`; None if there is none."""
    return node.inputs[index] if index < len(node.inputs) else None


def stored_input(node: Node, index: int) -> StoredTensor | None:
    """The tensor stored in the model, not empty, that `node` reads at `index`; None if it reads no such thing."""
    value = input_value(node, index)
    if value is None or value.duplicated or value.fed or value.tensor is None:
        return None
    tensor = value.tensor
    possible = len(tensor.shape) <= MOST_AXES and min(tensor.shape, default=1) > 0
    return tensor if possible and tensor.place in (INITIALIZER, CONSTANT) else None
