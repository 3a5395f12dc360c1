"""What a granularity is: a way to see a weight as units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

from oxiprune_gpu.errors import InvalidOption


@dataclass(frozen=True)
class UnitView:
    """A weight of any shape, seen as a four-dimensional array (groups, outer, units, inner) in row-major order.

    Unit (g, u) is made of the elements [g, :, u, :]; inside a unit, elements are ordered by outer, then inner. Units
    are numbered by g, then u. Rows of a matrix are (1, 1, rows, columns); its columns are (1, rows, columns, 1).
    """

    groups: int
    outer: int
    units: int
    inner: int

    @property
    def count(self) -> int:
        """Number of units."""
        return self.groups * self.units

    @property
    def unit_size(self) -> int:
        """Elements in one unit."""
        return self.outer * self.inner

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The four-dimensional shape."""
        return (self.groups, self.outer, self.units, self.inner)


@dataclass(frozen=True)
class GroupView:
    """A weight of any shape, seen as (outer, length, inner) in row-major order; `of` neighbours along length compete.

    A group is [o, g * of : (g + 1) * of, i]; its `keep` highest scores stay. The last length % of elements of each line
    fill no group: they are kept, or with `pad` compete as a group that is filled with zeros, which fall first.
    """

    outer: int
    length: int
    inner: int
    of: int
    keep: int
    pad: bool = False

    @property
    def whole(self) -> int:
        """Elements of a line that are in groups which they fill."""
        return self.length // self.of * self.of

    @property
    def pruned(self) -> int:
        """Elements that fall."""
        groups, rest = divmod(self.length, self.of)
        return self.outer * self.inner * (groups * self.falls(self.of) + self.falls(rest))

    def falls(self, members: int) -> int:
        """How many of `members` neighbours fall: of a group, or of those at the end of a line that fill none."""
        return max(0, members - self.keep) if self.pad or members == self.of else 0


class PruningGranularity(ABC):
    """What falls together when a weight is pruned."""

    name: ClassVar[str]
    """The text that names this granularity, as in `PruningConfig(0.5, "l2", "row")`."""

    @abstractmethod
    def unit_view(self, shape: tuple[int, ...]) -> UnitView | None:
        """Return how a weight of `shape` is seen as units; None when every element is a unit of its own.

        Raises:
            PruningError: a weight of this shape can't be seen so.
        """

    def group_view(self, shape: tuple[int, ...]) -> GroupView | None:
        """Return the groups inside which elements compete; None when all units of a weight compete.

        Raises:
            PruningError: a weight of this shape can't be seen so.
        """
        return None

    @property
    def sparsity(self) -> float | None:
        """The only sparsity this granularity has; None when it can have any."""
        return None

    @classmethod
    def from_text(cls, argument: str | None) -> Self:
        """Return the granularity for the text `name` or `name:argument`."""
        if argument is not None:
            raise InvalidOption(f"granularity '{cls.name}' takes no argument, got '{argument}'")
        return cls()

    @property
    def text(self) -> str:
        """The granularity as text, with its arguments."""
        return self.name
