"""X.T @ X and X.T @ Y, added up over rows that come in blocks, also in very small ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_SAMPLES = 4096
"""Rows whose products are added up in float32."""
_FEW_SAMPLES = 512
"""Fewer rows wait for others: to add a product to the sum takes as long as to multiply some hundred rows."""
_PANEL = 512
"""Rows of the sum that are worked on at once, from the diagonal on: what is below it is the same as above."""

Sum = NDArray[np.float64]


class Products:
    """The sum of X.T @ X, or X.T @ Y, of each group: products in the dtype of the rows, added up in float64."""

    def __init__(self) -> None:
        self._sum: Any = None
        self._waiting: list[NDArray[Any]] = []
        self._count = 0

    @staticmethod
    def kept(groups: int, features: int, width: int) -> int:
        """Bytes that are taken all the time, for rows of elements of `width` bytes."""
        return groups * features * (8 * features + width * _few(features))

    @staticmethod
    def work(groups: int, features: int, width: int) -> int:
        """Bytes that adding takes for a while."""
        return width * groups * features * min(features, _PANEL)

    def add(self, *blocks: NDArray[Any]) -> None:
        """Add rows of X, and of Y where that is another, (groups, samples, features), of the same sizes each time."""
        groups, samples, features = blocks[0].shape
        few = _few(features)
        if self._sum is None:
            self._sum = np.zeros((groups, features, features))
            self._waiting = [np.empty((groups, few, features), block.dtype) for block in blocks]
        if samples >= few:
            for start in range(0, samples, _MOST_SAMPLES):
                self._multiply([block[:, start : start + _MOST_SAMPLES] for block in blocks])
            return
        if self._count + samples > few:
            self._multiply_waiting()
        for waiting, block in zip(self._waiting, blocks, strict=True):
            waiting[:, self._count : self._count + samples] = block
        self._count += samples

    def result(self) -> Sum | None:
        """The sum so far, (groups, features, features); None if there was no row."""
        if self._sum is not None:
            self._multiply_waiting()
        if len(self._waiting) == 1:
            _mirror(self._sum)
        found: Sum | None = self._sum
        return found

    def _multiply_waiting(self) -> None:
        self._multiply([rows[:, : self._count] for rows in self._waiting])
        self._count = 0

    def _multiply(self, rows: Sequence[NDArray[Any]]) -> None:
        """Add a product; of X.T @ X what lies on the diagonal or above it."""
        left, right = rows[0], rows[-1]
        for start in range(0, left.shape[2], _PANEL):
            first = start if len(rows) == 1 else 0
            panel = left[:, :, start : start + _PANEL].swapaxes(1, 2)
            self._sum[:, start : start + _PANEL, first:] += panel @ right[:, :, first:]


def _few(features: int) -> int:
    return min(features, _FEW_SAMPLES)


def _mirror(matrices: Sum) -> None:
    """Make what is below the diagonal the same as above."""
    for start in range(0, matrices.shape[1], _PANEL):
        stop = start + _PANEL
        square = matrices[:, start:stop, start:stop]
        square[...] = np.triu(square) + np.triu(square, 1).swapaxes(1, 2)
        matrices[:, stop:, start:stop] = matrices[:, start:stop, stop:].swapaxes(1, 2)
