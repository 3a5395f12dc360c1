"""What an allocation is: how many units of each of several weights fall."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from oxiprune_gpu.blocks import BlockSource
from oxiprune_gpu.errors import InvalidOption
from oxiprune_gpu.jobs import Job
from oxiprune_gpu.selection import wanted_units


@dataclass(frozen=True)
class Share:
    """One weight among several.

    Args:
        source: the weight.
        job: how it is seen and scored, and how many units would fall if each weight lost its own fraction. The sparsity
            is that of all shares.
        dims: lengths of its axes, output and input channels first; their product is its size.
        least, most: at least and at most so many units fall.
    """

    source: BlockSource
    job: Job
    dims: tuple[int, ...]
    least: int
    most: int


class Allocation(ABC):
    """How the pruning of several weights is spread over them."""

    name: ClassVar[str]
    """The text that names it, as in `prune_model(..., allocation="erk")`."""

    reads_weights: ClassVar[bool] = False
    """Whether it depends on the values of the weights, and not on their shapes alone."""

    @abstractmethod
    def counts(self, shares: Sequence[Share]) -> list[int]:
        """Return how many units of each weight fall, none fewer than `least` or more than `most`."""

    @classmethod
    def from_text(cls, argument: str | None) -> Self:
        """Return the allocation for the text `name` or `name:argument`."""
        if argument is not None:
            raise InvalidOption(f"allocation '{cls.name}' takes no argument, got '{argument}'")
        return cls()

    @property
    def text(self) -> str:
        """The allocation as text, with its argument."""
        return self.name


def unit_weights(shares: Sequence[Share]) -> list[int]:
    """Return what a unit of each weight counts: 1 if all have equally many elements, else its elements."""
    sizes = [share.job.unit_size for share in shares]
    return [1] * len(sizes) if len(set(sizes)) == 1 else sizes


def units_of_all(shares: Sequence[Share]) -> int:
    """Return how many units of all weights together fall: `floor(float32(sparsity) * float32(units))`.

    That many, limited by the `min_nonzero` of every weight. Units of different sizes are counted by their elements.

    Raises:
        InvalidOption: floors and ceilings do not allow it.
    """
    counted, sparsity = list(zip(shares, unit_weights(shares), strict=True)), shares[0].job.config.sparsity
    total = sum(share.job.units * each for share, each in counted)
    wanted = min(wanted_units(sparsity, total), sum(share.job.most_units * each for share, each in counted))
    least = sum(share.least * each for share, each in counted)
    most = sum(share.most * each for share, each in counted)
    if not least <= wanted <= most:
        raise InvalidOption(
            f"sparsity {sparsity:g} of all weights is {wanted} of {total} units, but floors and ceilings allow "
            f"{least} to {most}: ask for a sparsity from {least / total:.6g} to {most / total:.6g}, or change them"
        )
    return wanted
