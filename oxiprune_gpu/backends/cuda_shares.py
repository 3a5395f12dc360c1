"""Launches over tables of tensors where each has a range of the blocks: for work that is not tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from oxiprune_gpu.backends.cuda_tables import Member, Place, Words, tensor_table, tiles_of
from oxiprune_gpu.backends.kernels import Kernel

THREADS = 256
"""Threads of a block."""


class Row(NamedTuple):
    """One tensor: the kernel that works on it, its blocks, and what the kernel knows of it besides.

    `words` are the fields that follow `first_block` in its row of the second table; `number` is the tensor's place
    among all that are pruned together.
    """

    member: Member
    number: int
    kernel: str
    blocks: int
    words: Sequence[int]


class Launch(NamedTuple):
    """A kernel, its blocks, and the arguments that say which rows of which tables it works on."""

    kernel: Kernel
    blocks: int
    rows: tuple[Any, ...]

    def __call__(self, *arguments: Any) -> None:
        """Launch, with more arguments."""
        self.kernel((self.blocks,), (THREADS,), (*self.rows, *arguments))


class Shares:
    """Tables of tensors of one dtype, sorted by the kernels that work on them. All is uploaded when it is made.

    The scope of a tensor is its row.

    Args:
        xp: the array module.
        blocks: blocks at most of a launch that walks over tiles.
        rows: the tensors, none of them empty. Their arrays must live as long as this.
    """

    def __init__(self, xp: Any, blocks: int, rows: Sequence[Row]) -> None:
        self._rows = sorted(rows, key=lambda row: row.kernel)
        self._most_blocks = blocks
        members = [replace(row.member, scope=number) for number, row in enumerate(self._rows)]
        tensors = tensor_table(members, [Place(row.number, 0) for row in self._rows])
        self.tensors, self.table = _uploaded(xp, tensors, _words(self._rows))
        self._tiles = sum(tiles_of(member.weight) for member in members)

    def by_kernel(self, kernel_of: Callable[[str], Kernel]) -> list[Launch]:
        """A launch for each kernel, over (tensors, table, count)."""
        launches = []
        for name in dict.fromkeys(row.kernel for row in self._rows):
            numbers = [number for number, row in enumerate(self._rows) if row.kernel == name]
            rows = slice(numbers[0], numbers[-1] + 1)
            blocks = sum(row.blocks for row in self._rows[rows])
            arguments = self.tensors[rows], self.table[rows], np.uint32(len(numbers))
            launches.append(Launch(kernel_of(name), blocks, arguments))
        return launches

    def of_all(self, kernel: Kernel) -> Launch:
        """A launch over (table, count) with the blocks of all rows."""
        return Launch(kernel, sum(row.blocks for row in self._rows), (self.table, np.uint32(len(self._rows))))

    def over_tiles(self, kernel: Kernel) -> Launch:
        """A launch over (tensors, count, tiles) that walks over all tiles."""
        arguments = self.tensors, np.uint32(len(self._rows)), np.uint64(self._tiles)
        return Launch(kernel, max(1, min(self._most_blocks, self._tiles)), arguments)


def _words(rows: Sequence[Row]) -> Words:
    """The second table, (rows, fields)."""
    first_blocks = accumulate((row.blocks for row in rows), initial=0)
    return np.array([(first, *row.words) for first, row in zip(first_blocks, rows, strict=False)], np.uint64)


def _uploaded(xp: Any, *tables: Words) -> list[Any]:
    """Tables on the device, by one copy."""
    words = xp.asarray(np.concatenate([table.reshape(-1) for table in tables]))
    ends = accumulate((table.size for table in tables), initial=0)
    return [words[first : first + table.size].reshape(table.shape) for first, table in zip(ends, tables, strict=False)]
