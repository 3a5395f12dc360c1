"""Triangles of matrices of numpy, in the memory of the matrix; products of panels do nearly all of the work."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

_PANEL = 128


def root_in_place(matrix: Matrix) -> bool:
    """Make the upper triangle of a symmetric matrix that of R, upper, for which R @ R.T is the matrix.

    That is Cholesky's factor of the matrix with rows and columns in reverse, turned back. What is below the diagonal
    stays, see `mirror`. False where the matrix is not positive definite; its upper triangle is lost then too.
    """
    for start, stop in _from_the_last(len(matrix)):
        own = matrix[start:stop, start:stop]
        try:
            root = np.linalg.cholesky(own[::-1, ::-1])[::-1, ::-1]
        except np.linalg.LinAlgError:
            return False
        if not bool(np.isfinite(root).all()):
            return False
        own[...] = root + np.tril(own, -1)
        beside = matrix[:start, start:stop]
        beside[...] = beside @ np.linalg.inv(root).T
        for first, last in _from_the_last(start):
            matrix[:first, first:last] -= beside[:first] @ beside[first:last].T
            matrix[first:last, first:last] -= np.triu(beside[first:last] @ beside[first:last].T)
    return True


def invert_in_place(upper: Matrix) -> None:
    """Make the upper triangle of a matrix its inverse, and what is below the diagonal zero."""
    for start, stop in _from_the_last(len(upper)):
        own = np.linalg.inv(np.triu(upper[start:stop, start:stop]))
        beside = -own @ upper[start:stop, stop:]
        upper[start:stop, start:stop] = np.triu(own)
        upper[start:stop, :start] = 0
        for first in range(stop, len(upper), _PANEL):
            last = min(first + _PANEL, len(upper))
            np.matmul(beside[:, : last - stop], upper[stop:last, first:last], out=upper[start:stop, first:last])


def mirror(matrix: Matrix) -> None:
    """Make what is above the diagonal the same as below."""
    for start, stop in _from_the_last(len(matrix)):
        own = matrix[start:stop, start:stop]
        own[...] = np.tril(own) + np.tril(own, -1).T
        matrix[start:stop, stop:] = matrix[stop:, start:stop].T


def _from_the_last(size: int) -> Iterator[tuple[int, int]]:
    """Panels as (start, stop)."""
    return ((start, min(start + _PANEL, size)) for start in reversed(range(0, size, _PANEL)))
