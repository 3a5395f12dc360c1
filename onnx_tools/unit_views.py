"""What falls together in a weight of a model: granularities in ONNX's terms, seen in the stored tensor.

On a model `row` is an output channel and `column` an input channel, whatever the layout of the operator; N:M groups
are neighbours along the reduction axis; a block is so many output by so many input channels; a kernel is all
positions of one output and one input channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from onnx_tools.errors import TiedAxes
from onnx_tools.operators import UnitAxis
from onnx_tools.weights import DISAGREE_ON_REDUCTION, Weight
from oxiprune_gpu import (
    NM,
    Axis,
    Block,
    InvalidOption,
    Kernel,
    PruningGranularity,
    StructuredColumn,
    StructuredRow,
    Unstructured,
)


class SeenWeight(NamedTuple):
    """A weight seen in `shape`, its elements in row-major order, in which `granularity` means what the user said."""

    shape: tuple[int, ...]
    granularity: PruningGranularity


def seen(weight: Weight, granularity: PruningGranularity) -> SeenWeight | str:
    """How `granularity` sees the stored elements of `weight`, or the reason why it can't.

    Raises:
        TiedAxes: N:M, and two nodes that share the weight sum over different axes.
        InvalidOption: the granularity has no meaning on a model.
    """
    for kind, see in _VIEWS.items():
        if isinstance(granularity, kind):
            return see(weight, granularity)
    raise InvalidOption(
        f"granularity {granularity.text} is for arrays only; on a model use unstructured, row (output channels), "
        "column (input channels), kernel, block:HxW (output x input channels), or N:M (along the reduction axis)"
    )


def _elements(weight: Weight, granularity: PruningGranularity) -> SeenWeight:
    return SeenWeight(weight.shape, granularity)


def _rows(weight: Weight, granularity: PruningGranularity) -> SeenWeight | str:
    return _slices(weight.rows) or f"no rows: {weight.rows_missing}"


def _columns(weight: Weight, granularity: PruningGranularity) -> SeenWeight | str:
    return _slices(weight.columns) or f"no columns: {weight.columns_missing}"


def _slices(units: UnitAxis | None) -> SeenWeight | None:
    return None if units is None else SeenWeight(units.view_shape, Axis(units.axis, units.groups))


def _groups(weight: Weight, granularity: PruningGranularity) -> SeenWeight | str:
    assert isinstance(granularity, NM)
    if granularity.axis != -1:
        raise InvalidOption(
            f"granularity {granularity.text}: on a model the groups lie along the reduction axis of each weight; "
            f"leave out @{granularity.axis}"
        )
    if weight.columns is None and weight.columns_missing == DISAGREE_ON_REDUCTION:
        raise TiedAxes(weight.name, weight.consumers, granularity.text)
    if weight.columns is None:
        return f"no {granularity.text} groups: {weight.columns_missing}"
    shape, axis = weight.columns.view_shape, weight.columns.axis
    if shape[axis] < granularity.of and (shape[axis] <= granularity.keep or not granularity.pad):
        return f"no {granularity.text} groups: its reduction axis has {shape[axis]} elements"
    return SeenWeight(shape, NM(granularity.keep, granularity.of, axis, granularity.pad))


def _blocks(weight: Weight, granularity: PruningGranularity) -> SeenWeight | str:
    assert isinstance(granularity, Block)
    matrix = _matrix(weight)
    if isinstance(matrix, str):
        return f"no blocks: {matrix}"
    sides = (granularity.height, granularity.width)[:: 1 if matrix.output_first else -1]
    if matrix.extents[0] % sides[0] or matrix.extents[1] % sides[1]:
        output, reduction = matrix.extents[:: 1 if matrix.output_first else -1]
        return f"{output} x {reduction} (output x input) can't be cut into blocks of {granularity.text[6:]}"
    return SeenWeight(matrix.shape, Block(*sides))


def _kernels(weight: Weight, granularity: PruningGranularity) -> SeenWeight | str:
    matrix = _matrix(weight)
    if isinstance(matrix, str):
        return f"no kernels: {matrix}"
    return SeenWeight(matrix.shape, Kernel()) if matrix.shape[2] > 1 else "no kernels: they would be single elements"


class _Matrix(NamedTuple):
    """A weight as (first, second, rest): output and input channels, which one first, and the kernel's positions.

    `extents`: of the first two axes, as far as they go without a border between groups or entries of a batch.
    """

    shape: tuple[int, int, int]
    extents: tuple[int, int]
    output_first: bool


def _matrix(weight: Weight) -> _Matrix | str:
    rows, columns = weight.rows, weight.columns
    if rows is None or columns is None:
        return weight.rows_missing or weight.columns_missing
    if rows.view_shape != columns.view_shape or abs(rows.axis - columns.axis) != 1:
        return "its output and input channels do not lie beside each other"
    first = min(rows.axis, columns.axis)
    shape = rows.view_shape
    groups = max(rows.groups, columns.groups) if first == 0 else 1
    rest = math.prod(shape[first + 2 :])
    seen_as = (math.prod(shape[: first + 1]), shape[first + 1], rest)
    return _Matrix(seen_as, (shape[first] // groups, shape[first + 1]), rows.axis < columns.axis)


_VIEWS: dict[type[PruningGranularity], Callable[[Weight, PruningGranularity], SeenWeight | str]] = {
    Unstructured: _elements,
    StructuredRow: _rows,
    StructuredColumn: _columns,
    NM: _groups,
    Block: _blocks,
    Kernel: _kernels,
}
