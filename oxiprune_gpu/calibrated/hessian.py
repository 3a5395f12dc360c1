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
    `factor`: the upper triangle U of its inverse, U.T @ U = inverse.
    """

    matrix: Any
    factor: Any
    unseen: Any
    added: Any
    damping: float


def damped(name: str, hessian: Any, damping: float) -> Damped:
    """Add damping until the Hessian is positive definite; it grows tenfold at each trial.

    Raises `InvalidOption` if that never comes, or for a damping that is not positive.
    """
    if not damping > 0:
        raise InvalidOption(f"damping {damping!r} must be a number above 0")
    matrix = (hessian + hessian.T) / 2
    diagonal = np.diagonal(matrix)
    unseen = diagonal == 0
    step = float(diagonal.mean()) or 1.0
    places = np.arange(len(matrix))
    for _ in range(_MOST_TRIALS):
        trial = matrix.copy()
        added = unseen + damping * step
        trial[places, places] += added
        try:
            factor = _factor_of_inverse(trial)
        except np.linalg.LinAlgError:
            factor = None
        if factor is not None and bool(np.isfinite(factor).all()):
            return Damped(trial, factor, unseen, added, damping)
        damping *= _GROWTH
    raise InvalidOption(f"weight '{name}': its Hessian is not positive definite, whatever is added to its diagonal")


def _factor_of_inverse(matrix: Any) -> Any:
    """The upper triangle U with U.T @ U = inverse.

    Cholesky's factor of the matrix with its rows and columns in reverse is, turned back, an upper triangle R with
    R @ R.T = matrix; U is the inverse of R. That is a third of the work of inverting the matrix itself.

    Raises `LinAlgError` for a matrix that is not positive definite.
    """
    upper = np.linalg.cholesky(matrix[::-1, ::-1])[::-1, ::-1]
    found = np.zeros_like(upper)
    for start in reversed(range(0, len(upper), _PANEL)):
        stop = min(start + _PANEL, len(upper))
        own = np.triu(np.linalg.inv(upper[start:stop, start:stop]))
        found[start:stop, start:stop] = own
        found[start:stop, stop:] = -own @ (upper[start:stop, stop:] @ found[stop:, stop:])
    return found
