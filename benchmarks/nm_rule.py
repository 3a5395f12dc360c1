"""2:4 the slow and plain way: which elements stay, and what a tool has done."""

from __future__ import annotations

from typing import Any

import numpy as np

KEEP, OF = 2, 4


def expected(values: Any, axis: int) -> Any:
    """The mask of 2:4 along an axis: of each four neighbours the two of lowest magnitude fall, the first of equal ones.

    Neighbours at the end that are no four stay.
    """
    lines = np.moveaxis(values, axis, -1)
    mask = np.ones(lines.shape, bool)
    whole = lines.shape[-1] // OF * OF
    groups = np.abs(lines[..., :whole]).astype(np.float64).reshape(*lines.shape[:-1], -1, OF)
    fallen = np.argsort(groups, axis=-1, kind="stable")[..., : OF - KEEP]
    kept = np.ones(groups.shape, bool)
    np.put_along_axis(kept, fallen, False, axis=-1)
    mask[..., :whole] = kept.reshape(*lines.shape[:-1], whole)
    return np.moveaxis(mask, -1, axis)


def has_pattern(values: Any, axis: int) -> bool:
    """Whether at least two of each four neighbours along an axis are zero."""
    lines = np.moveaxis(values, axis, -1)
    groups = lines[..., : lines.shape[-1] // OF * OF].reshape(-1, OF)
    return bool((np.count_nonzero(groups, axis=-1) <= KEEP).all())


def verdict(before: Any, after: Any, axis: int) -> str:
    """What was done with a weight, in the words of the tables."""
    if before.shape != after.shape:
        return "another shape"
    bits = f"u{before.dtype.itemsize}"
    old, new = np.ascontiguousarray(before).view(bits), np.ascontiguousarray(after).view(bits)
    if np.array_equal(old, new):
        return "not pruned"
    if np.array_equal(np.where(expected(before, axis), old, 0), new):
        return "right"
    if not has_pattern(after, axis):
        return "not 2:4 along this axis"
    return "2:4, but not the smallest fell" if np.array_equal(np.where(new != 0, old, 0), new) else "other values"
