"""The Hessian of a layer's squared error, X.T @ X, made safe to invert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from oxiprune_gpu.calibrated.triangles import invert_in_place, mirror, root_in_place
from oxiprune_gpu.errors import InvalidOption

_GROWTH = 10.0
_MOST_TRIALS = 30
_PANEL = 256


@dataclass(frozen=True, eq=False)
class Damped:
    """A Hessian with `damping` times its mean diagonal added to the diagonal. `unseen`: features that were always 0.

    `added`: (features,), what stands on the diagonal beside the Hessian's own. What it is wanted for is asked for once,
    `matrix` or `inverse_factor`: on the CPU both are made in the same memory.
    """

    unseen: Any
    added: Any
    damping: float
    diagonal: Any
    work: Any
    root: Any

    def matrix(self) -> Any:
        """The damped Hessian."""
        if self.root is self.work:
            mirror(self.work)
            _put_diagonal(self.work, self.diagonal)
        return self.work

    def inverse_factor(self) -> Any:
        """The upper Cholesky factor U of the inverse of the matrix, U.T @ U = inverse: the inverse of the root."""
        if self.root is not self.work:
            return _inverse_of_upper(self.root)
        invert_in_place(self.root)
        return self.root


def damped(name: str, hessian: Any, damping: float) -> Damped:
    """Add damping until the Hessian is positive definite; it grows tenfold at each trial.

    Raises `InvalidOption` if that never comes, or for a damping that is not positive.
    """
    if not damping > 0:
        raise InvalidOption(f"damping {damping!r} must be a number above 0")
    work = hessian + hessian.T
    work *= 0.5
    own = np.diagonal(work).copy()
    unseen = own == 0
    step = float(own.mean()) or 1.0
    for _ in range(_MOST_TRIALS):
        added = unseen + damping * step
        _put_diagonal(work, diagonal := own + added)
        root = _upper_root(work)
        if root is not None:
            return Damped(unseen, added, damping, diagonal, work, root)
        damping *= _GROWTH
    raise InvalidOption(f"weight '{name}': its Hessian is not positive definite, whatever is added to its diagonal")


def _put_diagonal(matrix: Any, values: Any) -> None:
    places = np.arange(len(matrix))
    matrix[places, places] = values


def _upper_root(matrix: Any) -> Any:
    """R, upper, with R @ R.T = matrix: Cholesky's factor of the matrix with rows and columns in reverse, turned back.

    On the CPU the matrix itself, with R in its upper triangle. None where the matrix is not positive definite, which
    CuPy tells by NaN.
    """
    if isinstance(matrix, np.ndarray):
        if root_in_place(matrix):
            return matrix
        mirror(matrix)
        return None
    lower = np.linalg.cholesky(matrix[::-1, ::-1])
    return lower[::-1, ::-1] if bool(np.isfinite(lower).all()) else None


def _inverse_of_upper(upper: Any) -> Any:
    """By panels from the last: products do nearly all of the work."""
    found = np.zeros_like(upper)
    for start in reversed(range(0, len(upper), _PANEL)):
        stop = min(start + _PANEL, len(upper))
        own = np.triu(np.linalg.inv(upper[start:stop, start:stop]))
        found[start:stop, start:stop] = own
        found[start:stop, stop:] = -own @ (upper[start:stop, stop:] @ found[stop:, stop:])
    return found
