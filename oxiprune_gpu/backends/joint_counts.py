"""How many units of each weight are among the k lowest of all weights together, by normalised scores.

Nothing of the size of a weight is held. Samples of the weights bracket the norm at which the lowest k end; for each
weight that is a bracket of its scores. One pass over all weights counts what lies below and collects the few inside,
and the exact answer is found among those. Where it turns out to lie elsewhere, the pass is made again, with wider
brackets from samples of other places, which nobody can have foreseen. The answer does not depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from oxiprune_gpu.backends.joint_samples import Samples
from oxiprune_gpu.backends.joint_search import Found, search
from oxiprune_gpu.backends.limits import Counts, Limits, Norms
from oxiprune_gpu.backends.normalised import NORMALISATIONS
from oxiprune_gpu.backends.parallel import quietly
from oxiprune_gpu.backends.scored import ScoredWeight
from oxiprune_gpu.backends.threshold import check_finite

_WIDER = 4
"""So many times wider is the next bracket: the sixth or so holds everything."""


@quietly
def joint_counts(weights: Sequence[ScoredWeight], limits: Limits, k: int, normalisation: str) -> list[int]:
    """Return how many units of each weight fall, so that together exactly `k` do: the lowest ones under the limits.

    Of equal norms those of the first weight fall first. `limits.least.sum() <= k <= limits.most.sum()`.

    Raises:
        NonFiniteWeight, NonFiniteScore: those of the first weight that holds NaN.
        InvalidOption: a weight has an infinite score that can't be normalised.
    """
    for only in limits:
        if only.sum() == k:
            for weight in weights:
                check_finite(weight)
            return [int(count) for count in only]
    scales = NORMALISATIONS[normalisation].of(weights)
    attempt = 0
    while True:
        samples = Samples(scales, limits, foreseeable=attempt == 0)
        margin = samples.margin(k) * _WIDER**attempt
        counts = _settled(search(scales, samples.brackets(k, margin)), limits, k)
        if counts is not None:
            return [int(count) for count in counts]
        attempt += 1


def _settled(found: Sequence[Found], limits: Limits, k: int) -> Counts | None:
    """How many fall of each weight; None when what was found does not tell."""
    below = np.array([each.below for each in found])
    norms = Norms.joined([each.norms for each in found], [each.counts for each in found])
    upto = below + norms.units()
    if not limits.total(below) < k <= limits.total(upto):
        return None
    end = norms.end_of_lowest(below, limits, k)
    low, high = (np.array([getattr(each, side) for each in found]) for side in ("low", "high"))
    if (((end <= low) & (below > limits.least)) | ((end >= high) & (upto < limits.most))).any():
        return None
    fewer = limits.within(below + norms.units(norms.norms < end))
    ties = limits.within(below + norms.units(norms.norms <= end)) - fewer
    left = k - fewer.sum()
    before = np.cumsum(ties) - ties  # ties of the weights before
    counts: Counts = fewer + np.clip(left - before, 0, ties)
    return counts
