"""Blocks of the first two axes."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import ClassVar, Self

from oxiprune_gpu.errors import InvalidOption, NotTwoDimensional, ShapeMismatch
from oxiprune_gpu.granularity.base import PruningGranularity, UnitView


@dataclass(frozen=True)
class Block(PruningGranularity):
    """Blocks of `height` x `width` over the first two axes of a weight; all that lies below them belongs to a block.

    Blocks of a matrix have height * width elements; those of a convolution (out, in, kernel ...) span so many output
    and input channels, with whole kernels. They are numbered from left to right, then downwards. Both sides must divide
    their axis.

    Args:
        height: how much of axis 0 a block spans.
        width: how much of axis 1.
    """

    height: int
    width: int
    name: ClassVar[str] = "block"

    def __post_init__(self) -> None:
        for field in ("height", "width"):
            option = getattr(self, field)
            if isinstance(option, bool) or not hasattr(option, "__index__") or operator.index(option) < 1:
                raise InvalidOption(f"granularity block needs whole numbers from 1 on, not {option!r}")
            object.__setattr__(self, field, operator.index(option))

    def unit_view(self, shape: tuple[int, ...]) -> UnitView:
        """See `PruningGranularity.unit_view`."""
        if len(shape) < 2:
            raise NotTwoDimensional(shape)
        rows, columns, below = shape[0], shape[1], math.prod(shape[2:])
        if rows % self.height or columns % self.width:
            fits = f"{_divisor(rows, self.height)}x{_divisor(columns, self.width)}"
            raise ShapeMismatch(
                f"shape {list(shape)} can't be cut into blocks of {self.height}x{self.width}: "
                f"the largest that fit are {fits}"
            )
        return UnitView(rows // self.height, self.height, columns // self.width, self.width * below)

    @classmethod
    def from_text(cls, argument: str | None) -> Self:
        """Return `Block(H, W)` for the text `block:HxW`."""
        sides = (argument or "").split("x")
        if len(sides) != 2 or not all(side.isascii() and side.isdigit() and len(side) < 10 for side in sides):
            raise InvalidOption(f"granularity block needs two numbers, as in block:16x16; got '{argument or ''}'")
        return cls(int(sides[0]), int(sides[1]))

    @property
    def text(self) -> str:
        """The granularity as text, with its sides."""
        return f"block:{self.height}x{self.width}"


def _divisor(length: int, most: int) -> int:
    """The largest divisor of `length` that is not above `most`."""
    return next(side for side in range(min(most, length), 0, -1) if length % side == 0)
