"""The Hessian of a layer's squared error, X.T @ X, made safe to invert."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from oxiprune_gpu.errors import InvalidOption

_GROWTH = 10.0
_MOST_TRIALS = 30
_PANEL = 256


class Damped(NamedTuple):
    """A Hessian with `damping` times its mean diagonal added to the diagonal. `unseen`: features that were always 0.

    `added`: (features,), what stands on the diagonal beside the Hessian's own.
    `root`: upper triangle, root @ root.T = matrix.
    """

    matrix: Any
    root: Any
    unseen: Any
    added: Any
    damping: float

    def inverse_factor(self) -> Any:
        """The upper Cholesky factor U of the inverse of the matrix, U.T @ U = inverse: the inverse of the root."""
        return _inverse_of_upper(self.root)


def damped(name: str, hessian: Any, damping: float) -> Damped:
    """Add damping until the Hessian is positive definite; it grows tenfold at each trial.

    Raises `InvalidOption` if that never comes, or for a damping that is not positive.
    """
    if not damping > 0:
        raise InvalidOption(f"damping {damping!r} must be a number above 0")
    matrix = (hessian + hessian.T) / 2
    diagonal = np.diagonal(matrix).copy()
    unseen = diagonal == 0
    step = float(diagonal.mean()) or 1.0
    places = np.arange(len(matrix))
    for _ in range(_MOST_TRIALS):
        added = unseen + damping * step
        matrix[places, places] = diagonal + added
        root = _upper_root(matrix)
        if root is not None:
            return Damped(matrix, root, unseen, added, damping)
        damping *= _GROWTH
    raise InvalidOption(f"weight '{name}': its Hessian is not positive definite, whatever is added to its diagonal")


def _upper_root(matrix: Any) -> Any:
    """R, upper, with R @ R.T = matrix: Cholesky's factor of the matrix with rows and columns in reverse, turned back.

    None where the matrix is not positive definite, which CuPy tells by NaN.
    """
    try:
        lower = np.linalg.cholesky(matrix[::-1, ::-1])
    except np.linalg.LinAlgError:
        return None
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
