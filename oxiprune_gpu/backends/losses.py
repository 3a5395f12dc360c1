"""SparseGPT's inner loop on numpy: what falls of one feature moves those behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.backends.bits import put_kept
from oxiprune_gpu.granularity import GroupView

Array = NDArray[Any]
KeptInGroups = Callable[[Array, GroupView], NDArray[np.bool_]]
"""Scores and how they compete -> which stay."""


def spread_losses(
    left: Array,
    fallen: NDArray[np.bool_],
    lost: Array,
    shares: Array,
    diagonal: Array,
    groups: GroupView | None,
    kept_in_groups: KeptInGroups,
) -> None:
    """See `Backend.spread_losses`."""
    for row in range(len(left)):
        if groups is not None and row % groups.of == 0:
            group = slice(row, row + groups.of)
            scores = (left[group] / diagonal[group, None]) ** 2
            fallen[group] = ~kept_in_groups(scores, replace(groups, length=len(scores)))
        put_kept(left[row], fallen[row], lost[row])
        left[row + 1 :] -= shares[row, row + 1 :, None] * lost[row]
