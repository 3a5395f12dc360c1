"""Launches that prune inside groups: N:M."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from oxiprune_gpu.backends.cuda_tables import DeviceWeight, Member, address, defines, tensor_table
from oxiprune_gpu.backends.kernels import Kernel
from oxiprune_gpu.granularity import GroupView
from oxiprune_gpu.metrics import ImportanceMetric

LINES, WIDE, IN_A_ROW = "prune_groups", "prune_wide_groups", "prune_groups_in_a_row"
"""The kernels: of any lines, of wide lines, of groups that follow each other."""

_THREADS = 256
_VECTOR = 16
"""Bytes that one thread loads at once."""

_MOST_VECTORS = 12
"""Most of them in a patch; as in kernels/groups.cu."""


def prune_groups(
    xp: Any,
    kernel_of: Callable[[str, str, dict[str, str]], Kernel],
    blocks: int,
    member: Member,
    view: GroupView,
    metric: ImportanceMetric,
    *,
    write: bool = True,
    scan: bool = True,
) -> Any:
    """Set all but the `view.keep` elements with the highest scores of each group to +0.0. Nothing is waited for.

    By default the weight is read twice: a first launch counts NaN scores, and the one that prunes does nothing when
    there are any. With `scan=False` it is read once: NaN ranks above infinity and is counted while groups are pruned.
    That is for weights known to hold none. The count must be looked at all the same: where it is not 0, the weight and
    the mask have been written by scores without meaning.

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
        How many scores are NaN: one uint64 on the device.
    """
    nan = xp.zeros(1, np.uint64)
    size = member.weight.size
    if not size:
        return nan
    specialised = defines(member.weight.dtype, metric)
    table = xp.asarray(tensor_table([member]))
    if scan:
        kernel_of("elements", "scan_scores", specialised)(_grid(blocks, size), (_THREADS,), (table, None, nan))
    name = _kernel_for(member.weight, view)
    sides = () if name == IN_A_ROW else (view.outer, view.length, view.inner, view.falls(view.length % view.of))
    lines = tuple(np.uint64(side) for side in sides)
    options = np.uint32(view.keep), np.uint32(scan), np.uint32(write)
    prune = kernel_of("groups", name, {**specialised, "OF": str(view.of)})
    prune(_grid(blocks, size // view.of), (_THREADS,), (table, *lines, *options, nan))
    return nan


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


def _grid(blocks: int, work: int) -> tuple[int]:
    """A thread for each piece of work, or fewer that take several."""
    return (max(1, min(blocks, -(-work // _THREADS))),)
