"""Launches that prune inside groups: N:M."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from oxiprune_gpu.backends.cuda_selection import BITS, BOOLS, NO_MASK, NO_NAN, KernelOf
from oxiprune_gpu.backends.cuda_shares import THREADS, Row, Shares
from oxiprune_gpu.backends.cuda_tables import DeviceWeight, Member, address, defines, nan_defines
from oxiprune_gpu.granularity import GroupView
from oxiprune_gpu.metrics import ImportanceMetric

LINES, WIDE, IN_A_ROW = "prune_groups", "prune_wide_groups", "prune_groups_in_a_row"
"""The kernels: of any lines, of wide lines, of groups that follow each other."""

LINES_FIELDS = ("first_block", "outer", "length", "inner", "tail_falls")
"""The fields of `Lines` in kernels/groups.cu."""

_VECTOR = 16
"""Bytes that one thread loads at once."""

_MOST_VECTORS = 12
"""Most of them in a patch; as in kernels/groups.cu."""


def prune_groups(
    xp: Any,
    kernel_of: KernelOf,
    blocks: int,
    member: Member,
    view: GroupView,
    metric: ImportanceMetric,
    *,
    write: bool = True,
    scan: bool = True,
) -> Any:
    """Set all but the `view.keep` elements with the highest scores of each group to +0.0. Nothing is waited for.

    By default the weight is read twice: a first launch looks for NaN, and the one that prunes does nothing when there
    is one. With `scan=False` it is read once: NaN ranks above infinity and is found while groups are pruned. That is
    for weights known to hold none. The result must be looked at all the same: where it says that there is a NaN, the
    weight and the mask have been written by scores without meaning.

    Args:
        xp: the array module.
        kernel_of: gives a kernel by family, name and defines.
        blocks: blocks of a launch at most.
        member: the weight with its gradient or seed, and its mask: an array of bytes that is written, or None. Its
            scope does not matter. Its arrays must live until the launches have run.
        view: how the weight is seen as groups; it fits the weight.
        metric: scores the elements.
        write: whether the weight is changed.
        scan: whether NaN is looked for before anything is written.

    Returns:
        One uint64 on the device: `NO_NAN`, or 0 where a score is NaN.
    """
    header = xp.full(1, NO_NAN, np.uint64)
    if member.weight.size:
        groups = GroupLaunches(xp, kernel_of, blocks, [GroupWork(member, view)], metric)
        if scan:
            groups.find_nan(header)
        groups.prune(header, NO_MASK if member.mask is None else BOOLS, write=write, scanned=scan)
    return header


class GroupWork(NamedTuple):
    """A tensor, its groups, and its place among all that are pruned together."""

    member: Member
    view: GroupView
    number: int = 0


class GroupLaunches:
    """Prunes inside the groups of tensors of one dtype: one launch for each way in which groups lie.

    All memory is allocated, and all kernels are loaded, when it is made.

    Args:
        xp: the array module.
        kernel_of: gives a kernel by family, name and defines.
        blocks: blocks of a launch at most, for each tensor.
        works: the tensors; none is empty, and all views have the same `keep` and `of`.
        metric: scores the elements.
    """

    def __init__(
        self, xp: Any, kernel_of: KernelOf, blocks: int, works: Sequence[GroupWork], metric: ImportanceMetric
    ) -> None:
        dtype, view = works[0].member.weight.dtype, works[0].view
        options = {**defines(dtype, metric), "OF": str(view.of)}
        self._kept_alive = works
        self._keep = np.uint32(view.keep)
        shares = Shares(xp, blocks, [_row(work, blocks) for work in works])
        self._launches = shares.by_kernel(lambda name: kernel_of("groups", name, options))
        self._keep_all = shares.over_tiles(kernel_of("groups", "keep_all", options))
        self.find_nan = shares.over_tiles(kernel_of("elements", "find_nan", nan_defines(dtype, metric)))

    def prune(
        self, header: Any, mask_kind: int, *, nonzero: Any = None, write: bool = True, scanned: bool = True
    ) -> None:
        """Prune the tensors, if `scanned` only those before the one that the header names; write masks.

        `nonzero`, where it is given, has one word a tensor, by its number: what is left is added to it.
        """
        if mask_kind == BITS:
            self._keep_all()
        for launch in self._launches:
            launch(self._keep, np.uint32(scanned), np.uint32(write), np.uint32(mask_kind), nonzero, header)


def _row(work: GroupWork, blocks: int) -> Row:
    view, weight = work.view, work.member.weight
    lines = view.outer, view.length, view.inner, view.falls(view.length % view.of)
    needed = -(-weight.size // view.of // THREADS)
    return Row(work.member, work.number, _kernel_for(weight, view), max(1, min(blocks, needed)), lines)


def _kernel_for(weight: DeviceWeight, view: GroupView) -> str:
    """The kernel that reads a weight in the longest pieces it allows; kernels/groups.cu has their conditions."""
    itemsize = weight.dtype.itemsize
    if address(weight.bits) % _VECTOR == 0:
        vectors = view.of // math.gcd(view.of, _VECTOR // itemsize)
        if view.inner == 1 and view.length % view.of == 0 and vectors <= _MOST_VECTORS:
            return IN_A_ROW
        wide = _wide(view.of, itemsize)
        if wide > 1 and view.inner % wide == 0:
            return WIDE
    return LINES


def _wide(of: int, itemsize: int) -> int:
    """Length of a wide run, as WIDE in kernels/groups.cu; 0 where one element is wider than that."""
    return (16 if of <= 4 else 8 if of <= 8 else 4 if of <= 16 else 2) // itemsize
