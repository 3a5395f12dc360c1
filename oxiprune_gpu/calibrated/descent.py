"""Conjugate gradients that know how far from the solution they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from oxiprune_gpu.calibrated.low_rank import SubMatrices


class Descent:
    """Systems V @ matrix = wanted in what each output keeps, all worked on together from V = 0.

    Preconditioned conjugate gradients (Hestenes and Stiefel, 1952). The error, V - solution, is measured by the matrix,
    as error @ matrix @ error: in least squares that is the loss above the least. `excess` bounds it by the Gauss-Radau
    rule (Golub and Meurant, 1994; in the form of Meurant and Tichý, 2013, "On computing quadrature-based bounds for the
    A-norm of the error in conjugate gradients"), which needs a lower bound of the eigenvalues: `lowest`.

    Args:
        matrix: (features, features).
        wanted: (outputs, features), zero where nothing is kept; becomes the residual.
        kept: (outputs, features) of 0 and 1.
        near: what the matrix is like, in what each output keeps.
        lowest: a lower bound of the eigenvalues of near^-1 @ matrix.
    """

    def __init__(self, matrix: Any, wanted: Any, kept: Any, near: SubMatrices, lowest: float) -> None:
        self._matrix = matrix
        self._kept = kept
        self._near = near
        self._lowest = lowest / 2  # well below: where the bound meets an eigenvalue, rounding would decide
        self.residual = wanted
        self.found = np.zeros_like(wanted)
        self._direction = near.solve(wanted)
        self._power = _products(wanted, self._direction)
        self._bound = np.full_like(self._power, 1 / self._lowest)
        self.gain = np.zeros_like(self._power)

    @property
    def excess(self) -> Any:
        """(outputs,), an upper bound of the error of each, float64, as far as the arithmetic is exact."""
        return self._bound * np.maximum(self._power, 0)

    def step(self) -> None:
        """Go one step. `gain` is by how much the error has become smaller since the start."""
        ahead = (self._direction @ self._matrix) * self._kept
        length = _ratio(self._power, _products(self._direction, ahead))
        self.found += _as_column(length, ahead) * self._direction
        self.residual -= _as_column(length, ahead) * ahead
        self.gain += length * self._power
        turned = self._near.solve(self.residual)
        power = _products(self.residual, turned)
        share = _ratio(power, self._power)
        beyond = self._bound - length
        self._bound = np.where(beyond > 0, _ratio(beyond, self._lowest * beyond + share), 1 / self._lowest)
        self._power = power
        self._direction = turned + _as_column(share, turned) * self._direction


def _products(first: Any, second: Any) -> Any:
    return (first * second).sum(axis=1, dtype=np.float64)


def _ratio(above: Any, below: Any) -> Any:
    """A quotient, and 0 where the divisor is: an output that is solved stays where it is."""
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), 0.0)


def _as_column(numbers: Any, like: Any) -> Any:
    return numbers.astype(like.dtype)[:, None]
