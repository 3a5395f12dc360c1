"""Launches that add up the units of one tensor or of many, in the documented order (kernels/units.cu)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from oxiprune_gpu.backends.cuda_tables import DeviceWeight, Member, Place, Words, address, tensor_table
from oxiprune_gpu.backends.kernels import Kernel
from oxiprune_gpu.granularity import UnitView

THREADS = 256
"""Threads of a block."""

UNIT_FIELDS = (
    *("groups", "outer", "units", "inner", "first_block", "wide", "mean"),
    *("chunk_sums", "sums", "scores", "nan", "kept"),
)
"""The fields of `Units` in kernels/units.cu."""

RUNS, COLUMNS, SCATTERED = "sum_runs", "sum_columns", "sum_scattered"
"""The kernels, one a way in which units lie."""

_CHUNK, _LANES, _SLOTS = 1 << 14, 128, 4
"""Terms of a chunk, lanes of a chunk, lanes of a thread: as in kernels/sums.cuh."""

_WIDE = 32
_SECTOR = 32
"""Columns of a block of the wide kind, and bytes of a row of the narrow kind."""

_VECTOR = 16
"""Bytes that a thread loads at once, at most."""


class UnitWork(NamedTuple):
    """The units of one tensor, and the device arrays that get what comes of them.

    Attributes:
        member: the tensor.
        view: its units, as `merged` sees them.
        sums, scores: one of them is None. Sums are float64, scores have the score dtype.
        nan: one uint64, not 0 afterwards if a score is NaN; None where nobody asks.
        mean: a key. Where squared deviations are added, those from it.
        kept: which units stay, for `apply_units`.
        number: the tensor's place among all of a plan.
    """

    member: Member
    view: UnitView
    sums: Any = None
    scores: Any = None
    nan: Any = None
    mean: int = 0
    kept: Any = None
    number: int = 0


class UnitSums:
    """Adds up the units of tensors of one dtype: a launch for each way in which units lie, one more for long units.

    All memory is allocated, and all kernels are loaded, when it is made.

    Args:
        xp: the array module.
        kernel_of: gives a kernel of units.cu.
        blocks: blocks of a launch at most, for each tensor.
        works: the tensors; none is empty.

    Attributes:
        members: the tensors in the order of the tables.
        tensors, units: tables on the device: row r of one belongs to row r of the other.
    """

    def __init__(self, xp: Any, kernel_of: Callable[[str], Kernel], blocks: int, works: Sequence[UnitWork]) -> None:
        rows = sorted((_planned(xp, work, blocks) for work in works), key=lambda row: row.kernel)
        self._rows = rows  # keeps what the tables point to
        self.members = [row.work.member for row in rows]
        places = [Place(row.work.number, 0) for row in rows]
        self.tensors, self.units = _uploaded(xp, tensor_table(self.members, places), _unit_table(rows))
        self._launches: list[tuple[Kernel, int, tuple[Any, ...]]] = []
        for name in dict.fromkeys(row.kernel for row in rows):
            numbers = [number for number, row in enumerate(rows) if row.kernel == name]
            self._add(kernel_of(name), slice(numbers[0], numbers[-1] + 1), self.tensors)
        if any(row.chunk_sums is not None for row in rows):
            self._add(kernel_of("add_chunks"), slice(0, len(rows)))

    def launch(self) -> None:
        """Add up all units. Nothing is allocated, and nothing waited for."""
        for kernel, blocks, arguments in self._launches:
            kernel((blocks,), (THREADS,), arguments)

    def _add(self, kernel: Kernel, rows: slice, *tables: Any) -> None:
        """Prepare a launch over some rows of the tables."""
        blocks = sum(row.blocks for row in self._rows[rows])
        arguments = (*(table[rows] for table in (*tables, self.units)), np.uint32(rows.stop - rows.start))
        self._launches.append((kernel, blocks, arguments))


class _Row(NamedTuple):
    """A row of the tables: the kernel that adds up its units, and how many blocks it takes."""

    work: UnitWork
    kernel: str
    blocks: int
    wide: bool
    chunk_sums: Any


def merged(view: UnitView) -> UnitView:
    """The same units in the simplest view: those that lie in one piece become rows."""
    if view.units == 1 or view.outer == 1:
        return UnitView(1, 1, view.count, view.unit_size)
    return view


def _planned(xp: Any, work: UnitWork, most_blocks: int) -> _Row:
    view, chunks = work.view, -(-work.view.unit_size // _CHUNK)
    kernel, blocks, wide = _way(work.member.weight, view, most_blocks)
    sums = xp.empty(view.count * chunks, np.float64) if chunks > 1 else None
    return _Row(work, kernel, max(1, min(most_blocks, blocks)), wide, sums)


def _way(weight: DeviceWeight, view: UnitView, most_blocks: int) -> tuple[str, int, bool]:
    """The kernel that adds up the units of a view, the blocks that it has work for, and whether columns are wide."""
    pieces = view.count * -(-view.unit_size // _CHUNK)
    if view.outer > 1 and view.inner == 1:
        narrow = _SECTOR // weight.dtype.itemsize
        strips = pieces // view.units * -(-view.units // _WIDE)
        wide = strips >= most_blocks
        return COLUMNS, strips if wide else pieces // view.units * -(-view.units // narrow), wide
    blocks = -(-pieces * _team(view.unit_size) // THREADS)
    in_runs = view.outer == 1 and _in_vectors(weight, view.inner)
    return RUNS if in_runs else SCATTERED, blocks, False


def _unit_table(rows: Sequence[_Row]) -> Words:
    """The table of units, (rows, fields)."""
    table = np.zeros((len(rows), len(UNIT_FIELDS)), np.uint64)
    first_blocks = accumulate((row.blocks for row in rows), initial=0)
    for words, row, first_block in zip(table, rows, first_blocks, strict=False):
        work = row.work
        arrays = (row.chunk_sums, work.sums, work.scores, work.nan, work.kept)
        words[:] = (*work.view.shape, first_block, row.wide, work.mean, *map(address, arrays))
    return table


def _uploaded(xp: Any, *tables: Words) -> list[Any]:
    """Tables of equally many rows, on the device by one copy."""
    words = xp.asarray(np.concatenate([table.reshape(-1) for table in tables]))
    ends = accumulate((table.size for table in tables), initial=0)
    return [words[first : first + table.size].reshape(table.shape) for first, table in zip(ends, tables, strict=False)]


def _in_vectors(weight: DeviceWeight, length: int) -> bool:
    """True when every row begins where a thread can load the terms of its lanes at once."""
    return length % _SLOTS == 0 and address(weight.bits) % min(_VECTOR, _SLOTS * weight.dtype.itemsize) == 0


def _team(unit_size: int) -> int:
    """Threads that add a chunk; see `team_for` in kernels/sums.cuh."""
    return min(_LANES, 1 << (unit_size - 1).bit_length()) // _SLOTS or 1
