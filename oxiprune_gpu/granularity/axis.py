"""Slices along one axis."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import ClassVar, Self

from oxiprune_gpu.errors import InvalidOption, ShapeMismatch
from oxiprune_gpu.granularity.base import PruningGranularity, UnitView


@dataclass(frozen=True)
class Axis(PruningGranularity):
    """Whole slices along one axis of a weight with any number of axes: `weight.take(u, axis)`.

    Args:
        axis: which axis; negative counts from the end.
        groups: splits axis 0 into this many equal parts, each with units of its own. So the input channels of a
            grouped convolution (out, in / groups, ...) are `Axis(1, groups)`. Axis 0 itself can't be the unit axis
            of a grouping.
    """

    axis: int
    groups: int = 1
    name: ClassVar[str] = "axis"

    def __post_init__(self) -> None:
        for field in ("axis", "groups"):
            option = getattr(self, field)
            if isinstance(option, bool) or not hasattr(option, "__index__"):
                raise InvalidOption(f"granularity axis needs whole numbers, not {option!r}")
            object.__setattr__(self, field, operator.index(option))

    def unit_view(self, shape: tuple[int, ...]) -> UnitView:
        """See `PruningGranularity.unit_view`."""
        axis = self.axis + len(shape) if self.axis < 0 else self.axis
        if not 0 <= axis < len(shape):
            raise ShapeMismatch(f"axis {self.axis} does not exist in shape {list(shape)}")
        if self.groups < 1 or (self.groups > 1 and (axis == 0 or shape[0] % self.groups)):
            raise ShapeMismatch(f"axis {self.axis} of shape {list(shape)} can't have {self.groups} groups")
        outer = math.prod(shape[:axis]) // self.groups
        return UnitView(self.groups, outer, shape[axis], math.prod(shape[axis + 1 :]))

    @classmethod
    def from_text(cls, argument: str | None) -> Self:
        """Return `Axis(N)` for the text `axis:N`, `Axis(N, G)` for `axis:N/G`."""
        axis, slash, groups = (argument or "").partition("/")
        try:
            return cls(int(axis), int(groups)) if slash else cls(int(axis))
        except ValueError:
            raise InvalidOption(f"granularity axis needs a number, as in axis:0; got '{argument or ''}'") from None

    @property
    def text(self) -> str:
        """The granularity as text, with its groups."""
        return f"axis:{self.axis}" if self.groups == 1 else f"axis:{self.axis}/{self.groups}"
