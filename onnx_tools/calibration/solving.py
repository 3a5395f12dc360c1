"""What becomes of one weight, seen as matrices, by what its inputs are: which elements stay, and with which values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import ml_dtypes
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
class Device:
    """Where matrices are worked on. `cupy`: that module, for a GPU; None for this machine's memory."""

    cupy: Any = None

    def put(self, array: Any) -> Any:
        """An array as the methods take it there; bfloat16, which CuPy may not take, as float32."""
        if self.cupy is None or array is None:
            return array
        return self.cupy.asarray(array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array)

    def fetch(self, array: Any) -> Any:
        """An array of numpy."""
        return array if isinstance(array, np.ndarray) else array.get()


@dataclass(frozen=True)
class Recipe:
    """What is done with each weight. `choice`: as in `DataMethod`; `least_squares`: whether what is kept is fitted."""

    choice: str | None
    least_squares: bool
    damping: float
    device: Device = Device()

    def solve(self, problem: Problem, statistics: Statistics) -> Solved:
        """What becomes of one weight."""
        if problem.shifted and statistics.hessian is not None:
            statistics = centred(statistics)
        solved = self._chosen(problem, statistics)
        if not self.least_squares or problem.rigid:
            return solved
        fitted = self._repaired(problem, solved.kept, statistics)
        return fitted._replace(damping=max(fitted.damping, solved.damping))

    def _chosen(self, problem: Problem, statistics: Statistics) -> Solved:
        if problem.fixed is not None:
            return Solved(problem.fixed, None, 0.0)
        if self.choice == "wanda" or problem.rigid:
            return self._wanda(problem, statistics)
        return self._sparsegpt(problem, statistics)

    def _wanda(self, problem: Problem, statistics: Statistics) -> Solved:
        """By |w| * ||x||; kept elements stay what they are."""
        kept = np.empty(problem.matrices.shape, np.bool_)
        for group, part in _parts(problem):
            matrix = self._tensor(problem, np.ascontiguousarray(problem.matrices[group, :, part]))
            mask = prune_wanda(matrix, statistics.squares[group, part], problem.config)[1]
            kept[group, :, part] = self.device.fetch(mask)
        return Solved(kept, None, 0.0)

    def _sparsegpt(self, problem: Problem, statistics: Statistics) -> Solved:
        """By SparseGPT. Where groups of N:M do not fill the runs, Wanda chooses and a least-squares repair makes up."""
        if problem.in_runs:
            return self._repaired(problem, self._wanda(problem, statistics).kept, statistics)
        hessian = _hessian(statistics)
        kept, values, most = np.empty(problem.matrices.shape, np.bool_), np.empty_like(problem.matrices), 0.0
        for group, matrix in enumerate(problem.matrices):
            tensor, own = self._tensor(problem, matrix), self.device.put(hessian[group])
            found = prune_sparsegpt(tensor, own, problem.config, block=_block(problem.config), damping=self.damping)
            kept[group], values[group] = self.device.fetch(found.mask), self.device.fetch(found.pruned)
            most = max(most, found.damping)
        return Solved(kept, values, most)

    def _repaired(self, problem: Problem, kept: Matrices, statistics: Statistics) -> Solved:
        """What is kept, fitted by least squares to what the dense layer gave."""
        hessian, values, most = _hessian(statistics), np.empty_like(problem.matrices), self.damping
        for group, matrix in enumerate(problem.matrices):
            cross = None if statistics.cross is None else self.device.put(statistics.cross[group])
            mask, own = self.device.put(kept[group]), self.device.put(hessian[group])
            found = refit(self._tensor(problem, matrix), mask, own, cross=cross, damping=self.damping)
            values[group] = self.device.fetch(found.pruned)
            most = max(most, found.damping)
        return Solved(kept, values, most)

    def _tensor(self, problem: Problem, matrix: Any) -> WeightTensor:
        return WeightTensor(problem.name, self.device.put(matrix))


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
