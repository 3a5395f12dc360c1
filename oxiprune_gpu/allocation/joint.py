"""All units of all weights compete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from oxiprune_gpu.allocation.base import Allocation, Share, units_of_all
from oxiprune_gpu.backends import NumpyBackend
from oxiprune_gpu.backends.joint_counts import joint_counts
from oxiprune_gpu.backends.limits import Limits
from oxiprune_gpu.backends.normalised import NORMALISATIONS
from oxiprune_gpu.backends.scored import ScoredWeight
from oxiprune_gpu.blocks import ArrayBlocks
from oxiprune_gpu.errors import InvalidOption
from oxiprune_gpu.granularity import UnitView
from oxiprune_gpu.metrics.given import GivenScores


@dataclass(frozen=True)
class Global(Allocation):
    """The lowest units of all weights together fall, as many as the sparsity says of their union, exactly.

    Weights are read block by block, three times at most unless their data mislead the sample; elements are not held,
    unit scores are. Scores are compared in float64; of equal ones those of the first weight fall first, and inside a
    weight the lowest raw score, then the lowest index.

    Args:
        normalisation: how scores of different weights are made comparable. "none": they are compared as they are.
            "rms": each is divided by the root mean square of the scores of its weight. "lamp": the square of each is
            divided by the sum of the squares of all scores of its weight that are not lower (Lee et al., 2021,
            "Layer-adaptive sparsity for the magnitude-based pruning"; theirs with the metric l1). The sums are exact:
            see `oxiprune_gpu.backends.normalised`.
    """

    normalisation: str = "none"
    name: ClassVar[str] = "global"
    reads_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.normalisation not in NORMALISATIONS:
            raise InvalidOption(
                f"unknown allocation 'global:{self.normalisation}': use global, global:rms or global:lamp"
            )

    def counts(self, shares: Sequence[Share]) -> list[int]:
        """See `Allocation.counts`."""
        _check_comparable(shares)
        wanted = units_of_all(shares)
        weights = [_scored(share) for share in shares]
        limits = Limits(np.array([share.least for share in shares]), np.array([share.most for share in shares]))
        return joint_counts(weights, limits, wanted, self.normalisation)

    @classmethod
    def from_text(cls, argument: str | None) -> Self:
        """Return `Global()` for the text `global`, `Global(N)` for `global:N`."""
        return cls() if argument is None else cls(argument)

    @property
    def text(self) -> str:
        """The allocation as text, with its normalisation."""
        return self.name if self.normalisation == "none" else f"{self.name}:{self.normalisation}"


def _check_comparable(shares: Sequence[Share]) -> None:
    first = shares[0].job
    for share in shares:
        if type(share.job.config.metric) is not type(first.config.metric):
            raise InvalidOption(
                f"tensor '{first.name}' is scored by {first.config.metric.text}, '{share.job.name}' by "
                f"{share.job.config.metric.text}: scores of different metrics can't compete; use one metric, or the "
                "allocation uniform or erk"
            )
        if share.job.unit_size != first.unit_size:
            raise InvalidOption(
                f"units of tensor '{first.name}' have {first.unit_size} elements, those of '{share.job.name}' "
                f"{share.job.unit_size}: units of different sizes can't compete; use the allocation uniform or erk, or "
                "the granularity unstructured"
            )


def _scored(share: Share) -> ScoredWeight:
    """A weight whose elements are the units that compete."""
    job, metric = share.job, share.job.config.metric
    if not isinstance(job.view, UnitView):
        return ScoredWeight(share.source, metric, job.name)
    scores = NumpyBackend().unit_scores(share.source, job.view, metric, job.name)
    return ScoredWeight(ArrayBlocks(scores), GivenScores(), job.name)
