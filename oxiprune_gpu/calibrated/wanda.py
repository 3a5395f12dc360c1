"""Wanda: weights times the norms of their inputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from oxiprune_gpu.backends.bits import put_kept
from oxiprune_gpu.backends.parallel import Span, cut, over_spans
from oxiprune_gpu.calibrated.matrices import features_of, kept_per_output, matrix_of
from oxiprune_gpu.config import PruningConfig
from oxiprune_gpu.errors import InvalidOption
from oxiprune_gpu.tensor import Tensor

_SLAB = 1 << 18
"""Elements."""


def prune_wanda(weight: Tensor, squares: Any, config: PruningConfig) -> tuple[Any, Any]:
    """Prune a matrix by |w| * ||x||, compared inside each output (Sun et al., 2024, "A simple and effective pruning
    approach for large language models").

    Args:
        weight: (outputs, features), float32, float16, bfloat16 or float64, numpy or CuPy.
        squares: (features,), the sum of squares of each input over all samples; its root is ||x||.
        config: sparsity of each output (rounded as everywhere), or N:M along the features. Its metric is ignored.

    Returns:
        The pruned matrix in the dtype of the weight, kept values with their bits; the mask, bool, True = kept. Of equal
        scores the lowest index falls first. On a GPU scores below 1.2e-38 count as 0, as CuPy computes.

    Raises:
        ShapeMismatch, NonFiniteWeight, InvalidSparsity, InvalidOption.
    """  # noqa: D205
    config.check()
    matrix = matrix_of(weight)
    name, given, values = matrix.name, matrix.given, matrix.values
    found = features_of(name, squares, values, 1)
    if bool((found < 0).any()):
        raise InvalidOption(f"statistics for weight '{name}' are sums of squares, and one is negative")
    norms = np.sqrt(found).astype(values.dtype)
    mask, pruned = np.empty_like(values, dtype=bool), np.empty_like(given)

    def work(span: Span) -> None:
        part = slice(*span)
        scores = np.abs(values[part]) * norms
        mask[part] = kept_per_output(name, scores, config)
        put_kept(given[part], mask[part], pruned[part])

    over_spans(lambda: work, _slabs(values))
    return matrix.weight.export(pruned), matrix.weight.export(mask)


def _slabs(values: Any) -> list[Span]:
    """Outputs that are worked on at once, so that all of it stays in cache; on a GPU all of them."""
    outputs, features = values.shape
    return cut((0, outputs), max(_SLAB // max(features, 1), 1) if isinstance(values, np.ndarray) else max(outputs, 1))
