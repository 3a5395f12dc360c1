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
        sparsity: fraction of the units to prune, 0 <= sparsity < 1. It is used as float32, as the reference does.
        metric: an `ImportanceMetric` or its text: `l1`, `l2`, `taylor` (the proxy), `random:SEED`.
        granularity: a `PruningGranularity` or its text: `unstructured`, `row`, `column`, `axis:N`.
        min_nonzero: at least this many elements of each tensor are kept (rounded up to whole units).

    Raises:
        InvalidSparsity: not a number in [0, 1), NaN and infinities included.
        InvalidOption: unknown metric or granularity, or a negative `min_nonzero`.
    """

    sparsity: float
    metric: ImportanceMetric = field(default_factory=L1Magnitude)
    granularity: PruningGranularity = field(default_factory=Unstructured)
    min_nonzero: int = 1

    def __init__(
        self,
        sparsity: float,
        metric: str | ImportanceMetric = "l1",
        granularity: str | PruningGranularity = "unstructured",
        min_nonzero: int = 1,
    ) -> None:
        set_field = object.__setattr__  # the dataclass is frozen, and its fields are narrower than what comes in
        set_field(self, "sparsity", _checked_sparsity(sparsity))
        set_field(self, "metric", parse_metric(metric))
        set_field(self, "granularity", parse_granularity(granularity))
        set_field(self, "min_nonzero", _checked_min_nonzero(min_nonzero))

    @classmethod
    def unstructured_l1(cls, sparsity: float) -> Self:
        """Element by element, by |w|."""
        return cls(sparsity, "l1", "unstructured")

    @classmethod
    def structured_row_l2(cls, sparsity: float) -> Self:
        """Row by row, by sqrt(sum w*w)."""
        return cls(sparsity, "l2", "row")


def _checked_sparsity(sparsity: object) -> float:
    if not isinstance(sparsity, numbers.Real | np.floating):
        raise InvalidSparsity(sparsity)
    with np.errstate(over="ignore"):
        single = float(np.float32(float(sparsity)))
    # A tiny negative double rounds to -0.0 as float32 but is still not a sparsity.
    if not 0.0 <= single < 1.0 or math.isnan(single) or float(sparsity) < 0.0:
        raise InvalidSparsity(sparsity)
    return float(sparsity)


def _checked_min_nonzero(min_nonzero: object) -> int:
    if not isinstance(min_nonzero, numbers.Integral) or min_nonzero < 0:
        raise InvalidOption(f"min_nonzero {min_nonzero!r} must be an integer, 0 or more")
    return int(min_nonzero)
