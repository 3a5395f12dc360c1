"""Plans on CUDA: what is launched each time for many weights, and what is done where one launch can't see them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from oxiprune_gpu.backends.base import Backend, Plan, PlanMember
from oxiprune_gpu.backends.cuda_selection import BITS, BOOLS, NO_MASK, Selection
from oxiprune_gpu.backends.deferred import check_later
from oxiprune_gpu.errors import PruningError
from oxiprune_gpu.metrics import ImportanceMetric


class SelectionPlan(Plan):
    """Prunes by one selection. `run` copies and launches; it allocates nothing on the device and waits for nothing.

    Args:
        selection: a repeatable one, of weights whose masks are all of one form.
        mask_kind: the form.
        raise_error: raises what is wrong with a weight, given its number.
    """

    def __init__(self, selection: Selection, mask_kind: int, raise_error: Callable[[int], None]) -> None:
        self._selection = selection
        self._mask_kind = mask_kind
        self._raise_error = raise_error
        self.nonzero = selection.nonzero.view(np.int64)

    def run(self) -> None:
        """See `Plan.run`."""
        self._selection.restore()
        self._selection.find()
        self._selection.apply(self._mask_kind)

    def check(self) -> None:
        """See `Plan.check`."""
        number = self._selection.first_nan()
        if number is not None:
            self._raise_error(number)

    def check_when_due(self) -> None:
        """See `Plan.check_when_due`."""
        check_later(self.check)


class ScoresPlan(Plan):
    """Prunes the k lowest of all elements by an array of their scores, as float64: for weights scored in two dtypes.

    It allocates and waits in every run.

    Args:
        xp: the array module.
        backend: does the work.
        members: the weights and their masks.
        metric: scores them.
        k: how many elements fall.
    """

    def __init__(
        self, xp: Any, backend: Backend, members: Sequence[PlanMember], metric: ImportanceMetric, k: int
    ) -> None:
        self.nonzero = xp.zeros(len(members), np.int64)
        self._xp = xp
        self._backend = backend
        self._members = members
        self._metric = metric
        self._k = k
        self._ends = list(accumulate((member.weight.size for member in members), initial=0))
        self._error: PruningError | None = None

    def run(self) -> None:
        """See `Plan.run`."""
        self._error = None
        try:
            kept = self._backend.kept_units(self._scores(), self._k)
        except PruningError as error:
            self._error = error
            return
        for number, (member, part) in enumerate(zip(self._members, self._cut(kept), strict=True)):
            self._backend.apply_mask(member.weight.bits, part)
            self.nonzero[number] = self._backend.count_nonzero(member.weight)
            member.write_mask(part, self._backend.packed_mask)

    def check(self) -> None:
        """See `Plan.check`."""
        if self._error is not None:
            raise self._error

    def _scores(self) -> Any:
        scores = self._xp.empty(self._ends[-1], np.float64)
        for member, part in zip(self._members, self._cut(scores), strict=True):
            part[...] = self._backend.element_scores(member.weight, self._metric, member.name).reshape(-1)
        return scores

    def _cut(self, array: Any) -> list[Any]:
        return [array[first:last] for first, last in pairwise(self._ends)]


def mask_kind_of(members: Sequence[PlanMember]) -> int:
    """The form of the masks of all members."""
    mask = members[0].mask
    return NO_MASK if mask is None else BOOLS if mask.dtype == np.bool_ else BITS
