"""The primitives every backend has. The docstrings are the contract; the contract test holds every backend to it.

A primitive gets a weight in the backend's own form: a `BlockSource` for numpy, a `DeviceWeight` for CUDA. `name` is
only for error texts. Masks are bool arrays of the weight's shape, C-contiguous, True = kept. Masks, scores and kept
units are arrays of the backend's own library. Every primitive that reads scores raises

- `NonFiniteWeight` when the weight (or the metric's gradient) holds NaN, whatever the metric, and
- `NonFiniteScore` when a score is NaN though nothing it was made of is,

before anything is written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.granularity import GroupView, UnitView
from oxiprune_gpu.metrics import ImportanceMetric

Array = NDArray[Any]


class Statistics(NamedTuple):
    """Statistics of scores; every value is rounded once to the score dtype."""

    minimum: float
    maximum: float
    mean: float
    median: float
    std_dev: float


class PlanMember(NamedTuple):
    """A weight of a plan, in the backend's form; how many of its units fall; its mask; how its units lie.

    With the view None every element is a unit. The mask is a bool array of the weight's shape, or bytes,
    (ceil(size / 8),), whose bits are the elements, the first one lowest; None for no mask.
    """

    weight: Any
    name: str
    k: int
    mask: Any
    view: UnitView | GroupView | None = None

    def write_mask(self, kept: Any, packed: Callable[[Any], Any]) -> None:
        """Write what is kept, a bool array, to the mask, if there is one; `packed` makes bits of it."""
        if self.mask is not None:
            self.mask[...] = kept.reshape(self.mask.shape) if self.mask.dtype == np.bool_ else packed(kept)


class Plan(ABC):
    """Prepared pruning of several weights. All memory it needs on a device is allocated when it is made."""

    nonzero: Any
    """int64 array of the backend's library: after a run, how many elements of each weight are not zero."""

    finite = False
    """Whether the weights are known to hold no NaN, so that it need not be looked for before anything is written."""

    @abstractmethod
    def run(self) -> None:
        """Prune once more. Errors are kept for `check`; from the first weight that has one, none is written."""

    @abstractmethod
    def check(self) -> None:
        """Raise the error of the last run, if there is one; waits for the device."""

    def check_when_due(self) -> None:
        """The same, or later where checks are put off."""
        self.check()


class Backend(ABC):
    """Does the work on arrays of one kind."""

    name: ClassVar[str]

    few_features: ClassVar[int]
    """Features that `spread_losses` is best asked to work on at once."""

    @abstractmethod
    def adopt(self, array: Any, dtype: np.dtype[Any] | None = None) -> Any:
        """Return `array` (C-contiguous) in the form the primitives take, without a copy.

        `dtype` is that of its elements where the array holds only their bits.
        """

    @abstractmethod
    def empty_mask(self, shape: tuple[int, ...]) -> Any:
        """Return a bool array of `shape` where the weights of this backend lie, its values not set."""

    @abstractmethod
    def empty_array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return an array where the weights of this backend lie, its values not set."""

    @abstractmethod
    def own_mask(self, mask: NDArray[np.bool_]) -> Any:
        """Return a mask in this machine's memory as an array of this backend's library."""

    @abstractmethod
    def packed_mask(self, mask: Any) -> Any:
        """Return a mask as bits, uint8 of shape (ceil(size / 8),), the first element in the lowest bit."""

    def device_of(self, array: Any) -> AbstractContextManager[object]:
        """Inside this context, work goes to the device on which `array` lies."""
        return nullcontext()

    @abstractmethod
    def element_scores(self, weight: Any, metric: ImportanceMetric, name: str) -> Array:
        """Return the scores of all elements: the weight's shape, the score dtype."""

    @abstractmethod
    def unit_scores(self, weight: Any, view: UnitView, metric: ImportanceMetric, name: str) -> Array:
        """Return the scores of all units: shape (view.count,), the score dtype, sums in the documented order."""

    @abstractmethod
    def kept_units(self, scores: Array, k: int) -> NDArray[np.bool_]:
        """Return which scores are not among the `k` lowest; of equal scores the lowest index falls first."""

    @abstractmethod
    def prune_elements(
        self,
        weight: Any,
        metric: ImportanceMetric,
        k: int,
        name: str,
        *,
        mask: NDArray[np.bool_] | None = None,
        write: bool = True,
    ) -> None:
        """Set the `k` elements with the lowest scores to +0.0; of equal scores the lowest index falls first.

        The mask goes to `mask` when one is given. With `write=False` the weight stays as it is.
        """

    @abstractmethod
    def plan(self, members: Sequence[PlanMember], metric: ImportanceMetric, k: int | None = None) -> Plan:
        """Return a plan that prunes each weight as `prune` does, in their order; none is empty, all views of one kind.

        With `k` all elements compete, whatever the views: the `k` lowest of all weights fall, of equal scores those of
        the first weight first. Scores are computed in the score dtype of each weight, and compared in float64 if one
        of them is. Where any weight has an error nothing is written, and the first one's is raised.
        """

    @abstractmethod
    def prune_units(
        self,
        weight: Any,
        view: UnitView,
        kept: NDArray[np.bool_],
        *,
        mask: NDArray[np.bool_] | None = None,
        write: bool = True,
    ) -> None:
        """Set the elements of all units that are not `kept` to +0.0; `mask` and `write` as in `prune_elements`."""

    @abstractmethod
    def prune_groups(
        self,
        weight: Any,
        view: GroupView,
        metric: ImportanceMetric,
        name: str,
        *,
        mask: NDArray[np.bool_] | None = None,
        write: bool = True,
    ) -> None:
        """Set all but the `view.keep` elements with the highest scores of each group to +0.0.

        Of equal scores the lowest index falls first. Of elements that fill no group `view.falls` says how many fall.
        `mask` and `write` as in `prune_elements`.
        """

    def prune(
        self,
        weight: Any,
        view: UnitView | GroupView | None,
        metric: ImportanceMetric,
        k: int,
        name: str,
        *,
        mask: NDArray[np.bool_] | None = None,
        write: bool = True,
    ) -> None:
        """Set the `k` units with the lowest scores to +0.0: elements, units of a view, or what falls in its groups."""
        if view is None:
            self.prune_elements(weight, metric, k, name, mask=mask, write=write)
        elif isinstance(view, GroupView):
            self.prune_groups(weight, view, metric, name, mask=mask, write=write)
        else:
            scores = self.unit_scores(weight, view, metric, name)
            self.prune_units(weight, view, self.kept_units(scores, k), mask=mask, write=write)

    @abstractmethod
    def spread_losses(
        self, left: Any, fallen: Any, lost: Any, shares: Any, diagonal: Any, groups: GroupView | None, name: str
    ) -> None:
        """Work on up to 32 features, one after another, as SparseGPT does: what falls of one moves those behind it.

        Row by row, `lost[r] = left[r]` where `fallen[r]`, else 0, and `left[s] -= shares[r, s] * lost[r]` for every
        s > r; products and differences are rounded to the dtype. With `groups`, those along the rows of `left`, it is
        said in `fallen` what falls: before the first row of each group is worked on, the lowest
        `(left / diagonal) ** 2` of each output do, of equal ones the first.

        Args:
            left: (features, outputs), float32 or float64, C-contiguous; changed, what falls is not zero afterwards.
            fallen: the same shape, bool; written where there are groups.
            lost: like `left`; written.
            shares: (features, features), like `left`; what stands above the diagonal counts.
            diagonal: (features,), like `left`; only looked at for groups.
            groups: how the rows compete, (1, features, outputs); None where `fallen` says what falls.
            name: for errors.
        """

    @abstractmethod
    def apply_mask(self, weight: Array, mask: NDArray[np.bool_]) -> None:
        """Set the elements of a C-contiguous array where `mask` is False to +0.0; the others keep their bits."""

    @abstractmethod
    def count_nonzero(self, weight: Any) -> int:
        """Return how many elements are not zero: NaN counts, -0.0 does not."""

    @abstractmethod
    def statistics(self, weight: Any, metric: ImportanceMetric, name: str) -> Statistics:
        """Return the statistics of the scores of all elements; zeros when there are none.

        Mean and variance (of the population) are float64 sums in the documented order, each squared deviation rounded
        to the score dtype. The median of an even number is (a + b) / 2 in the score dtype.
        """
