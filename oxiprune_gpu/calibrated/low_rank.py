"""What is large in a positive definite matrix, by few columns: a preconditioner for any of its sub-matrices."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

_NEGLIGIBLE = 1e-12


class LowRank:
    """N + `rest` * identity for a matrix whose diagonal is 1; N = F @ F.T is at most the matrix less `floor`.

    F is found by Nyström's method from random columns that were multiplied with the matrix once (Frangella, Tropp and
    Udell, 2023, "Randomized Nyström preconditioning"; Halko, Martinsson and Tropp, 2011). `rest` is the mean of what N
    leaves of the diagonal. So no eigenvalue of (N + rest)^-1 @ matrix is below `lowest`, and none of the same with
    any rows and the same columns left out of both.

    Args:
        matrix: (features, features), float64, diagonal 1.
        floor: a lower bound of its eigenvalues, above 0.
        dtype: in which it is applied.
    """

    def __init__(self, matrix: Any, floor: float, dtype: Any) -> None:
        features = len(matrix)
        rank = min(int(2 * features**0.5), features - 1)  # making it costs as much as four steps, at any size
        columns = _columns(matrix, floor, rank)
        left = features * (1 - floor) - float((columns**2).sum())
        self.rest = max(left / (features - rank), floor)
        self.lowest = floor / self.rest
        self._columns = columns.astype(dtype)
        self._pairs = np.tril_indices(rank)

    @cached_property
    def _products(self) -> Any:
        """Of each pair of columns; made when they are asked for: they take as much as the matrix."""
        columns, (first, second) = self._columns, self._pairs
        found = columns[:, first]
        for start in range(0, len(first), columns.shape[1]):
            part = slice(start, start + columns.shape[1])
            found[:, part] *= columns[:, second[part]]
        return found

    def of(self, kept: Any) -> SubMatrices:
        """The sub-matrices that each row of `kept`, (outputs, features) of 0 and 1, leaves, with inverses."""
        first, second = self._pairs
        rank = self._columns.shape[1]
        inner = np.zeros_like(kept, shape=(len(kept), rank, rank))
        inner[:, first, second] = inner[:, second, first] = kept @ self._products
        places = np.arange(rank)
        inner[:, places, places] += self.rest
        return SubMatrices(self._columns, kept, self.rest, np.linalg.inv(inner))


class SubMatrices:
    """Sub-matrices of N + rest, one an output."""

    def __init__(self, columns: Any, kept: Any, rest: float, inner: Any) -> None:
        self._columns = columns
        self._kept = kept
        self._rest = rest
        self._inner = inner

    def solve(self, wanted: Any) -> Any:
        """For each output the solution of its system; (outputs, features), zero where nothing is kept, as `wanted`.

        By the identity of Sherman, Morrison and Woodbury.
        """
        weights = (self._inner @ (wanted @ self._columns)[:, :, None])[:, :, 0]
        return (wanted - (weights @ self._columns.T) * self._kept) / wanted.dtype.type(self._rest)


def _columns(matrix: Any, floor: float, rank: int) -> Any:
    """F: of all products the matrix less `floor` has with some columns, the part that they tell."""
    drawn = np.asarray(np.random.default_rng(0).standard_normal((len(matrix), rank)), like=matrix)
    basis = np.linalg.qr(matrix @ drawn)[0]
    products = matrix @ basis - floor * basis
    values, vectors = np.linalg.eigh(basis.T @ products)
    counted = values > _NEGLIGIBLE * len(matrix)
    return (products @ vectors) * np.where(counted, 1 / np.sqrt(np.where(counted, values, 1.0)), 0.0)
