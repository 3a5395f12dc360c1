"""What becomes of one weight, seen as matrices, by what its inputs are: which elements stay, and with which values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnx_tools.calibration.sums import Statistics
from oxiprune_gpu import (
    NM,
    InvalidOption,
    PruningConfig,
    Unstructured,
    WeightTensor,
    prune_sparsegpt,
    prune_wanda,
    refit,
)

_TOLD = 1e-5
"""Of the mean square of a feature: a variance below this is what products in float32 were rounded by."""

Matrices = NDArray[Any]
"""(groups, outputs, features), as `MatrixView` gives them."""


class Solved(NamedTuple):
    """`kept`: bool; `values`: of what is kept, None where those stay; `damping`: the most that was added, relative."""

    kept: Matrices
    values: Matrices | None
    damping: float


@dataclass(frozen=True)
class Problem:
    """A weight. `neighbours`: of so many features in a row each run is the operator's reduction axis.

    `fixed`: what is kept, where that is known already. `shifted`: something is added to all outputs that may change,
    so that only differences from the mean count. `rigid`: kept values must stay what they are.
    """

    name: str
    matrices: Matrices
    neighbours: int
    config: PruningConfig
    fixed: Matrices | None = None
    shifted: bool = False
    rigid: bool = False

    @property
    def in_runs(self) -> bool:
        """Whether groups of N:M lie in runs that they do not fill, so that each run has its own."""
        groups = self.config.granularity
        return isinstance(groups, NM) and self.neighbours % groups.of > 0


@dataclass(frozen=True)
class Recipe:
    """What is done with each weight. `choice`: as in `DataMethod`; `least_squares`: whether what is kept is fitted."""

    choice: str | None
    least_squares: bool
    damping: float

    def solve(self, problem: Problem, statistics: Statistics) -> Solved:
        """What becomes of one weight."""
        if problem.shifted and statistics.hessian is not None:
            statistics = centred(statistics)
        solved = self._chosen(problem, statistics)
        if not self.least_squares or problem.rigid:
            return solved
        fitted = repaired(problem, solved.kept, statistics, self.damping)
        return fitted._replace(damping=max(fitted.damping, solved.damping))

    def _chosen(self, problem: Problem, statistics: Statistics) -> Solved:
        if problem.fixed is not None:
            return Solved(problem.fixed, None, 0.0)
        if self.choice == "wanda" or problem.rigid:
            return wanda(problem, statistics)
        return sparsegpt(problem, statistics, self.damping)


def wanda(problem: Problem, statistics: Statistics) -> Solved:
    """By |w| * ||x||; kept elements stay what they are."""
    kept = np.empty(problem.matrices.shape, np.bool_)
    for group, part in _parts(problem):
        matrix = WeightTensor(problem.name, np.ascontiguousarray(problem.matrices[group, :, part]))
        kept[group, :, part] = prune_wanda(matrix, statistics.squares[group, part], problem.config)[1]
    return Solved(kept, None, 0.0)


def sparsegpt(problem: Problem, statistics: Statistics, damping: float) -> Solved:
    """By SparseGPT. Where groups of N:M do not fill the runs, Wanda chooses, and a least-squares repair makes up."""
    if problem.in_runs:
        return repaired(problem, wanda(problem, statistics).kept, statistics, damping)
    hessian = _hessian(statistics)
    kept, values, most = np.empty(problem.matrices.shape, np.bool_), np.empty_like(problem.matrices), 0.0
    block = _block(problem.config)
    for group, matrix in enumerate(problem.matrices):
        found = prune_sparsegpt(
            WeightTensor(problem.name, matrix), hessian[group], problem.config, block=block, damping=damping
        )
        kept[group], values[group] = found.mask, found.pruned
        most = max(most, found.damping)
    return Solved(kept, values, most)


def repaired(problem: Problem, kept: Matrices, statistics: Statistics, damping: float) -> Solved:
    """What is kept, fitted by least squares to what the dense layer gave."""
    hessian, values, most = _hessian(statistics), np.empty_like(problem.matrices), damping
    for group, matrix in enumerate(problem.matrices):
        cross = None if statistics.cross is None else statistics.cross[group]
        tensor = WeightTensor(problem.name, matrix)
        found = refit(tensor, kept[group], hessian[group], cross=cross, damping=damping)
        values[group] = found.pruned
        most = max(most, found.damping)
    return Solved(kept, values, most)


def centred(statistics: Statistics) -> Statistics:
    """The products of rows less their means, in place of those of the rows; zeros for features that are constant."""
    means, dense = statistics.means, statistics.dense_means
    assert statistics.hessian is not None
    hessian = statistics.hessian - statistics.samples * means[:, :, None] * means[:, None, :]
    varies = np.einsum("gff->gf", hessian) > _TOLD * statistics.squares
    hessian *= varies[:, :, None] & varies[:, None, :]
    cross = statistics.cross
    if cross is not None:
        cross = (cross - statistics.samples * means[:, :, None] * dense[:, None, :]) * varies[:, :, None]
    return replace(statistics, hessian=hessian, cross=cross)


def shift_of(problem: Problem, values: Matrices, statistics: Statistics) -> NDArray[np.float64]:
    """What must be added to each output, (groups, outputs), so that its mean is that of the dense layer."""
    dense = np.einsum("gof,gf->go", problem.matrices, statistics.dense_means, dtype=np.float64)
    found: NDArray[np.float64] = dense - np.einsum("gof,gf->go", values, statistics.means, dtype=np.float64)
    return found


def check_granularity(name: str, config: PruningConfig) -> None:
    """Raise `InvalidOption` for units that methods with data do not know."""
    if not isinstance(config.granularity, Unstructured | NM):
        raise InvalidOption(
            f"weight '{name}': wanda and sparsegpt prune elements or N:M groups, not {config.granularity.text}; use a "
            "metric without data, which --repair goes with"
        )


def _parts(problem: Problem) -> Iterator[tuple[int, slice]]:
    """Groups, and in them the features that compete with each other."""
    groups, _, features = problem.matrices.shape
    run = problem.neighbours if isinstance(problem.config.granularity, NM) else features
    for group in range(groups):
        yield from ((group, slice(start, start + run)) for start in range(0, features, run))


def _hessian(statistics: Statistics) -> NDArray[np.float64]:
    assert statistics.hessian is not None
    return statistics.hessian


def _block(config: PruningConfig) -> int:
    """The paper's 128 features, or the most of that which groups of N:M fill."""
    groups = config.granularity
    return 128 if not isinstance(groups, NM) else max(128 // groups.of, 1) * groups.of
