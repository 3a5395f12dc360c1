"""SparseGPT: what falls is made up for by the weights that are still to come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from oxiprune_gpu.calibrated.hessian import damped
from oxiprune_gpu.calibrated.matrices import features_of, lowest, lowest_in_groups, matrix_of, neighbours
from oxiprune_gpu.config import PruningConfig
from oxiprune_gpu.errors import InvalidOption
from oxiprune_gpu.granularity import NM
from oxiprune_gpu.selection import wanted_units
from oxiprune_gpu.tensor import Tensor

_STEP = 16
"""Features that are worked on one by one before the rest of their block is brought up to date by a product."""


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A matrix that was pruned and made up for. `mask`: bool, True = kept; `damping`: what it came to in the end."""

    pruned: Any
    mask: Any
    damping: float


def prune_sparsegpt(
    weight: Tensor, hessian: Any, config: PruningConfig, *, block: int = 128, damping: float = 0.01
) -> Reconstruction:
    """Prune a matrix and change what is kept so that X @ W.T moves least (Frantar and Alistarh, 2023, "SparseGPT:
    massive language models can be accurately pruned in one-shot", algorithm 1).

    Features are worked on in order. Element (i, j) scores w**2 / U[j, j]**2 with the upper Cholesky factor U of the
    inverse of the Hessian; the error of what falls is spread over the features behind. Unstructured, the lowest scores
    of each block of features fall, over all outputs together; N:M is chosen group by group.

    Args:
        weight: (outputs, features), float32, float16, bfloat16 or float64, numpy or CuPy.
        hessian: (features, features), X.T @ X over all samples; a factor does not matter.
        config: sparsity of each block (rounded as everywhere), or N:M along the features. Its metric is ignored.
        block: features in a block; a multiple of M.
        damping: times the mean of the diagonal is added to it; it grows tenfold while the Hessian is not positive
            definite.

    Returns:
        The pruned matrix in the dtype of the weight; a feature whose inputs were all zero becomes zero, kept or not.

    Raises:
        ShapeMismatch, NonFiniteWeight, InvalidSparsity, InvalidOption.
    """  # noqa: D205
    config.check()
    matrix = matrix_of(weight)
    name, values = matrix.name, matrix.values
    groups = neighbours(config, name)
    _check_block(name, block, groups)
    found = damped(name, features_of(name, hessian, values, 2), damping)
    dtype = values.dtype
    factor = found.inverse_factor().astype(dtype)
    left = values.T.copy()  # features first: each is a row that is read and written as one
    left[found.unseen] = 0
    fallen = np.zeros_like(left, dtype=bool)
    for start in range(0, len(left), block):
        stop = min(start + block, len(left))
        if groups is None:
            fallen[start:stop] = _lowest_of_block(left[start:stop], factor[start:stop, start:stop], config.sparsity)
        errors = _pass(left[start:stop], fallen[start:stop], factor[start:stop, start:stop], groups)
        left[stop:] -= factor[start:stop, stop:].T @ errors
    mask = np.ascontiguousarray(~fallen.T)
    return Reconstruction(matrix.like_given(np.ascontiguousarray(left.T)), mask, found.damping)


def _check_block(name: str, block: int, groups: NM | None) -> None:
    multiple = 1 if groups is None else groups.of
    if block < 1 or block % multiple:
        raise InvalidOption(f"weight '{name}': block {block} must be a multiple of {multiple}, above 0")


def _lowest_of_block(left: Any, factor: Any, sparsity: float) -> Any:
    """Which elements of a block fall, over all outputs; of equal scores the first output's first feature."""
    scores = (left / np.diagonal(factor)[:, None]) ** 2
    flat = np.ascontiguousarray(scores.T).reshape(-1)
    return lowest(flat, wanted_units(sparsity, len(flat))).reshape(scores.shape[::-1]).T


def _pass(left: Any, fallen: Any, factor: Any, groups: NM | None) -> Any:
    """Let elements of one block fall, feature by feature; return the errors that later blocks must make up for."""
    errors = np.empty_like(left)
    step = _STEP if groups is None else groups.of * max(1, _STEP // groups.of)
    for start in range(0, len(left), step):
        stop = min(start + step, len(left))
        for j in range(start, stop):
            if groups is not None and j % groups.of == 0:
                fallen[j : j + groups.of] = _lowest_of_group(left[j : j + groups.of], factor, j, groups)
            errors[j] = np.where(fallen[j], left[j], 0) / factor[j, j]
            left[j + 1 : stop] -= factor[j, j + 1 : stop, None] * errors[j]
            left[j][fallen[j]] = 0
        left[stop:] -= factor[start:stop, stop:].T @ errors[start:stop]
    return errors


def _lowest_of_group(left: Any, factor: Any, start: int, groups: NM) -> Any:
    scores = (left / np.diagonal(factor)[start : start + len(left), None]) ** 2
    return lowest_in_groups(np.ascontiguousarray(scores.T), groups).T
