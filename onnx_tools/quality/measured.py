"""What is measured of a model, and how far the same would lie on other data of the same kind."""

from __future__ import annotations

import math
import pathlib
from statistics import NormalDist
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Measured(NamedTuple):
    """Quality of a model: higher is better. `cases`: float64, one number a case, of which `value` is the mean.

    `cases` is None where the value is no mean over cases.
    """

    value: float
    cases: NDArray[np.float64] | None


class Quality(Protocol):
    """Measures models, always on the same data. `text`: its name, as `read_quality` reads it."""

    @property
    def text(self) -> str:
        """Its name."""
        ...

    def measure(self, model: pathlib.Path) -> Measured:
        """Measure a model; higher is better. Infinite is possible, NaN is not.

        Raises `EvaluationFailed`, `InvalidOption` or `InvalidModelFile`, which name the model.
        """
        ...


def mean_of(cases: NDArray[np.float64]) -> Measured:
    """What is measured where each case has a number."""
    return Measured(float(cases.mean()), cases)


def interval(measured: Measured, confidence: float = 0.95) -> tuple[float, float] | None:
    """A confidence interval of the mean over all cases that these are drawn from; None where there is none.

    Shares of cases (each 0 or 1) get Wilson's score interval, which holds near 0 and 1 too; other means the normal one,
    value -+ z * s / sqrt(n), with s of n - 1 degrees of freedom, from two cases on.

    Sources: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927;
    R. G. Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17, 1998.
    """
    cases = measured.cases
    if cases is None or not np.isfinite(cases).all():
        return None
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    if np.isin(cases, (0.0, 1.0)).all():
        return _wilson(float(cases.mean()), cases.size, z)
    if cases.size < 2:
        return None
    half = z * float(cases.std(ddof=1)) / math.sqrt(cases.size)
    return measured.value - half, measured.value + half


def _wilson(share: float, count: int, z: float) -> tuple[float, float]:
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    whole = 1 + z * z / count
    return max(0.0, (middle - half) / whole), min(1.0, (middle + half) / whole)
