"""Samples of several weights, and what they say about where the k lowest of all end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.backends.joint_search import Bracket
from oxiprune_gpu.backends.limits import Limits, Norms
from oxiprune_gpu.backends.normalised import Normalised
from oxiprune_gpu.backends.scored import BlockReader
from oxiprune_gpu.backends.threshold import check_finite, sample_keys

Array = NDArray[Any]

_WHOLE = 1 << 12
"""Units of a weight that are all sampled."""

_SLACK = 2.8
"""Half width of the first bracket, in standard errors of a sampled count: 1 in 200 misses; as in threshold.py."""


class Sample(NamedTuple):
    """Scores of one weight, (runs, length of a run); each stands for so many units, and has about this norm."""

    scores: Array
    each: float
    norms: NDArray[np.float64]


class Samples:
    """Samples of all weights that compete, at the same places in every run where they may be `foreseeable`."""

    def __init__(self, scales: Sequence[Normalised], limits: Limits, *, foreseeable: bool = True) -> None:
        fraction = 1.5 * sum(scale.weight.size for scale in scales) ** (-1 / 3)  # as for one weight: see `sample_keys`
        self._samples = [_sample(scale, fraction, foreseeable) for scale in scales]
        if any(np.isnan(sample.scores).any() for sample in self._samples):
            for scale in scales:  # the first weight that holds NaN is the error, whichever sample has met one
                check_finite(scale.weight)
        self._limits = limits
        self._norms = Norms.joined(
            [sample.norms.reshape(-1) for sample in self._samples],
            [np.full(sample.norms.size, sample.each) for sample in self._samples],
        )

    def margin(self, k: int) -> float:
        """Half the width of a bracket, in units of all weights, that holds the end of the lowest k nearly always."""
        middle = self._end_of_lowest(k)
        variance = sum(_variance(sample, middle) for sample in self._samples)
        return _SLACK * math.sqrt(variance) + max(sample.each for sample in self._samples)

    def brackets(self, k: int, margin: float) -> list[Bracket]:
        """The scores of each weight whose norms are about those of the k - margin to the k + margin lowest."""
        low, high = self._end_of_lowest(k - margin), self._end_of_lowest(k + margin)
        return [_bracket(sample, low, high) for sample in self._samples]

    def _end_of_lowest(self, k: float) -> float:
        """The norm at which about the lowest k end; -1 or infinity where the limits leave no such norm."""
        nothing = np.zeros(len(self._samples))
        if k <= self._limits.total(nothing):
            return -1.0
        if k > self._limits.total(self._norms.units()):
            return math.inf
        return self._norms.end_of_lowest(nothing, self._limits, k)


def _sample(scale: Normalised, fraction: float, foreseeable: bool) -> Sample:
    """A fraction of the scores of a weight; all where they are few."""
    weight = scale.weight
    if weight.size <= _WHOLE:
        keys = BlockReader(weight).keys(0, weight.size)[:, None]
    else:
        keys = sample_keys(weight, max(_WHOLE // 2, int(fraction * weight.size)), foreseeable=foreseeable)
    scores = keys.view(weight.score_dtype)
    flat, each = scores.reshape(-1), weight.size / scores.size
    counts = np.full(len(flat), each)
    above = scale.total - scale.square_sum(flat, counts)
    return Sample(scores, each, scale.norms(flat, counts, above).reshape(scores.shape))


def _variance(sample: Sample, norm: float) -> float:
    """Of the number of units of a weight below a norm, as the sample tells it.

    The scores of a run may be alike, as in rows of different scale: then it is the runs that count, not the scores.
    """
    if sample.each == 1:
        return 0.0
    runs, length = sample.scores.shape
    below = (sample.norms < norm).sum(axis=1)
    share = below.sum() / sample.scores.size
    spread = max(share * (1 - share), 1 / sample.scores.size)
    return float(sample.each**2 * runs * max(np.var(below), length * spread))


def _bracket(sample: Sample, low: float, high: float) -> Bracket:
    under, over = sample.scores[sample.norms < low], sample.scores[sample.norms > high]
    return Bracket(under.max() if under.size else math.nan, over.min() if over.size else math.nan)
