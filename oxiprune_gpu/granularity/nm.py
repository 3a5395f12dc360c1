"""N of every M neighbours."""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass
from typing import ClassVar, Self

from oxiprune_gpu.errors import InvalidOption, ShapeMismatch
from oxiprune_gpu.granularity.base import GroupView, PruningGranularity

LONGEST = 32
"""Most neighbours in a group."""

_TEXT = re.compile(r"([0-9]{1,9}):([0-9]{1,9})(?:@(-?[0-9]{1,9}))?(\+pad)?")


@dataclass(frozen=True)
class NM(PruningGranularity):
    """The `keep` highest scores of every `of` neighbours along an axis are kept.

    2:4 is what the sparse tensor cores of NVIDIA GPUs multiply (Mishra et al., 2021, "Accelerating sparse deep neural
    networks").

    Of equal scores the lowest index falls first. Neighbours at the end of an axis that do not fill a group are kept,
    unless `pad` is set. The sparsity is 1 - keep / of and need not be given: `PruningConfig(granularity="2:4")`.

    Args:
        keep: how many of each group are kept, 0 < keep < of.
        of: neighbours in a group, at most 32.
        axis: along which axis they are neighbours; negative counts from the end.
        pad: r neighbours at the end of an axis that do not fill a group compete too, as if zeros filled it, which fall
            first: of the r at most `keep` are kept.
    """

    keep: int
    of: int
    axis: int = -1
    pad: bool = False
    name: ClassVar[str] = "N:M"

    def __post_init__(self) -> None:
        for field in ("keep", "of", "axis"):
            option = getattr(self, field)
            if isinstance(option, bool) or not hasattr(option, "__index__"):
                raise InvalidOption(f"granularity N:M needs whole numbers, not {option!r}")
            object.__setattr__(self, field, operator.index(option))
        if not isinstance(self.pad, bool):
            raise InvalidOption(f"pad of granularity {self.text} must be True or False, not {self.pad!r}")
        if not 0 < self.keep < self.of <= LONGEST:
            raise InvalidOption(f"granularity {self.keep}:{self.of} must be N:M with 0 < N < M <= {LONGEST}")

    @property
    def sparsity(self) -> float:
        """See `PruningGranularity.sparsity`."""
        return (self.of - self.keep) / self.of

    def unit_view(self, shape: tuple[int, ...]) -> None:
        """See `PruningGranularity.unit_view`: every element is a unit, and competes with its group only."""

    def group_view(self, shape: tuple[int, ...]) -> GroupView:
        """See `PruningGranularity.group_view`."""
        axis = self.axis + len(shape) if self.axis < 0 else self.axis
        if not 0 <= axis < len(shape):
            raise ShapeMismatch(f"axis {self.axis} of granularity {self.text} does not exist in shape {list(shape)}")
        outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        return GroupView(outer, shape[axis], inner, self.of, self.keep, self.pad)

    @classmethod
    def from_text(cls, argument: str | None) -> Self:
        """Return `NM(N, M)` for `N:M`, `NM(N, M, AXIS)` for `N:M@AXIS`; with `+pad` behind it, `pad` is set."""
        match = _TEXT.fullmatch(argument or "")
        if match is None:
            raise InvalidOption(f"granularity N:M needs numbers, as in 2:4, or 2:4@0 along axis 0; got '{argument}'")
        keep, of, axis, pad = match.groups()
        return cls(int(keep), int(of), -1 if axis is None else int(axis), pad is not None)

    @property
    def text(self) -> str:
        """The granularity as text, with its axis where that is not the last."""
        axis = "" if self.axis == -1 else f"@{self.axis}"
        return f"{self.keep}:{self.of}{axis}" + ("+pad" if self.pad else "")
