"""Weights read and written in blocks, wherever they lie.

The numpy backend never asks for a whole weight. It asks for runs of consecutive elements (row-major order), small
enough to stay in the processor's cache, works on them and stores them back. So an array in memory and a tensor in the
middle of a large file are pruned by the same code, with the same few megabytes of memory.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.errors import UnsupportedArray

Array = NDArray[Any]

_PAGE = 1 << 12
_LARGE_PAGE = 1 << 18
"""Elements `BlockSource.take` loads at a time: little around scattered places, much where places lie close."""


class BlockSource(ABC):
    """A weight whose elements can be loaded and stored in blocks. Make one by inheriting.

    `load` and `store` are called from several threads at once, for ranges that do not overlap.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight; elements are numbered in row-major order."""

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """float16, bfloat16 (ml_dtypes), float32 or float64, native byte order."""

    @abstractmethod
    def load(self, start: int, stop: int, scratch: Array) -> Array:
        """Return elements start..stop as an aligned 1-D array of `dtype`.

        Either a view of the weight itself, or `scratch[: stop - start]` after filling it. `scratch` is 1-D,
        of `dtype`, and at least `stop - start` long. The caller may change what it gets, and then must `store` it.
        """

    @abstractmethod
    def store(self, start: int, block: Array) -> None:
        """Make elements start..start + len(block) of the weight equal to `block`, which came from `load`."""

    def put(self, start: int, values: Array) -> None:
        """Make elements start..start + len(values) equal to `values`, of `dtype`, which were not loaded before."""
        block = self.load(start, start + len(values), np.empty_like(values))
        block[...] = values
        self.store(start, block)

    def take(self, places: NDArray[np.intp]) -> Array:
        """Return a copy of the elements at `places`, which ascend."""
        taken = np.empty(len(places), self.dtype)
        if not len(places):
            return taken
        close = (places[-1] - places[0]) // len(places) < _PAGE
        page = _LARGE_PAGE if close else _PAGE
        scratch = np.empty(page, self.dtype)
        size = math.prod(self.shape)
        pages, firsts = np.unique(places // page, return_index=True)
        for start, first, stop in zip((pages * page).tolist(), firsts, [*firsts[1:], len(places)], strict=True):
            block = self.load(start, min(start + page, size), scratch)
            taken[first:stop] = block.take(places[first:stop] - start)
        return taken

    def take_runs(self, runs: NDArray[np.intp], length: int) -> Array:
        """Return a copy, (len(runs), length), of the elements run * length.. of each of `runs`, which ascend."""
        places = (runs * length)[:, None] + np.arange(length)
        return self.take(places.reshape(-1)).reshape(places.shape)


class ArrayBlocks(BlockSource):
    """A C-contiguous numpy array as `BlockSource`. Blocks of an aligned array are views: `store` then has no work."""

    def __init__(self, array: Array) -> None:
        if not array.flags.c_contiguous:
            raise UnsupportedArray("blocks", "not C-contiguous; use np.ascontiguousarray, or prune_tensor_inplace")
        self._array = array
        self._aligned = array.flags.aligned
        self._elements = array.reshape(-1)
        self._bytes = self._elements.view(np.uint8)

    @property
    def writable(self) -> bool:
        """Whether blocks can be stored."""
        return bool(self._array.flags.writeable)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self._array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the array."""
        return self._array.dtype

    def load(self, start: int, stop: int, scratch: Array) -> Array:
        """See `BlockSource.load`."""
        if self._aligned:
            return self._elements[start:stop]
        width = self.dtype.itemsize
        block = scratch[: stop - start]
        block.view(np.uint8)[:] = self._bytes[start * width : stop * width]
        return block

    def store(self, start: int, block: Array) -> None:
        """See `BlockSource.store`."""
        if self._aligned:
            return
        width = self.dtype.itemsize
        self._bytes[start * width : (start + len(block)) * width] = block.view(np.uint8)

    def put(self, start: int, values: Array) -> None:
        """See `BlockSource.put`."""
        width = self.dtype.itemsize
        self._bytes[start * width : (start + len(values)) * width] = values.view(np.uint8)

    def take(self, places: NDArray[np.intp]) -> Array:
        """See `BlockSource.take`."""
        return self._elements.take(places) if self._aligned else super().take(places)

    def take_runs(self, runs: NDArray[np.intp], length: int) -> Array:
        """See `BlockSource.take_runs`."""
        if not self._aligned:
            return super().take_runs(runs, length)
        whole = len(self._elements) // length * length
        taken: Array = self._elements[:whole].reshape(-1, length).take(runs, axis=0)
        return taken
