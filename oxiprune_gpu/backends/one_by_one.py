"""A plan that prunes one weight after another: on every backend for units and groups, on numpy for elements too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from oxiprune_gpu.backends.base import Backend, Plan, PlanMember
from oxiprune_gpu.backends.deferred import checks_at_once
from oxiprune_gpu.errors import PruningError


class Step(NamedTuple):
    """How one weight is pruned: `prune(mask)`, and `left()`, which says how many elements are not zero."""

    prune: Callable[[Any], None]
    left: Callable[[], int]


class OneByOne(Plan):
    """Prunes one weight after another until one can't be.

    Args:
        backend: counts, and packs masks.
        members: the weights and their masks.
        steps: what is done with each.
    """

    def __init__(self, backend: Backend, members: Sequence[PlanMember], steps: Sequence[Step]) -> None:
        self.nonzero = backend.empty_array((len(members),), np.dtype(np.int64))
        self._backend = backend
        self._members = members
        self._steps = steps
        self._error: PruningError | None = None

    def run(self) -> None:
        """See `Plan.run`. Where a weight lies on a GPU, this waits for it."""
        self._error = None
        try:
            with checks_at_once():
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
            mask = self._backend.empty_mask(member.weight.shape)
            step.prune(mask)
            member.write_mask(mask, self._backend.packed_mask)
