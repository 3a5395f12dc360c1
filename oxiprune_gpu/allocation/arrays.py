"""Allocations for arrays, in this machine's memory or on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.allocation.base import Allocation
from oxiprune_gpu.allocation.shares import Bound, Wishes, shares_of
from oxiprune_gpu.blocks import ArrayBlocks, BlockSource
from oxiprune_gpu.config import PruningConfig
from oxiprune_gpu.errors import InvalidOption
from oxiprune_gpu.tensor import Borrowed

Array = NDArray[Any]


def counts_of_arrays(
    weights: Sequence[Borrowed], config: PruningConfig, allocation: Allocation, floor: Bound, ceiling: Bound
) -> list[int]:
    """Decide how many units of each weight fall. Errors as in `allocate`.

    Raises:
        InvalidOption: the allocation reads the weights, and one lies on a GPU.
    """
    sources = [_source(weight, allocation) for weight in weights]
    names = [weight.name for weight in weights]
    return allocation.counts(shares_of(sources, config, Wishes(floor, ceiling, names, None)))


def _source(weight: Borrowed, allocation: Allocation) -> BlockSource:
    if isinstance(weight.data, np.ndarray):
        return ArrayBlocks(weight.contiguous())
    if not allocation.reads_weights:
        return _Unread(weight)
    raise InvalidOption(
        f"tensor '{weight.name}' lies on a GPU: the allocation {allocation.text} reads weights in this machine's "
        "memory only; use prepare(..., scope='global'), or the allocation uniform or erk"
    )


class _Unread(BlockSource):
    """A weight of which only shape and dtype are asked."""

    def __init__(self, weight: Borrowed) -> None:
        self._weight = weight

    @property
    def shape(self) -> tuple[int, ...]:
        """See `BlockSource.shape`."""
        return tuple(self._weight.data.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """See `BlockSource.dtype`."""
        return self._weight.dtype

    def load(self, start: int, stop: int, scratch: Array) -> Array:
        """It is not read."""
        raise NotImplementedError

    def store(self, start: int, block: Array) -> None:
        """It is not written."""
        raise NotImplementedError
