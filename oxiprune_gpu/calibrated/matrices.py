"""What the methods have in common: matrices of numpy or CuPy, and which of their scores are the lowest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from oxiprune_gpu.backends import backend_of
from oxiprune_gpu.backends.bits import narrow_bits, widen_bits
from oxiprune_gpu.config import PruningConfig
from oxiprune_gpu.errors import InvalidOption, NonFiniteWeight, ShapeMismatch
from oxiprune_gpu.granularity import NM, Unstructured
from oxiprune_gpu.metrics import L1Magnitude
from oxiprune_gpu.selection import wanted_units
from oxiprune_gpu.tensor import Borrowed, Tensor, borrow, see_array


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A matrix whose kept elements make up for what fell.

    `mask`: bool, True = kept; both are the kind of array that the weight is. `damping`: what it came to in the end.
    """

    pruned: Any
    mask: Any
    damping: float


class Matrix(NamedTuple):
    """A weight, (outputs, features), as it was given and as `values` of float32 (float64 for float64 weights).

    Values that are so already are those that were given: never write to them.
    """

    weight: Borrowed
    values: Any

    @property
    def name(self) -> str:
        """For errors."""
        return self.weight.name

    @property
    def given(self) -> Any:
        """The elements, on a GPU the bits of bfloat16."""
        return self.weight.data

    def rebuilt(self, values: Any, kept: Any, damping: float) -> Reconstruction:
        """What a method made of it."""
        return Reconstruction(self._like_given(values), self.weight.export(kept), damping)

    def _like_given(self, values: Any) -> Any:
        """Values in the dtype of the weight, infinite where they are too large for it, as the kind of array it is."""
        if self.given.dtype == np.uint16:
            return self.weight.export(narrow_bits(values.astype(np.float32, copy=False)))
        with np.errstate(over="ignore"):
            return self.weight.export(values.astype(self.given.dtype, copy=False))


def matrix_of(tensor: Tensor) -> Matrix:
    """The matrix of a weight.

    Raises `ShapeMismatch` for a tensor that is no matrix, `NonFiniteWeight` for NaN or infinity in it.
    """
    weight = borrow(tensor)
    if weight.data.ndim != 2:
        raise ShapeMismatch(
            f"weight '{weight.name}' has shape {list(weight.data.shape)}: it must be a matrix, (outputs, features)"
        )
    values = _values_of(weight)
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise NonFiniteWeight(
            weight.name,
            bad,
            why=f"weight of tensor '{weight.name}' holds {bad} elements that are NaN or infinite: what it gives can't "
            "be told; repair the model or leave this tensor out",
        )
    return Matrix(weight, values)


def _values_of(weight: Borrowed) -> Any:
    if weight.data.dtype == np.uint16:
        return widen_bits(weight.data)
    return weight.data.astype(np.float64 if weight.dtype == np.float64 else np.float32, copy=False)


def features_of(name: str, statistic: Any, values: Any, ndim: int) -> Any:
    """A statistic of the inputs in float64, checked against the weight: (features,) or (features, features)."""
    found = _beside(values, statistic, "statistics")
    wanted = (values.shape[1],) * ndim
    if tuple(found.shape) != wanted:
        raise ShapeMismatch(
            f"statistics for weight '{name}' have shape {list(found.shape)}: a weight of shape {list(values.shape)} "
            f"wants {list(wanted)}"
        )
    if not bool(np.isfinite(found).all()):
        raise InvalidOption(f"statistics for weight '{name}' hold NaN or infinity: look at the calibration data")
    return found.astype(np.float64, copy=False)


def _beside(values: Any, data: Any, name: str) -> Any:
    """An array of any library where the values lie, in this machine's memory or on their GPU."""
    array = see_array(data, name)[0]
    if not isinstance(values, np.ndarray):
        return np.asarray(array, like=values)
    return array if isinstance(array, np.ndarray) else array.get()


def mask_of(name: str, mask: Any, values: Any) -> Any:
    """A mask as bool, where the weight lies. Raises `ShapeMismatch` for one of another shape."""
    kept = _beside(values, mask, "mask").astype(bool, copy=False)
    if tuple(kept.shape) != tuple(values.shape):
        raise ShapeMismatch(
            f"the mask of weight '{name}' has shape {list(kept.shape)}, the weight {list(values.shape)}"
        )
    return kept


def neighbours(config: PruningConfig, name: str) -> NM | None:
    """The groups of N:M; None for unstructured. Raises `InvalidOption` for other granularities."""
    granularity = config.granularity
    if isinstance(granularity, NM) and granularity.axis in (-1, 1):
        return granularity
    if not isinstance(granularity, Unstructured):
        raise InvalidOption(
            f"weight '{name}': granularity {granularity.text} does not go with calibrated pruning: use "
            "unstructured, or N:M as in 2:4 along the features"
        )
    return None


def lowest(scores: Any, count: int) -> Any:
    """Along the last axis, which `count` scores are the lowest: bool. Of equal ones the first fall first."""
    if count <= 0:
        return np.zeros_like(scores, dtype=bool)
    if count >= scores.shape[-1]:
        return np.ones_like(scores, dtype=bool)
    limit = np.partition(scores, count - 1, axis=-1)[..., count - 1 : count]
    if not isinstance(scores, np.ndarray):
        return _first_of_equals(scores, limit, count)  # to ask whether there are equals would wait for the GPU
    fallen = scores <= limit
    tied = np.count_nonzero(fallen, axis=-1) > count
    if bool(tied.any()):
        fallen[tied] = _first_of_equals(scores[tied], limit[tied], count)
    return fallen


def _first_of_equals(scores: Any, limit: Any, count: int) -> Any:
    """Along the last axis, which scores are below the limit, and of those that are equal the first, `count` in all."""
    below, ties = scores < limit, scores == limit
    need = count - below.sum(axis=-1, keepdims=True)
    return below | (ties & (np.cumsum(ties, axis=-1) <= need))


def _kept_in_groups(name: str, scores: Any, groups: NM) -> Any:
    """Which scores, (rows, columns), stay so that `groups.keep` of every `groups.of` in a row do."""
    backend = backend_of(scores)
    with backend.device_of(scores):
        kept = backend.empty_mask(scores.shape)
        view = groups.group_view(scores.shape)
        backend.prune_groups(backend.adopt(scores), view, L1Magnitude(), name, mask=kept, write=False)
        return kept


def kept_per_output(name: str, scores: Any, config: PruningConfig) -> Any:
    """Which elements stay when each output loses the same of its features."""
    groups = neighbours(config, name)
    if groups is not None:
        return _kept_in_groups(name, scores, groups)
    return ~lowest(scores, wanted_units(config.sparsity, scores.shape[-1]))
