"""Launches of the selection: find the thresholds of all scopes of a table, then prune by them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate, islice, pairwise
from typing import Any, NamedTuple

import numpy as np

from oxiprune_gpu.backends.cuda_tables import Member, Tables, Words, column, defines, tables_of, tiles_of
from oxiprune_gpu.backends.kernels import Kernel
from oxiprune_gpu.metrics import ImportanceMetric

THREADS = 256
"""Threads of a block."""

_BRACKET_THREADS = 1024
_DIGIT_BITS = 11
"""Bits of a key that one pass decides."""

NO_MASK, BOOLS, BITS = 0, 1, 2
"""Forms of a mask: none, a byte an element, a bit an element (the first one lowest)."""

NO_NAN = 2**64 - 1
"""What the word of the first NaN holds where there is none."""

KernelOf = Callable[[str, str, dict[str, str]], Kernel]


class Selection:
    """The k lowest elements of every scope. Nothing here waits for the device.

    All memory is allocated when it is made. Tensors of each dtype take launches of their own; they may share one scope,
    if it is the only one and their scores have one dtype.

    Args:
        xp: the array module.
        kernel_of: gives a kernel by family, name and defines.
        blocks: blocks of a launch at most.
        members: the tensors. Their scopes ascend.
        counts: how many elements of each scope are to fall.
        metric: scores them all.
        repeatable: whether `restore` makes it possible to `find` again.

    Attributes:
        header: the word on the device with the index of the first member that holds a NaN score; `NO_NAN` for none.
    """

    def __init__(
        self,
        xp: Any,
        kernel_of: KernelOf,
        blocks: int,
        members: Sequence[Member],
        counts: Sequence[int],
        metric: ImportanceMetric,
        *,
        repeatable: bool = False,
    ) -> None:
        self._members = members  # keeps what the tables point to
        tables = tables_of(members, counts)
        self._shared = len(tables) > 1 and tables[0].scopes is tables[1].scopes
        scopes = [table.scopes for table in tables[: 1 if self._shared else None]]
        tiles = [sum(tiles_of(member.weight) for member in table.members) for table in tables]
        filled = [np.array([NO_NAN], np.uint64), *scopes, *(table.tensors for table in tables)]
        zeros = [len(members), *[1] * len(tables), *([sum(tiles)] if self._shared else tiles)]
        self._space = Workspace(xp, filled, zeros, repeatable)
        (self.header,), self._scopes = self._space.take(1), self._space.take(len(scopes))
        tensors, (self.nonzero,) = self._space.take(len(tables)), self._space.take(1)
        tickets, published = self._space.take(len(tables)), self._space.take(len(scopes))
        self._histograms = [xp.zeros((len(table), 1 << _DIGIT_BITS), np.uint64) for table in scopes]
        self._parts = []
        for number, table in enumerate(tables):
            scope = 0 if self._shared else number
            own = self._scopes[scope], published[scope], self._histograms[scope], tensors[number], tickets[number]
            space = _PartSpace(*own, self.header, self.nonzero)
            self._parts.append(_Part(xp, kernel_of, blocks, table, metric, space))

    def restore(self) -> None:
        """Bring everything back to where it was before `find`, by one copy on the device.

        Histograms are zero between launches, except between those that share one.
        """
        self._space.restore()
        if self._shared:
            self._histograms[0][...] = 0

    def find(self) -> None:
        """Find the threshold of every scope."""
        for part in self._parts:
            part.bracket()
        for number in range(max(len(part.passes) for part in self._parts)):
            for part in self._parts:  # the dtypes of a shared scope have the same passes, each complete after the last
                if number < len(part.passes):
                    part.take_digits(*part.passes[number])

    def apply(self, mask_kind: int, *, write: bool = True) -> None:
        """Prune by the thresholds, before the first scope that holds a NaN; write the members' masks.

        With `write`, `nonzero`, one uint64 for each member, then holds how many elements are left.
        """
        if self._shared:
            for part in self._parts:
                part.publish_ties()
        for part in self._parts:
            part.apply(mask_kind, write=write)

    def thresholds(self) -> Any:
        """The key of the k-th lowest score of each scope, as uint64 on the device; for members of one dtype."""
        return column(self._scopes[0], "threshold")


class Workspace:
    """Arrays of 64-bit words cut from one, so that one upload fills them and one copy restores them."""

    def __init__(self, xp: Any, filled: Sequence[Words], zeros: Sequence[int], restorable: bool) -> None:
        host = np.concatenate([table.reshape(-1) for table in filled])
        self._words = xp.zeros(len(host) + sum(zeros), np.uint64)
        self._words[: len(host)] = xp.asarray(host)
        self._pristine = self._words.copy() if restorable else None
        shapes = [*(table.shape for table in filled), *((size,) for size in zeros)]
        ends = list(accumulate(map(math.prod, shapes), initial=0))
        places = zip(pairwise(ends), shapes, strict=True)
        self._pieces = iter([self._words[first:last].reshape(shape) for (first, last), shape in places])

    def take(self, count: int) -> list[Any]:
        """The next arrays, in the order in which they were asked for: the filled ones, then the zeros."""
        return list(islice(self._pieces, count))

    def restore(self) -> None:
        """Bring all of them back to where they were, by one copy on the device."""
        self._words[...] = self._pristine


class _PartSpace(NamedTuple):
    """Device arrays that the launches of a part work on."""

    scopes: Any
    published: Any
    histograms: Any
    tensors: Any
    ticket: Any
    header: Any
    nonzero: Any


class _Part:
    """The launches for the members of one dtype."""

    def __init__(
        self, xp: Any, kernel_of: KernelOf, blocks: int, table: Tables, metric: ImportanceMetric, space: _PartSpace
    ) -> None:
        weight = table.members[0].weight
        self.passes = _digit_passes(8 * weight.key_dtype.itemsize)
        self._kernel_of = kernel_of
        self._defines = defines(weight.dtype, metric)
        self._space = space
        tiles = sum(tiles_of(member.weight) for member in table.members)
        self._grid = (max(1, min(blocks, tiles)),)
        self._table = space.tensors, np.uint32(len(table.members)), np.uint64(tiles)
        self._load_kernels()
        self._samples = self._candidates = None
        sampled = column(table.scopes, "sampled")
        self._sample_grid = len(table.scopes), -(-int(sampled.max()) // THREADS)
        if sampled.any():
            self._samples = xp.empty(int(sampled.sum()), weight.key_dtype)
            self._candidates = xp.empty(int(column(table.scopes, "capacity").sum()), weight.key_dtype)

    def bracket(self) -> None:
        """Sample, bracket, count and collect, where a scope is large enough."""
        if self._samples is None:
            return
        scopes = self._space.scopes
        self._kernel("sample_keys")(self._sample_grid, (THREADS,), (*self._table[:2], scopes, self._samples))
        self._kernel("find_bracket")((len(scopes),), (_BRACKET_THREADS,), (scopes, self._samples))
        self._walk(self._kernel("count_between"), scopes, self._candidates, self._space.header)

    def take_digits(self, shift: int, bits: int) -> None:
        """Decide one digit of the thresholds that are not known yet."""
        arguments = self._space.scopes, self._candidates, self._space.histograms, np.uint32(shift), np.uint32(bits)
        self._walk(self._kernel("take_digits"), *arguments, self._space.header)

    def publish_ties(self) -> None:
        """Count the ties of every tile before tiles of other dtypes ask for them."""
        self._walk(self._kernel("publish_ties", "apply"), self._space.scopes, self._space.published)

    def apply(self, mask_kind: int, *, write: bool) -> None:
        """See `Selection.apply`."""
        space, options = self._space, (np.uint32(mask_kind), np.uint32(write))
        counted = space.ticket, space.published, space.nonzero if write else None
        self._walk(self._kernel("apply", "apply"), space.scopes, *counted, *options, space.header)

    def _walk(self, kernel: Kernel, *arguments: Any) -> None:
        """Launch a kernel that walks over all tiles."""
        kernel(self._grid, (THREADS,), (*self._table, *arguments))

    def _load_kernels(self) -> None:
        """Compile what may be launched: nothing can be while a CUDA graph is captured."""
        for name in ("sample_keys", "find_bracket", "count_between", "take_digits"):
            self._kernel(name)
        for name in ("publish_ties", "apply"):
            self._kernel(name, "apply")

    def _kernel(self, name: str, family: str = "select") -> Kernel:
        return self._kernel_of(family, name, self._defines)


def _digit_passes(key_bits: int) -> list[tuple[int, int]]:
    """(shift, bits) of every pass, from the highest digit to the lowest."""
    upper = list(range(key_bits, 0, -_DIGIT_BITS))
    return [(max(0, high - _DIGIT_BITS), min(high, _DIGIT_BITS)) for high in upper]
