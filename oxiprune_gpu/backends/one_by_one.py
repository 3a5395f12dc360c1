"""A plan that prunes one weight after another: on every backend for units and groups, on numpy for elements too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from oxiprune_gpu.backends.base import Plan, PlanMember
from oxiprune_gpu.errors import PruningError


class Step(NamedTuple):
    """How one weight is pruned: `prune(mask)`, and `left()`, which says how many elements are not zero."""

    prune: Callable[[Any], None]
    left: Callable[[], int]


class OneByOne(Plan):
    """Prunes one weight after another until one can't be.

    Args:
        members: the weights and their masks.
        steps: what is done with each.
        nonzero: int64 array, one element a weight, where the backend's arrays lie.
        empty_mask: gives a bool array of a shape, where the weights lie.
    """

    def __init__(
        self,
        members: Sequence[PlanMember],
        steps: Sequence[Step],
        nonzero: Any,
        empty_mask: Callable[[tuple[int, ...]], Any],
    ) -> None:
        self.nonzero = nonzero
        self._members = members
        self._steps = steps
        self._empty_mask = empty_mask
        self._error: PruningError | None = None

    def run(self) -> None:
        """See `Plan.run`. Where a weight lies on a GPU, this waits for it."""
        self._error = None
        try:
            for number, (member, step) in enumerate(zip(self._members, self._steps, strict=True)):
                self._prune(member, step)
                self.nonzero[number] = step.left()
        except PruningError as error:
            self._error = error

    def check(self) -> None:
        """See `Plan.check`."""
        if self._error is not None:
            raise self._error

    def _prune(self, member: PlanMember, step: Step) -> None:
        if member.mask is None or member.mask.dtype == np.bool_:
            step.prune(member.mask)
        else:
            mask = self._empty_mask(member.weight.shape)
            step.prune(mask)
            member.mask[...] = packed(mask)


def packed(mask: Any) -> Any:
    """A mask as bits, the first element in the lowest bit of the first byte."""
    return np.packbits(mask.reshape(-1), bitorder="little")  # of a CuPy array it is CuPy that does it
