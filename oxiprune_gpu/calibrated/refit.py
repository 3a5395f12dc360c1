"""Least-squares repair: the kept weights of a layer fitted again to what the whole layer gave."""

from __future__ import annotations

from typing import Any

import numpy as np

from oxiprune_gpu.calibrated.hessian import damped
from oxiprune_gpu.calibrated.least_squares import Problem
from oxiprune_gpu.calibrated.matrices import Reconstruction, features_of, mask_of, matrix_of
from oxiprune_gpu.errors import InvalidOption
from oxiprune_gpu.tensor import Tensor


def refit(
    weight: Tensor, mask: Any, hessian: Any, *, cross: Any = None, damping: float = 0.001, tolerance: float = 1e-4
) -> Reconstruction:
    """The matrix V with the zeros of `mask` for which ||Y @ V.T - X @ W.T|| is least, W being the dense weight.

    X are the inputs of the dense layer, Y those that the repaired one gets: other ones where layers before it were
    pruned too, and its repair then makes up for theirs; X itself where no `cross` is given.

    Each output is a least-squares problem of its own, in the features that it keeps. Where that is cheaper (few
    features, or outputs that keep the same ones) they are solved directly, else by conjugate gradients in float32
    (float64 for a weight or a tolerance that asks for it), preconditioned by what is large in the Hessian, until an
    upper bound of the error is low enough. It is checked against residuals in float64, and outputs for which it does
    not hold are solved directly.

    Args:
        weight: (outputs, features), before anything fell; numpy or CuPy.
        mask: bool, True = kept, the same shape.
        hessian: (features, features), Y.T @ Y over all samples.
        cross: (features, features), Y.T @ X over the same samples.
        damping: times the mean of the diagonal is added to the Hessian, which draws V towards W where the data says
            little.
        tolerance: by how much the loss of an output, ||Y @ v - X @ w||**2 with the damping in it, may be above the
            least, in parts of what the repair takes off the loss.

    Returns:
        The repaired matrix in the dtype of the weight, the mask, and what the damping came to: it grows tenfold while
        the Hessian is not positive definite.

    Raises:
        ShapeMismatch, NonFiniteWeight, InvalidOption.
    """
    given = matrix_of(weight)
    name, values = given.name, given.values
    kept = mask_of(name, mask, values)
    if not tolerance > 0:
        raise InvalidOption(f"tolerance {tolerance!r} must be a number above 0")
    safe = damped(name, features_of(name, hessian, values, 2), damping)
    target = values.astype(np.float64)
    seen = None if cross is None else features_of(name, cross, values, 2).T
    matrix = safe.matrix()
    wanted = target @ matrix if seen is None else target @ seen + target * safe.added
    start = np.where(kept, target, 0.0)
    problem = Problem(matrix, safe.added, wanted, kept, start, values.dtype)
    return given.rebuilt(problem.solved(tolerance), kept, safe.damping)
