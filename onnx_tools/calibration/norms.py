"""Statistics of batch normalisations, estimated again from data after layers before them were pruned."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnx_tools.calibration.sums import Statistics


class Estimate(NamedTuple):
    """A mean and a variance for each channel, in float64."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]


def estimated_again(mean: NDArray[Any], variance: NDArray[Any], statistics: Statistics) -> Estimate:
    """The stored statistics, moved as those of the data moved from the dense model to the pruned one.

    The mean moves by the difference, the variance by the ratio: what the data differ from those of the training, which
    the stored statistics are of, so counts only in second order. Channels that were constant, or became so, keep their
    variance.

    Args:
        mean: stored, (channels,).
        variance: stored, (channels,).
        statistics: of what the normalisation reads, with `dense_sums` and `dense_squares`; one group.
    """
    assert statistics.dense_squares is not None
    before = _variance(statistics.dense_squares[0], statistics.dense_means[0], statistics.samples)
    after = _variance(statistics.squares[0], statistics.means[0], statistics.samples)
    moved = mean.astype(np.float64) + statistics.means[0] - statistics.dense_means[0]
    known = (before > 0) & (after > 0)
    ratio = np.where(known, after, 1.0) / np.where(known, before, 1.0)
    return Estimate(moved, variance.astype(np.float64) * ratio)


def _variance(squares: NDArray[np.float64], mean: NDArray[np.float64], samples: int) -> NDArray[np.float64]:
    found = squares / samples - mean**2
    return np.where(found > 1e-12 * squares / samples, found, 0.0)
