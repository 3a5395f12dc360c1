"""What to prune, as one value."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from oxiprune_gpu.errors import InvalidOption, InvalidSparsity
from oxiprune_gpu.granularity import PruningGranularity, Unstructured, parse_granularity
from oxiprune_gpu.metrics import ImportanceMetric, L1Magnitude, parse_metric


@dataclass(frozen=True)
class PruningConfig:
    """How much to prune, by which metric, in which units.

    Args:
        sparsity: fraction of the units to prune, 0 <= sparsity < 1. It is used as float32, as the reference does. As
            there, the range is checked when something is pruned; `check()` checks it at once. Leave it out, or None,
            where the granularity says it: 2:4 prunes half.
        metric: an `ImportanceMetric` or its text: `l1`, `l2`, `taylor` (the proxy), `random:SEED`.
        granularity: a `PruningGranularity` or its text: `unstructured`, `row`, `column`, `axis:N`, `block:HxW`,
            `kernel`, `N:M` as in `2:4` (along the last axis) or `2:4@0` (along axis 0), `2:4+pad`.
        min_nonzero: at least this many elements of each tensor are kept (rounded up to whole units).

    Raises:
        InvalidSparsity: sparsity is not a number, or another one than the granularity has.
        InvalidOption: unknown metric or granularity, or a negative `min_nonzero`.
    """

    sparsity: float
    metric: ImportanceMetric = field(default_factory=L1Magnitude)
    granularity: PruningGranularity = field(default_factory=Unstructured)
    min_nonzero: int = 1

    def __init__(
        self,
        sparsity: float | None = None,
        metric: str | ImportanceMetric = "l1",
        granularity: str | PruningGranularity = "unstructured",
        min_nonzero: int = 1,
    ) -> None:
        set_field = object.__setattr__  # the dataclass is frozen, and its fields are narrower than what comes in
        number = None if sparsity is None else _as_number(sparsity)
        set_field(self, "metric", parse_metric(metric))
        set_field(self, "granularity", parse_granularity(granularity))
        set_field(self, "sparsity", _sparsity_in(self.granularity, number))
        set_field(self, "min_nonzero", _checked_min_nonzero(min_nonzero))

    def check(self) -> None:
        """Raise `InvalidSparsity` when sparsity is not in [0, 1): NaN and infinities too."""
        # The double is asked first: a large one has no float32, and a tiny negative one rounds to -0.0, which is legal,
        # but no sparsity.
        if not 0.0 <= self.sparsity < 1.0 or np.float32(self.sparsity) >= 1:
            raise InvalidSparsity(self.sparsity)

    @classmethod
    def unstructured_l1(cls, sparsity: float) -> Self:
        """Element by element, by |w|."""
        return cls(sparsity, "l1", "unstructured")

    @classmethod
    def structured_row_l2(cls, sparsity: float) -> Self:
        """Row by row, by sqrt(sum w*w)."""
        return cls(sparsity, "l2", "row")


def _as_number(sparsity: object) -> float:
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float | np.integer | np.floating):
        raise InvalidSparsity(sparsity)
    try:
        return float(sparsity)
    except OverflowError:
        return math.copysign(math.inf, sparsity)


def _sparsity_in(granularity: PruningGranularity, sparsity: float | None) -> float:
    """The sparsity that is meant: the one that was given, unless the granularity has only one."""
    only = granularity.sparsity
    if only is None:
        if sparsity is None:
            raise InvalidSparsity(None, "must be in [0.0, 1.0): only N:M, as in 2:4, has one of its own")
        return sparsity
    with np.errstate(over="ignore"):
        if sparsity is not None and np.float32(sparsity) != np.float32(only):
            raise InvalidSparsity(sparsity, f"is not that of granularity {granularity.text}, {only:.9g}: leave it out")
    return only


def _checked_min_nonzero(min_nonzero: object) -> int:
    if isinstance(min_nonzero, bool) or not isinstance(min_nonzero, numbers.Integral) or min_nonzero < 0:
        raise InvalidOption(f"min_nonzero {min_nonzero!r} must be an integer, 0 or more")
    return int(min_nonzero)
