"""A stored weight as matrices (groups, outputs, features), whose features are in the order of what is observed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from onnx_tools.layout import Layout, Piece, joined_pieces


@dataclass(frozen=True)
class MatrixView:
    """Which stored element is which entry of the matrices.

    `groups`, `outputs`, `features`: each axis of the matrices as pieces (stride, size) over the elements of the weight
    as it is stored, in row-major order, from the outermost. `neighbours`: of so many features in a row each run is the
    reduction axis of the operator (the input channels of a convolution, at one position of its kernel).
    """

    groups: tuple[Piece, ...]
    outputs: tuple[Piece, ...]
    features: tuple[Piece, ...]
    neighbours: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(groups, outputs, features)."""
        groups, outputs, features = (prod(size for _, size in axis) for axis in self._axes)
        return groups, outputs, features

    def matrices(self, stored: NDArray[Any]) -> NDArray[Any]:
        """The elements of the weight, in the shape and order it is stored in, as a new array of `shape`."""
        return self._strided(np.ascontiguousarray(stored).reshape(-1)).reshape(self.shape).copy()

    def stored(self, matrices: NDArray[Any]) -> NDArray[Any]:
        """The reverse: the elements in the order they are stored in, flat, with their bits."""
        found = np.empty(matrices.size, matrices.dtype)
        strided = self._strided(found)
        strided[...] = matrices.reshape(strided.shape)
        return found

    @property
    def _axes(self) -> tuple[tuple[Piece, ...], ...]:
        return self.groups, self.outputs, self.features

    def _strided(self, flat: NDArray[Any]) -> NDArray[Any]:
        pieces = [piece for axis in self._axes for piece in axis]
        assert prod(size for _, size in pieces) == flat.size
        return as_strided(flat, [size for _, size in pieces], [stride * flat.itemsize for stride, _ in pieces])


def matrix_view(
    layout: Layout, groups: Sequence[int], outputs: Sequence[int], features: Sequence[int]
) -> MatrixView | str:
    """The view in which axes of a weight, as its reader sees them in `layout`, are those of matrices.

    The last of `features` is the reduction axis. Only outputs may be read in part by this reader, or be joined with
    others: that says nothing about what the features are. Gives the reason where there is no such view.
    """
    if layout.axes is None:
        return layout.why
    if any(layout.axes[axis].cut for axis in (*groups, *features)):
        return "its reader sees a part of its inputs only, or more than them"
    found: list[tuple[Piece, ...]] = []
    for axes in (groups, outputs, features):
        pieces = [layout.axes[axis].pieces for axis in axes]
        found.append(joined_pieces(tuple(piece for each in pieces for piece in each or ())))
        if None in pieces:
            return "an axis is mixed with others by Reshape"
    if not _is_whole([piece for axis in found for piece in axis], prod(layout.stored)):
        return "its reader sees a part of it only"
    return MatrixView(found[0], found[1], found[2], (layout.axes[features[-1]].size or 1) if features else 1)


def _is_whole(pieces: Sequence[Piece], elements: int) -> bool:
    """Whether pieces run over each of so many elements once."""
    extent = 1
    for stride, size in sorted(pieces):
        if stride != extent:
            return False
        extent *= size
    return extent == elements > 0
