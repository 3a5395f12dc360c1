"""SparseGPT: what falls is made up for by the weights that are still to come."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from oxiprune_gpu.backends import backend_of
from oxiprune_gpu.backends.bits import put_kept
from oxiprune_gpu.calibrated.hessian import damped
from oxiprune_gpu.calibrated.matrices import (
    Reconstruction,
    features_of,
    mask_of,
    matrix_of,
    neighbours,
)
from oxiprune_gpu.config import PruningConfig
from oxiprune_gpu.errors import InvalidOption
from oxiprune_gpu.granularity import NM
from oxiprune_gpu.selection import wanted_units
from oxiprune_gpu.tensor import Tensor


def prune_sparsegpt(
    weight: Tensor,
    hessian: Any,
    config: PruningConfig | None = None,
    *,
    mask: Any = None,
    block: int = 128,
    damping: float = 0.01,
) -> Reconstruction:
    """Prune a matrix and change what is kept so that X @ W.T moves least (Frantar and Alistarh, 2023, "SparseGPT:
    massive language models can be accurately pruned in one-shot", algorithm 1).

    Features are worked on in order. Element (i, j) scores w**2 / U[j, j]**2 with the upper Cholesky factor U of the
    inverse of the Hessian; the error of what falls is spread over the features behind. Unstructured, the lowest scores
    of each block of features fall, over all outputs together; N:M is chosen group by group. With a `mask` what falls
    is said, and only made up for: for the same mask `refit` does that best, as it changes all features at once.

    On a GPU, CuPy's linear algebra and a kernel do the work. Products are added in another order than on the CPU, so
    where scores are nearly equal the masks may differ. The GPU is waited for before the first feature, not after it.

    Args:
        weight: (outputs, features), float32, float16, bfloat16 or float64, numpy or CuPy.
        hessian: (features, features), X.T @ X over all samples; a factor does not matter.
        config: sparsity of each block (rounded as everywhere), or N:M along the features. Its metric is ignored.
        mask: bool, True = kept, the shape of the weight; in place of `config`.
        block: features in a block; a multiple of M.
        damping: times the mean of the diagonal is added to it; it grows tenfold while the Hessian is not positive
            definite.

    Returns:
        The pruned matrix in the dtype of the weight; a feature whose inputs were all zero becomes zero, kept or not.

    Raises:
        ShapeMismatch, NonFiniteWeight, InvalidSparsity, InvalidOption.
    """  # noqa: D205
    matrix = matrix_of(weight)
    name, values = matrix.name, matrix.values
    rule = _rule(name, config, mask)
    groups = None if rule is None else neighbours(rule, name)
    _check_block(name, block, groups)
    found = damped(name, features_of(name, hessian, values, 2), damping)
    factor = found.inverse_factor()
    left = values.T.copy()  # features first: each is a row that is read and written as one
    left[found.unseen] = 0
    fallen = np.zeros_like(left, dtype=bool) if mask is None else (~mask_of(name, mask, values)).T.copy()
    for start in range(0, len(left), block):
        stop = min(start + block, len(left))
        rows = factor[start:stop, start:].astype(values.dtype)
        part = _Block(name, groups, left[start:stop], fallen[start:stop], rows / np.diagonal(rows)[:, None])
        if rule is not None and groups is None:
            part.choose(np.diagonal(rows), rule.sparsity)
        part.work(np.diagonal(rows))
        left[stop:] -= part.shares[:, stop - start :].T @ part.lost
    kept = (~fallen).T.copy()
    return matrix.rebuilt(left.T.copy(), kept, found.damping)


def _rule(name: str, config: PruningConfig | None, mask: Any) -> PruningConfig | None:
    """What decides where the mask does not."""
    if (config is None) == (mask is None):
        raise InvalidOption(f"weight '{name}': either a config or a mask says what falls")
    if config is not None:
        config.check()
    return config


def _check_block(name: str, block: int, groups: NM | None) -> None:
    multiple = 1 if groups is None else groups.of
    if block < 1 or block % multiple:
        raise InvalidOption(f"weight '{name}': block {block} must be a multiple of {multiple}, above 0")


class _Block:
    """Features of one block, as rows: what is `left` of them, what has `fallen`, what was `lost` by that.

    `shares`: by how much what is lost of a row moves the rows behind, those of later blocks too.
    """

    def __init__(self, name: str, groups: NM | None, left: Any, fallen: Any, shares: Any) -> None:
        self._name = name
        self._groups = groups
        self._backend = backend_of(left)
        of = 1 if groups is None else groups.of
        self._few = max(self._backend.few_features // of, 1) * of
        self._left = left
        self._fallen = fallen
        self.shares = shares
        self.lost = np.zeros_like(left)

    def choose(self, diagonal: Any, sparsity: float) -> None:
        """Let the lowest elements of all outputs fall; of equal scores the first output's first feature."""
        scores = _scores(self._left, diagonal)
        flat = scores.T.copy().reshape(-1)
        kept = self._backend.kept_units(flat, wanted_units(sparsity, len(flat)))
        self._fallen[...] = ~kept.reshape(scores.shape[::-1]).T

    def work(self, diagonal: Any) -> None:
        """Let elements fall, few features at a time; a product brings those behind up to date."""
        self._halve(0, len(self._left), diagonal)
        put_kept(self._left, ~self._fallen, self._left)

    def _halve(self, start: int, stop: int, diagonal: Any) -> None:
        if stop - start <= self._few:
            self._one_by_one(slice(start, stop), diagonal)
            return
        middle = start + max((stop - start) // 2 // self._few, 1) * self._few
        self._halve(start, middle, diagonal)
        self._left[middle:stop] -= self.shares[start:middle, middle:stop].T @ self.lost[start:middle]
        self._halve(middle, stop, diagonal)

    def _one_by_one(self, few: slice, diagonal: Any) -> None:
        left = self._left[few]
        view = None if self._groups is None else replace(self._groups, axis=0).group_view(left.shape)
        arrays = left, self._fallen[few], self.lost[few], self.shares[few, few], diagonal[few]
        self._backend.spread_losses(*arrays, view, self._name)


def _scores(left: Any, diagonal: Any) -> Any:
    return (left / diagonal[:, None]) ** 2
