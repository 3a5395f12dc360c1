"""The verbs. All follow one rule: see docs/design.md, section 3.

Checks come in this order, and nothing has been written when one fails: dtype, sparsity, empty tensor, two dimensions
(row, column), `min_nonzero`, gradient shape, NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.backends import Backend, NumpyBackend, Statistics
from oxiprune_gpu.blocks import BlockSource
from oxiprune_gpu.config import PruningConfig
from oxiprune_gpu.errors import EmptyTensor, InvalidOption, ShapeMismatch
from oxiprune_gpu.importance import ImportanceScores, ScoreStats
from oxiprune_gpu.metrics import ImportanceMetric, parse_metric
from oxiprune_gpu.selection import units_to_prune
from oxiprune_gpu.tensor import Borrowed, Tensor, borrow

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class PruneCounts:
    """What pruning did to a weight, in elements."""

    total: int
    pruned: int
    nonzero_before: int
    nonzero_after: int


def compute_importance(tensor: Tensor, metric: str | ImportanceMetric = "l1") -> ImportanceScores:
    """Score every element of a weight.

    Args:
        tensor: `WeightTensor` or array, any shape; float32, float16, bfloat16 or float64.
        metric: an `ImportanceMetric` or its text: `l1`, `l2`, `taylor`, `random:SEED`.

    Returns:
        Scores of the weight's shape, float32 (float64 for float64 weights), with threshold 0.

    Raises:
        UnsupportedDtype, ShapeMismatch (gradient), NonFiniteWeight, NonFiniteScore.
    """
    weight, metric = borrow(tensor), parse_metric(metric)
    metric.check(weight.name, weight.data.shape)
    backend = NumpyBackend()
    return ImportanceScores(backend.element_scores(backend.adopt(weight.contiguous()), metric, weight.name))


def compute_mask(tensor: Tensor, config: PruningConfig) -> Any:
    """Return the mask `prune_tensor` would apply: bool, True = kept, shaped as the weight. Errors as there."""
    weight = borrow(tensor)
    mask = np.empty(weight.data.shape, np.bool_)
    backend = NumpyBackend()
    _prune(backend, backend.adopt(weight.contiguous()), weight.name, config, mask=mask, write=False)
    return weight.export(mask)


def apply_mask(tensor: Tensor, mask: Any) -> Any:
    """Return a copy of a weight in which the elements where `mask` is False are +0.0; the others keep their bits.

    Args:
        tensor: `WeightTensor` or array.
        mask: bool (or numbers, nonzero = kept), the weight's shape.

    Raises:
        ShapeMismatch: the mask has another shape.
        InvalidOption: the mask is no array of bools or numbers.
    """
    weight = borrow(tensor)
    kept = _as_mask(mask, weight.name)
    if kept.shape != weight.data.shape:
        shapes = f"{list(kept.shape)}, the weight {list(weight.data.shape)}"
        raise ShapeMismatch(f"mask of tensor '{weight.name}' has shape {shapes}: they must be equal")
    pruned = weight.data.copy(order="C")
    NumpyBackend().apply_mask(pruned, kept)
    return weight.give_back(pruned)


def prune_tensor(tensor: Tensor, config: PruningConfig) -> tuple[Any, Any]:
    """Prune a copy of a weight.

    Args:
        tensor: `WeightTensor` or array, float32, float16, bfloat16 or float64; any layout. It is not changed.
        config: how much, by which metric, in which units.

    Returns:
        (pruned, mask): `pruned` in the form the weight came in; the mask is bool, True = kept, the weight's shape.

    Raises:
        EmptyTensor, NotTwoDimensional, BelowMinNonzero, UnsupportedDtype, ShapeMismatch, NonFiniteWeight,
        NonFiniteScore.
    """
    weight = borrow(tensor)
    pruned = weight.data.copy(order="C")
    mask = _prune_array(pruned, weight.name, config)
    return weight.give_back(pruned), weight.export(mask)


def prune_tensor_inplace(tensor: Tensor, config: PruningConfig) -> Any:
    """Prune a weight where it lies; return the mask. Arguments and errors as in `prune_tensor`.

    A view that is not C-contiguous is pruned in a contiguous copy and written back.

    Raises:
        ReadOnlyTarget: the weight can't be written.
    """
    weight = borrow(tensor)
    target = weight.writable_data()
    work = weight.contiguous()
    mask = _prune_array(work, weight.name, config)
    if work is not target:
        target[...] = work
    return weight.export(mask)


@overload
def prune_model(
    tensors: Mapping[str, Any], config: PruningConfig, *, inplace: bool = False
) -> dict[str, tuple[Any, Any]]: ...
@overload
def prune_model(
    tensors: Sequence[Tensor], config: PruningConfig, *, inplace: bool = False
) -> list[tuple[Any, Any]]: ...
def prune_model(
    tensors: Sequence[Tensor] | Mapping[str, Any], config: PruningConfig, *, inplace: bool = False
) -> list[tuple[Any, Any]] | dict[str, tuple[Any, Any]]:
    """Prune several weights by one config, each for itself; a random metric starts anew for each.

    Args:
        tensors: a sequence of `WeightTensor` or arrays, or a mapping from name to array.
        config: how much, by which metric, in which units.
        inplace: prune the weights where they lie. The first error stops: earlier weights then stay pruned.

    Returns:
        (pruned, mask) of each weight: a list, or a dict when a mapping came in.
    """
    if isinstance(tensors, Mapping):
        named = {name: _prune_one(borrow(data, name), data, config, inplace) for name, data in tensors.items()}
        return named
    return [_prune_one(borrow(t, f"tensors[{i}]"), t, config, inplace) for i, t in enumerate(tensors)]


def prune_blocks(source: BlockSource, config: PruningConfig, name: str = "blocks") -> PruneCounts:
    """Prune a weight that is read and written in blocks, in place: a tensor in a file of any size, a few MB of memory.

    Args:
        source: see `BlockSource`.
        config: how much, by which metric, in which units; a granularity sees `source.shape`.
        name: for error texts.

    Returns:
        The counts of elements. Errors as in `prune_tensor`; nothing has been stored when one is raised.
    """
    backend = NumpyBackend()
    before = backend.count_nonzero(source)
    pruned = _prune(backend, source, name, config)
    after = backend.count_nonzero(source) if pruned else before
    return PruneCounts(math.prod(source.shape), pruned, before, after)


def count_nonzero_blocks(source: BlockSource) -> int:
    """Count the nonzeros of a weight that is read in blocks."""
    return NumpyBackend().count_nonzero(source)


def score_stats_blocks(source: BlockSource, metric: str | ImportanceMetric, name: str = "blocks") -> ScoreStats:
    """Statistics of the element scores of a weight that is read in blocks, without holding the scores."""
    metric = parse_metric(metric)
    metric.check(name, source.shape)
    return _as_score_stats(NumpyBackend().statistics(source, metric, name))


def _prune_one(weight: Borrowed, tensor: Tensor, config: PruningConfig, inplace: bool) -> tuple[Any, Any]:
    if inplace:
        target = weight.writable_data()
        work = weight.contiguous()
    else:
        target = work = weight.data.copy(order="C")
    mask = _prune_array(work, weight.name, config)
    if work is not target:
        target[...] = work
    return (tensor if inplace else weight.give_back(work)), weight.export(mask)


def _prune_array(array: NDArray[Any], name: str, config: PruningConfig) -> Mask:
    backend = NumpyBackend()
    mask = np.empty(array.shape, np.bool_)
    _prune(backend, backend.adopt(array), name, config, mask=mask)
    return mask


def _prune(
    backend: Backend, weight: Any, name: str, config: PruningConfig, *, mask: Mask | None = None, write: bool = True
) -> int:
    """Prune a weight in its backend's form; return how many elements fell."""
    shape = weight.shape
    config.check()
    _check_not_empty(name, shape)
    view = config.granularity.unit_view(shape)
    units, unit_size = (math.prod(shape), 1) if view is None else (view.count, view.unit_size)
    k = units_to_prune(config.sparsity, units, unit_size, config.min_nonzero)
    config.metric.check(name, shape)
    if view is None:
        backend.prune_elements(weight, config.metric, k, name, mask=mask, write=write)
    else:
        scores = backend.unit_scores(weight, view, config.metric, name)
        backend.prune_units(weight, view, backend.kept_units(scores, k), mask=mask, write=write)
    return k * unit_size


def _as_mask(mask: Any, name: str) -> Mask:
    try:
        array = np.asarray(mask)
        if array.dtype.kind in "biuf" and not (array.dtype.kind == "f" and np.isnan(array).any()):
            kept: Mask = np.not_equal(array, 0)
            return kept
    except ValueError:
        pass
    raise InvalidOption(f"mask of tensor '{name}' must be an array of bools, True = kept (or of numbers, 0 = pruned)")


def _check_not_empty(name: str, shape: tuple[int, ...]) -> None:
    if math.prod(shape) == 0:
        raise EmptyTensor(name)


def _as_score_stats(statistics: Statistics) -> ScoreStats:
    return ScoreStats(*statistics)
