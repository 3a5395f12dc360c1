"""Launches of the selection: find the thresholds of all scopes of a table, then prune by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from oxiprune_gpu.backends.cuda_tables import (
    SEARCH,
    Member,
    column,
    defines,
    scope_table,
    tensor_table,
    tiles_of,
)
from oxiprune_gpu.backends.kernels import Kernel
from oxiprune_gpu.metrics import ImportanceMetric

THREADS = 256
"""Threads of a block."""

_BRACKET_THREADS = 1024
_DIGIT_BITS = 11
"""Bits of a key that one pass decides."""

NO_MASK, BOOLS, BITS = 0, 1, 2
"""Forms of a mask: none, a byte an element, a bit an element (the first one lowest)."""

_NONE = 2**64 - 1


class Selection:
    """The k lowest elements of every scope. Nothing here waits for the device but `first_nan`.

    Args:
        xp: the array module.
        kernel_of: gives a kernel by family, name and defines.
        blocks: blocks of a launch at most.
        members: the tensors; all of one dtype. Their scopes ascend.
        counts: how many elements of each scope are to fall.
        metric: scores them all.
    """

    def __init__(
        self,
        xp: Any,
        kernel_of: Callable[[str, str, dict[str, str]], Kernel],
        blocks: int,
        members: Sequence[Member],
        counts: Sequence[int],
        metric: ImportanceMetric,
    ) -> None:
        self._xp = xp
        self._kernel_of = kernel_of
        self._defines = defines(members[0].weight.dtype, metric)
        self._members = members  # keeps what the table points to
        self._count = np.uint32(len(members))
        self._key_dtype = members[0].weight.key_dtype
        self._tiles = sum(tiles_of(member.weight) for member in members)
        self._grid = (max(1, min(blocks, self._tiles)),)
        self._host_scopes = scope_table(members, counts)
        self._tensors = xp.asarray(tensor_table(members))
        self._scopes = xp.asarray(self._host_scopes)
        self._header = xp.asarray(np.array([0, _NONE], np.uint64))

    def find(self) -> None:
        """Find the threshold of every scope."""
        candidates = self._bracket() if (column(self._host_scopes, "mode") == SEARCH).any() else None
        passes = _digit_passes(8 * self._key_dtype.itemsize)
        histograms = self._xp.zeros((len(self._host_scopes), len(passes), 1 << _DIGIT_BITS), np.uint64)
        for number, (shift, bits) in enumerate(passes):
            place = np.uint32(shift), np.uint32(bits), np.uint32(number), np.uint32(len(passes))
            self._launch("take_digits", (self._scopes, candidates, histograms, *place, self._header))

    def apply(self, mask_kind: int, *, write: bool = True, nonzero: Any = None) -> None:
        """Prune by the thresholds, before the first scope that holds a NaN; write the members' masks.

        `nonzero` takes the count of what is left: one uint64 a member, zero before.
        """
        published = self._xp.zeros(self._tiles, np.uint64)
        kernel = self._kernel_of("apply", "apply", self._defines)
        table = self._tensors, self._count, np.uint64(self._tiles), self._scopes
        options = np.uint32(mask_kind), np.uint32(write)
        kernel(self._grid, (THREADS,), (*table, published, nonzero, *options, self._header))

    def found_nan(self) -> Any:
        """Whether a scope holds a NaN score: a bool on the device."""
        return self._header[1] != np.uint64(_NONE)

    def first_nan(self) -> int | None:
        """The first scope that holds a NaN score. Waits for the device."""
        scope = int(self._header[1])
        return None if scope == _NONE else scope

    def thresholds(self) -> Any:
        """The key of the k-th lowest score of each scope, as uint64 on the device."""
        return column(self._scopes, "threshold")

    def _bracket(self) -> Any:
        """Sample, bracket, count and collect; return the array of candidates."""
        sampled, capacity = column(self._host_scopes, "sampled"), column(self._host_scopes, "capacity")
        samples = self._xp.empty(int(sampled.sum()), self._key_dtype)
        candidates = self._xp.empty(max(1, int(capacity.sum())), self._key_dtype)
        grid = (-(-int(sampled.max()) // THREADS), len(self._host_scopes))
        kernel = self._kernel_of("select", "sample_keys", self._defines)
        kernel(grid, (THREADS,), (self._tensors, self._count, self._scopes, samples))
        bracket = self._kernel_of("select", "find_bracket", self._defines)
        bracket((len(self._host_scopes),), (_BRACKET_THREADS,), (self._scopes, samples))
        self._launch("count_between", (self._scopes, candidates, self._header))
        return candidates

    def _launch(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Launch a kernel that walks over all tiles."""
        kernel = self._kernel_of("select", name, self._defines)
        kernel(self._grid, (THREADS,), (self._tensors, self._count, np.uint64(self._tiles), *arguments))


def _digit_passes(key_bits: int) -> list[tuple[int, int]]:
    """(shift, bits) of every pass, from the highest digit to the lowest."""
    upper = list(range(key_bits, 0, -_DIGIT_BITS))
    return [(max(0, high - _DIGIT_BITS), min(high, _DIGIT_BITS)) for high in upper]
