"""Plans on CUDA: what is launched each time for many weights, and what is done where one launch can't see them all."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np

from oxiprune_gpu.backends.base import Backend, Plan, PlanMember
from oxiprune_gpu.backends.cuda_selection import BITS, BOOLS, NO_MASK, NO_NAN, Selection
from oxiprune_gpu.backends.deferred import check_later, checks_at_once
from oxiprune_gpu.errors import PruningError
from oxiprune_gpu.metrics import ImportanceMetric


class Checks(NamedTuple):
    """How a plan says what was wrong.

    Attributes:
        raise_error: raises what is wrong with a weight, given its number.
        where: makes of a check one that is made on the device and stream that are current now.
    """

    raise_error: Callable[[int], None]
    where: Callable[[Callable[[], None]], Callable[[], None]]


class DevicePlan(Plan):
    """A plan whose runs only launch: they allocate nothing on the device and wait for nothing.

    Args:
        header: the word on the device with the number of the first weight that holds NaN; `Header` in
            kernels/tensors.cuh.
        nonzero: see `Plan.nonzero`; as uint64.
        checks: says what was wrong.
    """

    def __init__(self, header: Any, nonzero: Any, checks: Checks) -> None:
        self.nonzero = nonzero.view(np.int64)
        self._header = header
        self._checks = checks
        self._check_there: Callable[[], None] = lambda: None

    @abstractmethod
    def launch(self) -> None:
        """Prune once more, and leave the header and the counts as they then are."""

    def run(self) -> None:
        """See `Plan.run`."""
        self._check_there = self._checks.where(lambda: self._check(self._header))
        self.launch()

    def check(self) -> None:
        """See `Plan.check`. It is made on the device and stream of the last run."""
        self._check_there()

    def check_when_due(self) -> None:
        """See `Plan.check_when_due`. The next run writes the word anew, so a copy is kept."""
        word = self._header.copy()
        check_later(self._checks.where(lambda: self._check(word)))

    def _check(self, header: Any) -> None:
        number = int(header[0])
        if number != NO_NAN:
            self._checks.raise_error(number)


class SelectionPlan(DevicePlan):
    """Prunes by one selection among elements.

    Args:
        selection: a repeatable one, of weights whose masks are all of one form.
        mask_kind: the form.
        checks: says what was wrong.
    """

    def __init__(self, selection: Selection, mask_kind: int, checks: Checks) -> None:
        super().__init__(selection.header, selection.nonzero, checks)
        self._selection = selection
        self._mask_kind = mask_kind

    def launch(self) -> None:
        """See `DevicePlan.launch`."""
        self._selection.restore()
        self._selection.find()
        self._selection.apply(self._mask_kind)


class ScoresPlan(Plan):
    """Prunes the k lowest of all elements by an array of their scores, as float64: for weights scored in two dtypes.

    It allocates and waits in every run.

    Args:
        xp: the array module.
        backend: does the work.
        members: the weights and their masks.
        metric: scores them.
        k: how many elements fall.
        widen: writes scores to an array of float64.
    """

    def __init__(
        self,
        xp: Any,
        backend: Backend,
        members: Sequence[PlanMember],
        metric: ImportanceMetric,
        k: int,
        widen: Callable[[Any, Any], None],
    ) -> None:
        self._widen = widen
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
            with checks_at_once():
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
            self._widen(self._backend.element_scores(member.weight, self._metric, member.name), part)
        return scores

    def _cut(self, array: Any) -> list[Any]:
        return [array[first:last] for first, last in pairwise(self._ends)]


def mask_kind_of(members: Sequence[PlanMember]) -> int:
    """The form of the masks of all members."""
    mask = members[0].mask
    return NO_MASK if mask is None else BOOLS if mask.dtype == np.bool_ else BITS
