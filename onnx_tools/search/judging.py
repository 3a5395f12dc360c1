"""From what was measured to a verdict: cases that are searched with, cases that are held out, and the bar."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from onnx_tools.quality import Measured
from onnx_tools.search_report import Score
from oxiprune_gpu import InvalidOption

_NORMAL = 1.959963984540054
"""The quantile of the normal distribution that 95 % lie within."""

_HALF_A_CASE = np.array([0.0, 0.0, 1.0, -1.0])
"""The differences in the four cells of a table of pairs: right both times, wrong both times, lost, won."""

Cases = NDArray[np.float64]

FEWEST_HELD_OUT = 30
"""Fewer cases say too little to be held out."""


@dataclass(frozen=True, eq=False)
class Judge:
    """Compares models with the original, case by case.

    Args:
        original: what was measured of it.
        max_drop: how much less quality is within the bar.
        held_out: fraction of the cases that are not searched with, chosen by `seed`; rounded down, none if fewer than
            `FEWEST_HELD_OUT`.
        confidence: how sure it must be that the drop, on all cases that these are drawn from, is within the bar; None:
            the drop on these is. Of one trial: the best of many is more lucky than that, which the cases held out tell.
    """

    original: Measured
    max_drop: float
    held_out: float
    seed: int
    confidence: float | None = None

    def check(self) -> None:
        """Raise `InvalidOption` where a confidence is asked for, and there are no cases to have it from."""
        cases = self.original.cases
        if self.confidence is not None and (cases is None or cases.size - self._held_out_of(cases.size) < 2):
            raise InvalidOption(
                f"confidence {self.confidence:g} comes from differences case by case, and this quality is one number: "
                "leave it out, or measure with a function that gives an array with a number for each case"
            )

    def scores(self, measured: Measured, where: str) -> tuple[Score, Score | None]:
        """The score on the cases that are searched with, and on those held out; `where` names the model in errors."""
        before, after = self.original.cases, measured.cases
        if before is None or after is None:
            return Score(measured.value, self.original.value - measured.value, None, None, None), None
        if before.shape != after.shape:
            raise InvalidOption(
                f"{where}: the quality has {after.size:,} cases, that of the original model {before.size:,}: the "
                "function that measures must look at the same cases each time"
            )
        held, searched = np.split(self._order(before.size), [self._held_out_of(before.size)])
        return _score(before[searched], after[searched]), _score(before[held], after[held]) if held.size else None

    def searched(self, measured: Measured) -> Measured:
        """What was measured, on the cases that are searched with alone."""
        if measured.cases is None:
            return measured
        cases = measured.cases[self._order(measured.cases.size)[self._held_out_of(measured.cases.size) :]]
        return Measured(float(cases.mean()), cases)

    def passes(self, score: Score) -> bool:
        """Whether a score is within the bar, with the confidence that is asked for; NaN never is."""
        if self.confidence is None:
            return self.within(score)
        highest = _highest(score, self.confidence)
        return highest is not None and highest <= self.max_drop

    def within(self, score: Score) -> bool:
        """Whether the drop alone is within the bar; NaN never is."""
        return score.drop <= self.max_drop

    def _order(self, count: int) -> NDArray[np.int64]:
        return np.random.default_rng(self.seed).permutation(count)

    def _held_out_of(self, count: int) -> int:
        held = math.floor(count * self.held_out)
        return held if held >= FEWEST_HELD_OUT else 0


def _score(before: Cases, after: Cases) -> Score:
    with np.errstate(invalid="ignore"):  # infinite on both sides is NaN, which passes no bar
        drops = before - after
    low, high = _interval(before, after, drops) or (None, None)
    return Score(float(after.mean()), float(drops.mean()), low, high, drops.size)


def _highest(score: Score, confidence: float) -> float | None:
    """What the drop is below with this confidence: the upper end of a one-sided interval; None without one.

    The intervals of scores are a multiple of a standard error around their middle, so one gives the other. Those of
    shares are a little short at the upper end where few cases are lost and none won: with 500 cases and 5 % lost, the
    bound for 0.95 is too low in one sample of 13, not of 20.
    """
    if score.low is None or score.high is None:
        return None
    error = (score.high - score.low) / (2 * _NORMAL)
    return (score.high + score.low) / 2 + NormalDist().inv_cdf(confidence) * error


def _interval(before: Cases, after: Cases, drops: Cases) -> tuple[float, float] | None:
    """The 95 % confidence interval of a mean of paired differences; None where there is none.

    Of shares (each case 0 or 1) that of Agresti and Min, which is more than a point where no case differs; of other
    numbers the normal one.

    Source: A. Agresti, Y. Min, "Simple improved confidence intervals for comparing matched proportions", Statistics in
    Medicine 24, 2005: half a case more in each cell of the table of pairs.
    """
    if drops.size < 2 or not np.isfinite(drops).all():
        return None
    if np.isin(before, (0.0, 1.0)).all() and np.isin(after, (0.0, 1.0)).all():
        drops = np.concatenate([drops, _HALF_A_CASE])
        weights = np.concatenate([np.ones(drops.size - 4), np.full(4, 0.5)])
        middle = float(np.average(drops, weights=weights))
        spread = math.sqrt(float(np.average((drops - middle) ** 2, weights=weights)) / float(weights.sum()))
    else:
        middle, spread = float(drops.mean()), float(drops.std(ddof=1)) / math.sqrt(drops.size)
    return middle - _NORMAL * spread, middle + _NORMAL * spread
