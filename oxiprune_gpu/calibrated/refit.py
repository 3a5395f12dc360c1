"""Least-squares repair: the kept weights of a layer fitted again to what the whole layer gave."""

from __future__ import annotations

from typing import Any

import numpy as np

from oxiprune_gpu.calibrated.hessian import damped
from oxiprune_gpu.calibrated.matrices import features_of, matrix_of
from oxiprune_gpu.errors import ShapeMismatch
from oxiprune_gpu.tensor import Tensor

_MOST_STEPS = 200


def refit(
    weight: Tensor, mask: Any, hessian: Any, *, cross: Any = None, damping: float = 0.001, tolerance: float = 1e-5
) -> Any:
    """The matrix V with the zeros of `mask` for which ||Y @ V.T - X @ W.T|| is least, W being the dense weight.

    X are the inputs of the dense layer, Y those that the repaired one gets: other ones where layers before it were
    pruned too, and its repair then makes up for theirs; X itself where no `cross` is given.

    Each output is a least-squares problem of its own, in the features that it keeps; all are solved together by
    conjugate gradients with the diagonal as preconditioner (Hestenes and Stiefel, 1952), of which each step is one
    product with the Hessian.

    Args:
        weight: (outputs, features), before anything fell; numpy or CuPy.
        mask: bool, True = kept, the same shape.
        hessian: (features, features), Y.T @ Y over all samples.
        cross: (features, features), Y.T @ X over the same samples.
        damping: times the mean of the diagonal is added to the Hessian, which draws V towards W where the data says
            little.
        tolerance: the residual, relative to the first, at which an output is done.

    Returns:
        The repaired matrix in the dtype of the weight.

    Raises:
        ShapeMismatch, NonFiniteWeight, InvalidOption.
    """
    given = matrix_of(weight)
    name, values = given.name, given.values
    kept = np.asarray(mask, bool) if isinstance(values, np.ndarray) else mask.astype(bool)
    if tuple(kept.shape) != tuple(values.shape):
        raise ShapeMismatch(
            f"the mask of weight '{name}' has shape {list(kept.shape)}, the weight {list(values.shape)}"
        )
    safe = damped(name, features_of(name, hessian, values, 2), damping)
    matrix, target = safe.matrix, values.astype(np.float64)
    wanted = target @ matrix if cross is None else target @ features_of(name, cross, values, 2).T + target * safe.added
    found = np.where(kept, target, 0.0)
    residual = (wanted - found @ matrix) * kept
    scale = 1.0 / np.diagonal(matrix)
    preconditioned = residual * scale
    direction = preconditioned.copy()
    power = (residual * preconditioned).sum(axis=1)
    limit = power * tolerance**2
    for _ in range(min(_MOST_STEPS, values.shape[1])):
        going = power > limit
        if not bool(going.any()):
            break
        ahead = (direction @ matrix) * kept
        curvature = (direction * ahead).sum(axis=1)
        length = np.where(going, power / np.where(curvature > 0, curvature, 1.0), 0.0)[:, None]
        found += length * direction
        residual -= length * ahead
        preconditioned = residual * scale
        before, power = power, (residual * preconditioned).sum(axis=1)
        direction = preconditioned + (power / np.where(before > 0, before, 1.0))[:, None] * direction
    return given.like_given(found)
