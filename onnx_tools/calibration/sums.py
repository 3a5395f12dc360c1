"""Sums over rows: how many, of each feature, of squares, and of products of features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_tools.calibration.rows import Rows

BLOCK = 1 << 21
"""Elements of the rows that are worked on at once."""

_MOST_SAMPLES = 4096
"""Rows whose products are added up in float32."""

Sum = NDArray[np.float64]


@dataclass(frozen=True)
class Statistics:
    """Sums over the rows that a weight's matrices (groups, outputs, features) were multiplied with, in float64.

    `samples`: rows of each group. `sums`, `squares`: of each feature, (groups, features). `hessian`: X.T @ X of each
    group, (groups, features, features), where that was asked for: products in float32 (float64 for inputs of that
    type), added up in float64. Along the groups an array may repeat itself, so never write to it.
    """

    samples: int
    sums: Sum
    squares: Sum
    hessian: Sum | None = None

    @property
    def means(self) -> Sum:
        """The mean of each feature, (groups, features)."""
        found: Sum = self.sums / max(self.samples, 1)
        return found

    @property
    def finite(self) -> bool:
        """Whether no input was NaN, infinite, or too large."""
        arrays = (self.sums, self.squares, *([] if self.hessian is None else [self.hessian]))
        return all(bool(np.isfinite(array).all()) for array in arrays)

    def __add__(self, other: Statistics) -> Statistics:
        """The sums over the rows of both."""
        both = self.hessian is not None and other.hessian is not None
        return Statistics(
            self.samples + other.samples,
            self.sums + other.sums,
            self.squares + other.squares,
            self.hessian + other.hessian if both else None,  # type: ignore[operator]
        )

    def for_groups(self, groups: int) -> Statistics:
        """The same for so many groups, if they all have the same rows."""
        found = (self.sums, self.squares, self.hessian)
        sums, squares, hessian = (
            None if array is None else np.broadcast_to(array, (groups, *array.shape[1:])) for array in found
        )
        assert sums is not None
        assert squares is not None
        return Statistics(self.samples, sums, squares, hessian)


class Adder:
    """Adds rows up, block by block, of so many features, and of so many groups or of one for all of them."""

    def __init__(self, groups: int, features: int, *, hessian: bool) -> None:
        self._shapes = ((groups, features), (1, features))
        self._wants_hessian = hessian
        self._samples = 0
        self._sums: Any = 0.0
        self._squares: Any = 0.0
        self._hessian: Any = None

    def add(self, rows: Rows) -> None:
        """Add rows. Raises `ValueError` for those of other groups or features."""
        with np.errstate(all="ignore"):
            for block in rows.blocks(BLOCK):
                if block.shape[::2] not in self._shapes:
                    raise ValueError(f"rows of {block.shape[::2]} and a weight of {self._shapes[0]}")
                self._samples += block.shape[1]
                self._sums = self._sums + block.sum(axis=1, dtype=np.float64)
                self._squares = self._squares + np.einsum("gsf,gsf->gf", block, block, dtype=np.float64)
                if self._wants_hessian:
                    self._multiply(block)

    def result(self) -> Statistics | None:
        """The sums; None if there was no row."""
        if not self._samples:
            return None
        return Statistics(self._samples, self._sums, self._squares, self._hessian)

    def _multiply(self, block: NDArray[Any]) -> None:
        groups, samples, features = block.shape
        if self._hessian is None:
            self._hessian = np.zeros((groups, features, features))
        for start in range(0, samples, _MOST_SAMPLES):
            part = block[:, start : start + _MOST_SAMPLES]
            for number, rows in enumerate(part):
                self._hessian[number] += rows.T @ rows
