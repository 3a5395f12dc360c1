"""Allocations: how many units of each of several weights fall. One small file each; `ALLOCATIONS` is the table.

To add one: a file with a subclass of `Allocation`, a row here, and an oracle in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence

from oxiprune_gpu.allocation.arrays import counts_of_arrays
from oxiprune_gpu.allocation.base import Allocation
from oxiprune_gpu.allocation.erk import Erk
from oxiprune_gpu.allocation.joint import Global
from oxiprune_gpu.allocation.shares import Bound, Wishes, shares_of
from oxiprune_gpu.allocation.uniform import Uniform
from oxiprune_gpu.blocks import BlockSource
from oxiprune_gpu.config import PruningConfig
from oxiprune_gpu.errors import InvalidOption

ALLOCATIONS: dict[str, type[Allocation]] = {"uniform": Uniform, "erk": Erk, "global": Global}
"""Name of an allocation -> its class. A text is `name` or `name:argument`."""


def parse_allocation(allocation: str | Allocation) -> Allocation:
    """Return the allocation that `allocation` names: `uniform`, `erk`, `global`, `global:rms` or `global:lamp`.

    Raises:
        InvalidOption: there is no such allocation, or its argument is wrong.
    """
    if isinstance(allocation, Allocation):
        return allocation
    if not isinstance(allocation, str):
        raise InvalidOption(f"allocation must be text or an Allocation, not {type(allocation).__name__}")
    name, colon, argument = allocation.partition(":")
    if name not in ALLOCATIONS:
        raise InvalidOption(
            f"unknown allocation '{allocation}': use one of uniform, erk, global, global:rms, global:lamp"
        )
    return ALLOCATIONS[name].from_text(argument if colon else None)


def allocate(
    sources: Sequence[BlockSource],
    config: PruningConfig | Sequence[PruningConfig],
    method: str | Allocation = "global",
    *,
    floor: Bound = 0.0,
    ceiling: Bound = 1.0,
    names: Sequence[str] | None = None,
    dims: Sequence[Sequence[int]] | None = None,
) -> tuple[int, ...]:
    """Decide how many units of each of several weights fall, by one sparsity for all of them. Nothing is written.

    `prune_blocks(source, config, count=...)` prunes a weight by its count. With "erk" and "global" exactly
    `floor(float32(sparsity) * float32(units))` units of all weights together fall; `min_nonzero` holds for each weight.
    With "erk" and units of different sizes it is elements that are counted, as far as whole units allow.

    Args:
        sources: the weights, at least one; see `BlockSource`. They are read on the CPU.
        config: the sparsity, and what a unit is and how it is scored, or one for each weight, of one sparsity; a random
            metric starts anew for each weight.
        method: an `Allocation` or its text. "uniform": each weight loses its own fraction. "erk": see `Erk`. "global",
            "global:rms", "global:lamp": all units compete; see `Global`.
        floor: the sparsity that each weight has at least, in whole units, rounded down: a number from 0 to 1, or one
            for each weight. `min_nonzero` goes before it.
        ceiling: likewise the sparsity that each weight has at most.
        names: for error texts.
        dims: lengths of the axes of each weight, for "erk": output channels, input channels, kernel; by default its
            shape.

    Returns:
        How many units of each weight fall.

    Raises:
        InvalidOption: unknown method; configs of different sparsity; N:M, which says itself how many fall; floors and
            ceilings that the sparsity can't meet; "global" with units of different sizes or different metrics, or
            normalised with an infinite score.
        ShapeMismatch: dims that do not fit their weight.
        The errors of `prune_blocks`; NaN, with "global", is that of the first weight that holds one.
    """
    allocation = parse_allocation(method)
    if not sources:
        raise InvalidOption("an allocation needs at least one weight")
    shares = shares_of(sources, config, Wishes(floor, ceiling, names, dims))
    return tuple(allocation.counts(shares))


__all__ = [
    "ALLOCATIONS",
    "Allocation",
    "Bound",
    "Erk",
    "Global",
    "Uniform",
    "allocate",
    "counts_of_arrays",
    "parse_allocation",
]
