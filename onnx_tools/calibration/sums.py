"""Sums over rows: how many, of each feature, of squares, and of products of features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_tools.calibration.products import Products
from onnx_tools.calibration.rows import Rows

BLOCK = 1 << 21
"""Elements of the rows that are worked on at once."""

Sum = NDArray[np.float64]


@dataclass(frozen=True)
class Statistics:
    """Sums over the rows that a weight's matrices (groups, outputs, features) were multiplied with, in float64.

    `samples`: rows of each group. `sums`, `squares`: of each feature, (groups, features). `hessian`: X.T @ X of each
    group, (groups, features, features), where that was asked for: products in float32 (float64 for inputs of that
    type), added up in float64. Along the groups an array may repeat itself, so never write to it.

    `dense_sums`, `dense_squares`, `cross`: where the rows are those of a pruned model, the same sums of the rows D that
    the dense one has in their place, and X.T @ D where the hessian was asked for.
    """

    samples: int
    sums: Sum
    squares: Sum
    hessian: Sum | None = None
    dense_sums: Sum | None = None
    dense_squares: Sum | None = None
    cross: Sum | None = None

    @property
    def means(self) -> Sum:
        """The mean of each feature, (groups, features)."""
        found: Sum = self.sums / max(self.samples, 1)
        return found

    @property
    def dense_means(self) -> Sum:
        """The mean of each feature in the dense model, (groups, features)."""
        if self.dense_sums is None:
            return self.means
        found: Sum = self.dense_sums / max(self.samples, 1)
        return found

    @property
    def finite(self) -> bool:
        """Whether no input was NaN, infinite, or too large."""
        arrays = (self.sums, self.squares, self.hessian, self.dense_sums, self.dense_squares, self.cross)
        return all(bool(np.isfinite(array).all()) for array in arrays if array is not None)

    def __add__(self, other: Statistics) -> Statistics:
        """The sums over the rows of both."""
        return Statistics(
            self.samples + other.samples,
            self.sums + other.sums,
            self.squares + other.squares,
            _added(self.hessian, other.hessian),
            _added(self.dense_sums, other.dense_sums),
            _added(self.dense_squares, other.dense_squares),
            _added(self.cross, other.cross),
        )

    def for_groups(self, groups: int) -> Statistics:
        """The same for so many groups, if they all have the same rows."""
        found = (self.sums, self.squares, self.hessian, self.dense_sums, self.dense_squares, self.cross)
        sums, squares, *others = (
            None if array is None else np.broadcast_to(array, (groups, *array.shape[1:])) for array in found
        )
        assert sums is not None
        assert squares is not None
        return Statistics(self.samples, sums, squares, *others)


def _added(one: Sum | None, other: Sum | None) -> Sum | None:
    """The sum; None where one of them is not known."""
    return None if one is None or other is None else one + other


class Adder:
    """Adds rows up, block by block, of so many features, and of so many groups or of one for all of them."""

    def __init__(self, groups: int, features: int, *, hessian: bool) -> None:
        self._shapes = ((groups, features), (1, features))
        self._hessian = Products() if hessian else None
        self._cross = Products()
        self._samples = 0
        self._sums: Any = 0.0
        self._squares: Any = 0.0
        self._dense_sums: Any = None
        self._dense_squares: Any = None

    def add(self, rows: Rows, dense: Rows | None = None) -> None:
        """Add rows, beside those that the dense model has in their place.

        Raises `ValueError` for those of other groups or features, and for others in number.
        """
        with np.errstate(all="ignore"):
            if dense is None:
                for block in rows.blocks(BLOCK):
                    self._add(block)
                return
            for block, other in zip(rows.blocks(BLOCK), dense.blocks(BLOCK), strict=True):
                self._add(block)
                self._compare(block, other)

    def result(self) -> Statistics | None:
        """The sums; None if there was no row."""
        if not self._samples:
            return None
        hessian = None if self._hessian is None else self._hessian.result()
        dense = self._dense_sums, self._dense_squares, self._cross.result()
        return Statistics(self._samples, self._sums, self._squares, hessian, *dense)

    def _add(self, block: NDArray[Any]) -> None:
        if block.shape[::2] not in self._shapes:
            raise ValueError(f"rows of {block.shape[::2]} and a weight of {self._shapes[0]}")
        self._samples += block.shape[1]
        self._sums = self._sums + block.sum(axis=1, dtype=np.float64)
        self._squares = self._squares + np.einsum("gsf,gsf->gf", block, block, dtype=np.float64)
        if self._hessian is not None:
            self._hessian.add(block)

    def _compare(self, block: NDArray[Any], dense: NDArray[Any]) -> None:
        if block.shape != dense.shape:
            raise ValueError(f"rows of {block.shape} and of {dense.shape} in the dense model")
        self._dense_sums = _plus(self._dense_sums, dense.sum(axis=1, dtype=np.float64))
        squares = np.einsum("gsf,gsf->gf", dense, dense, dtype=np.float64)
        self._dense_squares = _plus(self._dense_squares, squares)
        if self._hessian is not None:
            self._cross.add(block, dense)


def _plus(total: Any, more: Sum) -> Any:
    return more if total is None else total + more
