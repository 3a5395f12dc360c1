"""A plan that prunes one weight after another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from oxiprune_gpu.backends.base import Backend, Plan, PlanMember
from oxiprune_gpu.errors import PruningError
from oxiprune_gpu.metrics import ImportanceMetric


class OneByOne(Plan):
    """Prunes one weight after another until one can't be.

    Args:
        backend: does the work.
        members: the weights, their units and masks.
        metric: scores them.
    """

    def __init__(self, backend: Backend, members: Sequence[PlanMember], metric: ImportanceMetric) -> None:
        self.nonzero = backend.empty_array((len(members),), np.dtype(np.int64))
        self._backend = backend
        self._members = members
        self._metric = metric
        self._error: PruningError | None = None

    def run(self) -> None:
        """See `Plan.run`."""
        self._error = None
        try:
            for number, member in enumerate(self._members):
                self._prune(member)
                self.nonzero[number] = self._backend.count_nonzero(member.weight)
        except PruningError as error:
            self._error = error

    def check(self) -> None:
        """See `Plan.check`."""
        if self._error is not None:
            raise self._error

    def _prune(self, member: PlanMember) -> None:
        direct = member.mask is None or member.mask.dtype == np.bool_
        mask = member.mask if direct else self._backend.empty_mask(member.weight.shape)
        self._backend.prune(member.weight, member.view, self._metric, member.k, member.name, mask=mask)
        if not direct:
            member.write_mask(mask, self._backend.packed_mask)
