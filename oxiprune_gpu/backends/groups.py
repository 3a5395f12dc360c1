"""The highest scores of each group of neighbours stay: N:M sparsity, block by block.

The weight is cut into pieces of whole groups. The keys of a piece are laid out member by member, (of, groups), so that
every step is one comparison of long runs. An element's rank is the number of members of its group that fall before it,
those with a lower key, or an equal key and a lower index: those whose rank is below of - keep fall. It costs of / 2
comparisons an element whatever the data, which for groups this short is less than sorting or partitioning them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.backends.bits import bits_dtype, multiply_bits
from oxiprune_gpu.backends.parallel import BLOCK, Span, cut, over_spans
from oxiprune_gpu.backends.scored import BlockReader, ScoredWeight
from oxiprune_gpu.backends.threshold import check_finite
from oxiprune_gpu.granularity import GroupView

Array = NDArray[Any]
Mask = NDArray[np.bool_]


def prune_groups(scored: ScoredWeight, view: GroupView, mask: Mask | None, *, write: bool) -> None:
    """See `Backend.prune_groups`. The weight is read once to look for NaN, and once more to prune."""
    if not scored.size:
        return
    check_finite(scored)
    if mask is not None:
        mask.reshape(view.outer, view.length, view.inner)[:, view.whole :] = True
    if not view.pruned or (mask is None and not write):
        return
    pieces: list[_Run] | list[_Strip] = _runs(view) if _slab(view) <= BLOCK else _strips(view)
    flat = None if mask is None else mask.reshape(-1)

    def make_worker() -> Callable[[Span], None]:
        worker = _Worker(scored, view, max(piece.size(view) for piece in pieces))

        def work(span: Span) -> None:
            for piece in pieces[slice(*span)]:
                worker.prune(piece, flat, write=write)

        return work

    over_spans(make_worker, cut((0, len(pieces)), 1))


@dataclass(frozen=True)
class _Run:
    """Consecutive elements: `rows` times so many slabs (of x inner), each row followed by a tail that fills none."""

    start: int
    rows: int
    slabs: int
    tail: int

    def size(self, view: GroupView) -> int:
        return self.rows * (self.slabs * _slab(view) + self.tail)


@dataclass(frozen=True)
class _Strip:
    """Groups whose members lie far apart: `length` neighbours of each member, the first ones from `start` on."""

    start: int
    length: int
    members: int

    def size(self, view: GroupView) -> int:
        return self.members * self.length


def _slab(view: GroupView) -> int:
    """Elements of the groups that lie interleaved."""
    return view.of * view.inner


def _runs(view: GroupView) -> list[_Run]:
    """All groups in runs of about a block."""
    slab, slabs, row = _slab(view), view.length // view.of, view.length * view.inner
    tail = row - slabs * slab
    if not tail:
        at_once = max(1, BLOCK // slab)
        return [_Run(first * slab, last - first, 1, 0) for first, last in cut((0, view.outer * slabs), at_once)]
    if row <= BLOCK:
        at_once = BLOCK // row
        return [_Run(first * row, last - first, slabs, tail) for first, last in cut((0, view.outer), at_once)]
    runs = [(a * slab, b - a, 0) for a, b in cut((0, slabs), max(1, BLOCK // slab))]
    if view.falls(tail // view.inner):
        runs.append((slabs * slab, 0, tail))
    return [_Run(o * row + start, 1, some, rest) for o in range(view.outer) for start, some, rest in runs]


def _strips(view: GroupView) -> list[_Strip]:
    """All groups in strips of about a block."""
    row = view.length * view.inner
    groups = [(first * view.inner, min(view.of, view.length - first)) for first in range(0, view.length, view.of)]
    starts = [(o * row + start, members) for o in range(view.outer) for start, members in groups if view.falls(members)]
    pieces = cut((0, view.inner), max(1, BLOCK // view.of))
    return [_Strip(start + a, b - a, members) for start, members in starts for a, b in pieces]


class _Worker:
    """Prunes pieces of at most `size` elements. It owns scratch memory: one for each thread."""

    def __init__(self, scored: ScoredWeight, view: GroupView, size: int) -> None:
        self._source = scored.source
        self._view = view
        self._reader = BlockReader(scored, size)
        self._keys = np.empty(size, scored.key_dtype)
        self._ranks = np.empty(size, np.uint8)
        self._before = np.empty(size, np.bool_)
        self._kept = np.empty(size, np.bool_)
        self._factors = np.empty(size, bits_dtype(scored.dtype))
        self._raw = np.empty(size, scored.dtype)

    def prune(self, piece: _Run | _Strip, mask: Mask | None, *, write: bool) -> None:
        """Prune a piece; `mask` is that of the whole weight, flat."""
        if isinstance(piece, _Run):
            self._prune_run(piece, mask, write=write)
        else:
            self._prune_strip(piece, mask, write=write)

    def _prune_run(self, run: _Run, mask: Mask | None, *, write: bool) -> None:
        """Prune consecutive elements."""
        view, stop = self._view, run.start + run.size(self._view)
        grouped = run.slabs * _slab(view)
        values = self._reader.load(run.start, stop)
        kept = self._kept[: len(values)] if mask is None else mask[run.start : stop]
        keys, marks = (flat.reshape(run.rows, -1) for flat in (self._reader.keys_of(values, run.start), kept))
        if run.slabs:
            shape = (run.rows, run.slabs, view.of, view.inner)
            self._mark(keys[:, :grouped].reshape(shape), marks[:, :grouped].reshape(shape))
        if run.tail:
            shape = (run.rows, 1, run.tail // view.inner, view.inner)
            self._mark(keys[:, grouped:].reshape(shape), marks[:, grouped:].reshape(shape))
        if write:
            multiply_bits(values, kept, self._factors[: len(values)])
            self._source.store(run.start, values)

    def _mark(self, keys: Array, marks: Mask) -> None:
        """Write to `marks` which of the keys (rows, slabs, members, inner) stay in their group; both may be views."""
        members = keys.shape[2]
        if not self._view.falls(members):
            marks[...] = True
            return
        by_member = self._keys[: keys.size].reshape(members, *keys.shape[:2], keys.shape[3])
        by_member[...] = keys.transpose(2, 0, 1, 3)
        stays = self._stays(by_member.reshape(members, -1)).reshape(by_member.shape)
        for member in range(members):  # all at once would go through memory in runs of one group
            marks[:, :, member] = stays[member]

    def _prune_strip(self, strip: _Strip, mask: Mask | None, *, write: bool) -> None:
        """Prune groups whose members are loaded one by one."""
        members, length = strip.members, strip.length
        starts = [strip.start + member * self._view.inner for member in range(members)]
        raw = self._raw[: members * length].reshape(members, length)
        keys = self._keys[: members * length].reshape(members, length)
        values = [self._source.load(start, start + length, room) for start, room in zip(starts, raw, strict=True)]
        for start, some, room in zip(starts, values, keys, strict=True):
            room[:] = self._reader.keys_of(some, start)
        for start, some, stays in zip(starts, values, self._stays(keys), strict=True):
            if mask is not None:
                mask[start : start + length] = stays
            if write:
                multiply_bits(some, stays, self._factors[:length])
                self._source.store(start, some)

    def _stays(self, keys: Array) -> Mask:
        """Which of the keys (members, groups) are among the highest of their group; good until the next call."""
        of = len(keys)
        ranks = self._ranks[: keys.size].reshape(keys.shape)
        before = self._before[: keys.size].reshape(keys.shape)
        ranks[:] = np.arange(of - 1, -1, -1, dtype=np.uint8)[:, None]  # as if all that follow fell before it
        for member in range(of - 1):
            falls = before[member + 1 :]
            np.less_equal(keys[member], keys[member + 1 :], out=falls)
            ranks[member + 1 :] += falls.view(np.uint8)
            ranks[member] -= np.add.reduce(falls.view(np.uint8), axis=0, dtype=np.uint8)
        stays: Mask = np.greater_equal(ranks, self._view.falls(of), out=before)
        return stays
