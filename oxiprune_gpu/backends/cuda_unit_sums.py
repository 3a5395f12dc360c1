"""Launches that add up the units of one tensor or of many, in the documented order (kernels/units.cu)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from oxiprune_gpu.backends.cuda_shares import THREADS, Row, Shares
from oxiprune_gpu.backends.cuda_tables import DeviceWeight, Member, address
from oxiprune_gpu.backends.kernels import Kernel
from oxiprune_gpu.granularity import UnitView

UNIT_FIELDS = (
    *("first_block", "groups", "outer", "units", "inner", "wide", "mean"),
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
        shares: the tables; a row of the second one is a `Units`.
    """

    def __init__(self, xp: Any, kernel_of: Callable[[str], Kernel], blocks: int, works: Sequence[UnitWork]) -> None:
        chunk_sums = [_chunk_sums(xp, work.view) for work in works]
        rows = [_row(work, blocks, sums) for work, sums in zip(works, chunk_sums, strict=True)]
        self._kept_alive = works, chunk_sums
        self.shares = Shares(xp, blocks, rows)
        self._launches = self.shares.by_kernel(kernel_of)
        if any(sums is not None for sums in chunk_sums):
            self._launches.append(self.shares.of_all(kernel_of("add_chunks")))

    def launch(self) -> None:
        """Add up all units. Nothing is allocated, and nothing waited for."""
        for launch in self._launches:
            launch()


def merged(view: UnitView) -> UnitView:
    """The same units in the simplest view: those that lie in one piece become rows."""
    if view.units == 1 or view.outer == 1:
        return UnitView(1, 1, view.count, view.unit_size)
    return view


def _chunk_sums(xp: Any, view: UnitView) -> Any:
    """Room for the sums of the chunks of units that have several."""
    chunks = -(-view.unit_size // _CHUNK)
    return xp.empty(view.count * chunks, np.float64) if chunks > 1 else None


def _row(work: UnitWork, most_blocks: int, chunk_sums: Any) -> Row:
    kernel, blocks, wide = _way(work.member.weight, work.view, most_blocks)
    arrays = (chunk_sums, work.sums, work.scores, work.nan, work.kept)
    words = (*work.view.shape, wide, work.mean, *map(address, arrays))
    return Row(work.member, work.number, kernel, max(1, min(most_blocks, blocks)), words)


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


def _in_vectors(weight: DeviceWeight, length: int) -> bool:
    """True when every row begins where a thread can load the terms of its lanes at once."""
    return length % _SLOTS == 0 and address(weight.bits) % min(_VECTOR, _SLOTS * weight.dtype.itemsize) == 0


def _team(unit_size: int) -> int:
    """Threads that add a chunk; see `team_for` in kernels/sums.cuh."""
    return min(_LANES, 1 << (unit_size - 1).bit_length()) // _SLOTS or 1
