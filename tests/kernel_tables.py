"""Tables of tensors and scopes as the kernels see them. Tests set any field by hand before any launch."""

from __future__ import annotations

import functools
import mmap
import sys
from collections.abc import Sequence

import numpy as np

from oxiprune_gpu.backends.cuda_groups import LINES_FIELDS
from oxiprune_gpu.backends.cuda_tables import DTYPE_STRUCTS, SCOPE_FIELDS, TENSOR_FIELDS, TILE_BYTES
from oxiprune_gpu.backends.cuda_unit_sums import UNIT_FIELDS
from tests import cuda_on_cpu
from tests.backends import source_of

TENSOR = np.dtype([(field, np.uint64) for field in TENSOR_FIELDS])
SCOPE = np.dtype([(field, np.uint64) for field in SCOPE_FIELDS])
UNITS = np.dtype([(field, np.uint64) for field in UNIT_FIELDS])
LINES = np.dtype([(field, np.uint64) for field in LINES_FIELDS])
SEARCH, WHOLE, CANDIDATES, FOUND = range(4)
NO_MASK, BOOLS, BITS = range(3)
OWN, PREFIX = 1 << 62, 2 << 62
"""Marks of a tile's word in `published`, as in apply.cu."""

NONE = 2**64 - 1
NORESERVE = 0x4000 if sys.platform == "linux" else 0
"""MAP_NORESERVE of Linux, which `mmap` knows from Python 3.13 on."""

DIGIT_BITS, THREADS, BRACKET_THREADS = 11, 256, 1024


@functools.cache
def kernels(seed: int) -> cuda_on_cpu.CpuKernels:
    return cuda_on_cpu.CpuKernels(source_of, seed=seed)


def tile_length(dtype: np.dtype) -> int:
    return TILE_BYTES // np.dtype(dtype).itemsize


def key_dtype(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.uint64 if np.dtype(dtype) == np.float64 else np.uint32)


def key_of(score: float, dtype: str = "float32") -> int:
    """The key of a score of a weight of this dtype."""
    return int(np.array(score, f"f{key_dtype(dtype).itemsize}").view(key_dtype(dtype)))


def placed(array: np.ndarray, beside: int = 0) -> np.ndarray:
    """A copy that begins so many elements after a multiple of 64 bytes."""
    room = np.empty(array.nbytes + 64 + beside * array.itemsize, np.uint8)
    start = -room.ctypes.data % 64 + beside * array.itemsize
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def untouched(count: int, dtype: np.dtype) -> np.ndarray:
    """Zeros that take memory where they are touched only, however many they are."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE
    room = mmap.mmap(-1, count * np.dtype(dtype).itemsize, flags=flags)
    return np.frombuffer(room, np.uint8).view(dtype)


def bits_of(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(f"u{array.itemsize}")


def row_of(kind: np.dtype, **fields: np.ndarray | int) -> np.ndarray:
    """A table of one row, `UNITS` or `LINES`; arrays are given by their address."""
    row = np.zeros(1, kind)
    for field, value in fields.items():
        row[field] = value.ctypes.data if isinstance(value, np.ndarray) else value
    return row


class Table:
    """Tensors cut into tiles, the scopes they compete in, and everything the selection launches.

    Args:
        weights: the tensors, all of one dtype; they are changed where they lie.
        counts: how many elements of each scope are to fall.
        scopes: the scope of each tensor, ascending; all in scope 0 if it is None.
        metric: functor of metrics.cuh.
        masks, gradients, seeds: one for each tensor, or none at all.
        window: tiles of the one tensor that are left out at its beginning, as if the table held the rest only.
        blocks, seed: of every launch; the seed chooses the order of threads.
    """

    def __init__(
        self,
        weights: Sequence[np.ndarray],
        counts: Sequence[int],
        scopes: Sequence[int] | None = None,
        *,
        metric: str = "L1",
        masks: Sequence[np.ndarray] = (),
        gradients: Sequence[np.ndarray] = (),
        seeds: Sequence[int] = (),
        window: int = 0,
        blocks: int = 3,
        seed: int = 1,
    ) -> None:
        self.dtype = weights[0].dtype
        self.blocks, self.seed = blocks, seed
        self.weights = weights
        self._kept_alive = masks, gradients
        self._defines = {"DTYPE": DTYPE_STRUCTS[self.dtype.name], "METRIC": metric}
        self.tensors = np.zeros(len(weights), TENSOR)
        self.scopes = np.zeros(len(counts), SCOPE)
        self.tensors["size"] = [weight.size for weight in weights]
        tiles = -(-self.tensors["size"].astype(np.int64) // tile_length(self.dtype)) - window
        self.tensors["data"] = [weight.ctypes.data for weight in weights]
        self.tensors["first_tile"] = (np.cumsum(tiles) - tiles - window).astype(np.uint64)
        self._scope_of = np.array(scopes or [0] * len(weights))
        self.tensors["scope"] = self._scope_of
        for field, values in (("mask", masks), ("gradient", gradients)):
            self.tensors[field] = [value.ctypes.data for value in values] or 0
        self.tensors["seed"] = seeds or 0
        self.tiles = int(tiles.sum())
        self.scopes["k"] = self.scopes["rank"] = counts
        for field, values in (("size", self.tensors["size"]), ("tiles", tiles)):
            np.add.at(self.scopes[field], self._scope_of, values.astype(np.uint64))
        self.scopes["first_tile"] = np.cumsum(self.scopes["tiles"]) - self.scopes["tiles"]
        self.scopes["mode"], self.scopes["ties"] = WHOLE, 1
        self.tensors["number"] = np.arange(len(weights))
        self.tensors["scope_tile"] = self.tensors["first_tile"] - self.scopes["first_tile"][self._scope_of]
        np.maximum.at(self.scopes["last_tensor"], self._scope_of, self.tensors["number"])
        self.first_nan = np.array([NONE], np.uint64)
        self.ticket = np.zeros(1, np.uint64)
        self.published = np.zeros(self.tiles, np.uint64)
        self.nonzero = np.zeros(len(weights), np.uint64)
        self.candidates = np.zeros(1, key_dtype(self.dtype))
        self.samples = np.zeros(1, key_dtype(self.dtype))

    def bracket(self, low: float, high: float, capacity: int) -> None:
        """Let every scope be searched between two scores, with room for so many candidates each."""
        self._search(capacity)
        self.scopes["low"], self.scopes["high"] = key_of(low, self.dtype), key_of(high, self.dtype)

    def sample(self, sampled: int, first_rank: int, last_rank: int, capacity: int) -> None:
        """Let every scope be searched between two ranks of a sample."""
        self._search(capacity)
        count = len(self.scopes)
        self.scopes["sampled"], self.scopes["sample"] = sampled, sampled * np.arange(count)
        self.scopes["first_rank"], self.scopes["last_rank"] = first_rank, last_rank
        self.samples = np.full(sampled * count, 0x5A, self.samples.dtype)
        self._launch("select", "sample_keys", (count, 2), (*self._table()[:2], self.scopes, self.samples))
        self._launch("select", "find_bracket", (count,), (self.scopes, self.samples), BRACKET_THREADS)

    def count_between(self) -> None:
        arguments = (*self._table(), self.scopes, self.candidates, self.first_nan)
        self._launch("select", "count_between", (self.blocks,), arguments)

    def take_digits(self) -> None:
        bits = 8 * self.candidates.itemsize
        passes = [(max(0, high - DIGIT_BITS), min(high, DIGIT_BITS)) for high in range(bits, 0, -DIGIT_BITS)]
        histograms = np.zeros((len(self.scopes), 1 << DIGIT_BITS), np.uint64)
        for shift, wide in passes:
            place = self.scopes, self.candidates, histograms, np.uint32(shift), np.uint32(wide)
            arguments = (*self._table(), *place, self.first_nan)
            self._launch("select", "take_digits", (self.blocks,), arguments)

    def find(self) -> None:
        """Find every threshold: the ways in which scopes are looked through are those their modes say."""
        self.count_between()
        self.take_digits()

    def apply(self, mask_kind: int = NO_MASK, *, write: bool = True) -> None:
        options = np.uint32(mask_kind), np.uint32(write)
        counted = self.ticket, self.published, self.nonzero
        arguments = (*self._table(), self.scopes, *counted, *options, self.first_nan)
        self._launch("apply", "apply", (self.blocks,), arguments)

    def publish_ties(self) -> None:
        self._launch("apply", "publish_ties", (self.blocks,), (*self._table(), self.scopes, self.published))

    def _search(self, capacity: int) -> None:
        count = len(self.scopes)
        self.scopes["mode"], self.scopes["capacity"] = SEARCH, capacity
        self.scopes["candidates"] = capacity * np.arange(count)
        # One more than there is room for, to see that nothing is written there.
        self.candidates = np.full(capacity * count + 1, 0x5A, self.candidates.dtype)

    def _table(self) -> tuple[np.ndarray, np.uint32, np.uint64]:
        return self.tensors, np.uint32(len(self.tensors)), np.uint64(self.tiles)

    def _launch(self, family: str, name: str, grid: tuple[int, ...], arguments: tuple, threads: int = THREADS) -> None:
        kernels(self.seed).kernel(family, name, self._defines)(grid, (threads,), arguments)
