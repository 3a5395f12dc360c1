"""Channels through a Reshape: runs of axes that hold the same elements on both sides are split, joined or repeated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

import numpy as np

from onnx_tools.compaction.mapping.channels import Channels
from onnx_tools.compaction.mapping.factors import MOST_ENTRIES, Dims, Factor, Size, Traced, simplified


def reshaped(channels: Channels, traced: Traced, before: Dims, after: Dims, reason: str) -> Traced:
    """The factors behind a Reshape from `before` to `after`; what can't be followed is fixed for `reason`."""
    segments = _segments(before, after)
    found: Traced = ()
    for factor in traced:
        result = None if segments is None else _reshaped(factor, traced, before, after, segments)
        if result is None or not result.axes:
            channels.fix(factor.ids, reason)
        elif (simple := simplified(channels, result)) is not None:
            found = (*found, simple)
    return found


def _segments(before: Dims, after: Dims) -> list[tuple[range, range]] | None:
    """Runs of axes that hold the same elements on both sides, as short as can be told."""
    left = 0
    segments: list[tuple[range, range]] = []
    while left < min(len(before), len(after)) and before[left] is not None and before[left] == after[left]:
        segments.append((range(left, left + 1), range(left, left + 1)))
        left += 1
    right: list[tuple[range, range]] = []
    i, j = len(before), len(after)
    while i > left and j > left and before[i - 1] is not None and before[i - 1] == after[j - 1]:
        i, j = i - 1, j - 1
        right.append((range(i, i + 1), range(j, j + 1)))
    return [*segments, *_cut(before, after, range(left, i), range(left, j)), *reversed(right)]


def _cut(before: Dims, after: Dims, old: range, new: range) -> list[tuple[range, range]]:
    """The middle part: from the right in known sizes as far as products meet, the rest as one run."""
    cuts: list[tuple[range, range]] = []
    i, j = old.stop, new.stop
    while i > old.start or j > new.start:
        a, b = i, j
        size, other = 1, 1
        while a == i or b == j or size != other:
            if size <= other and a > old.start and isinstance(before[a - 1], int):
                a -= 1
                size *= int(before[a] or 0)
            elif b > new.start and isinstance(after[b - 1], int) and (other < size or b == j):
                b -= 1
                other *= int(after[b] or 0)
            else:
                return [(range(old.start, i), range(new.start, j)), *reversed(cuts)]
        cuts.append((range(a, i), range(b, j)))
        i, j = a, b
    return list(reversed(cuts))


def _reshaped(
    factor: Factor, traced: Traced, before: Dims, after: Dims, segments: Sequence[tuple[range, range]]
) -> Factor | None:
    axes: list[int] = []
    old_axes: list[int] = []
    shape: list[int] = []
    expanded: list[int] = []
    for old, new in segments:
        inside = [axis for axis in factor.axes if axis in old]
        if not inside:
            continue
        others = any(axis in old for other in traced if other is not factor for axis in other.axes)
        sizes = [before[axis] for axis in old]
        if len(old) == len(new) == 1:
            expanded.append(factor.ids.shape[factor.axes.index(old.start)])
            shape.append(expanded[-1])
        elif others or not _known(sizes) or not _known([after[axis] for axis in new]):
            return None
        else:
            expanded += [int(size or 0) for size in sizes]
            shape += [int(after[axis] or 0) for axis in new]
        old_axes += old
        axes += new
    if prod(expanded) > MOST_ENTRIES or prod(expanded) != prod(shape):
        return None
    return Factor(tuple(axes), np.broadcast_to(factor.over(old_axes), expanded).reshape(shape))


def _known(sizes: Iterable[Size]) -> bool:
    return all(isinstance(size, int) for size in sizes)
