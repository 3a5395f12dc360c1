"""Many least-squares problems with one matrix, each in features of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from oxiprune_gpu.calibrated.descent import Descent
from oxiprune_gpu.calibrated.low_rank import LowRank

_ROWS = 512
"""Outputs that are worked on together: enough for products to be fast, few enough for those that are slow."""

_MOST_STEPS = 500

_DIRECT = 20
"""Solving a system of n unknowns costs about n**3 / _DIRECT times what its share of all steps does for each n**2."""

_DOUBLE = 1e-6
"""Tolerances below this ask for float64 throughout."""

_NOTHING = 1e-10
"""A residual so small beside what is wanted is rounding: nothing is to be gained."""


class Problem(NamedTuple):
    """V, (outputs, features), zero but where `kept`, for which there V @ matrix is `wanted`.

    `matrix`: positive definite, float64; less the diagonal `added` it has no negative eigenvalue.
    `start`: a V to begin with. The dtype of what is worked on in steps is `dtype`.
    """

    matrix: Any
    added: Any
    wanted: Any
    kept: Any
    start: Any
    dtype: Any

    def solved(self, tolerance: float) -> Any:
        """V, float64. What is above the least of each output's loss is at most `tolerance` of what V gains on `start`.

        That bound is checked, and outputs that don't come below it are solved directly.
        """
        alike = _rows_by_mask(self.kept)
        if self._directly_is_cheaper(alike):
            return self._directly(np.zeros_like(self.start), alike)
        found, done = self._in_steps(tolerance)
        missing = [row for row, there in enumerate(done) if not there]
        return self._directly(found, [[row] for row in missing])

    def _directly_is_cheaper(self, alike: Sequence[Sequence[int]]) -> bool:
        sizes = self.kept[[rows[0] for rows in alike]].sum(axis=1, dtype=np.float64)
        return bool((sizes**3).sum() <= _DIRECT * self.kept.size * self.kept.shape[1])

    def _directly(self, found: Any, alike: Sequence[Sequence[int]]) -> Any:
        """One system for all outputs that keep the same."""
        for rows in alike:
            places = np.flatnonzero(self.kept[rows[0]])
            chosen = np.asarray(rows, like=places)[:, None], places
            found[chosen] = np.linalg.solve(self.matrix[places[:, None], places], self.wanted[chosen].T).T
        return found

    def _in_steps(self, tolerance: float) -> tuple[Any, list[bool]]:
        """V by conjugate gradients, and which of its rows are done."""
        dtype = np.float64 if tolerance < _DOUBLE else self.dtype
        scale = 1 / np.sqrt(np.diagonal(self.matrix))
        scaled = self.matrix * scale
        scaled *= scale[:, None]
        near = LowRank(scaled, float((self.added * scale**2).min()), dtype)
        scaled = scaled.astype(dtype)
        found, done = np.empty_like(self.start), []
        for first in range(0, len(found), _ROWS):
            part = slice(first, first + _ROWS)
            found[part], there = self._part_in_steps(part, scaled, scale, near, tolerance)
            done += there.tolist()
        return found, done

    def _part_in_steps(self, part: slice, scaled: Any, scale: Any, near: LowRank, tolerance: float) -> tuple[Any, Any]:
        kept = self.kept[part].astype(scaled.dtype)
        residual = self._residual(part, self.start[part]) * scale
        size = _norms(residual)
        counts = size > _NOTHING * _norms(self.wanted[part] * scale)
        residual, size = residual * counts, np.where(counts, size, 1.0)  # of size 1, squares of float32 stay in range
        parts = near.of(kept)
        descent = Descent(scaled, (residual / size).astype(scaled.dtype), kept, parts, near.lowest)
        for _ in range(_MOST_STEPS):
            if bool((4 * descent.excess <= tolerance * descent.gain).all()):
                break
            descent.step()
        found = self.start[part] + descent.found * size * scale
        drift = (self._residual(part, found) * scale / size - descent.residual).astype(scaled.dtype)
        apart = np.abs(drift * parts.solve(drift)).sum(axis=1) / near.lowest
        return found, (np.sqrt(descent.excess) + np.sqrt(apart)) ** 2 <= tolerance * descent.gain

    def _residual(self, part: slice, found: Any) -> Any:
        return (self.wanted[part] - found @ self.matrix) * self.kept[part]


def _norms(rows: Any) -> Any:
    return np.sqrt((rows**2).sum(axis=1, keepdims=True))


def _rows_by_mask(kept: Any) -> list[list[int]]:
    """The rows that keep the same, together."""
    bits = np.packbits(kept if isinstance(kept, np.ndarray) else kept.get(), axis=1)
    found: dict[bytes, list[int]] = {}
    for row, packed in enumerate(bits):
        found.setdefault(packed.tobytes(), []).append(row)
    return list(found.values())
