"""What is to be done with one weight: its units, and how many of them fall."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from oxiprune_gpu.backends import Backend
from oxiprune_gpu.blocks import ArrayBlocks, BlockSource
from oxiprune_gpu.config import PruningConfig
from oxiprune_gpu.errors import (
    BelowMinNonzero,
    EmptyTensor,
    InvalidOption,
    PruningError,
    ReadOnlyTarget,
    UnsupportedArray,
    UnsupportedDtype,
)
from oxiprune_gpu.granularity import GroupView, PruningGranularity, UnitView
from oxiprune_gpu.selection import checked_count, most_units, units_to_prune
from oxiprune_gpu.tensor import DTYPES


@dataclass(frozen=True)
class Job:
    """The `k` lowest units of a weight are to be pruned.

    `view` says how they lie: as units that all compete, or as elements that compete in groups. With None every element
    is a unit, and all compete.
    """

    name: str
    config: PruningConfig
    view: UnitView | GroupView | None
    size: int
    k: int

    @property
    def elements(self) -> int:
        """How many elements fall."""
        return self.k * self.view.unit_size if isinstance(self.view, UnitView) else self.k

    @property
    def units(self) -> int:
        """How many units compete."""
        return self.view.count if isinstance(self.view, UnitView) else self.size

    @property
    def unit_size(self) -> int:
        """How many elements a unit has."""
        return self.view.unit_size if isinstance(self.view, UnitView) else 1

    @property
    def most_units(self) -> int:
        """How many units can fall: `min_nonzero` keeps the others."""
        return most_units(self.units, self.unit_size, self.config.min_nonzero)

    def run(self, backend: Backend, weight: Any, *, mask: Any = None, write: bool = True) -> None:
        """Prune a weight in its backend's form."""
        backend.prune(weight, self.view, self.config.metric, self.k, self.name, mask=mask, write=write)


def check_config(config: PruningConfig) -> None:
    """Raise `InvalidOption` when it is none, and `InvalidSparsity`."""
    if not isinstance(config, PruningConfig):
        raise InvalidOption(f"config must be a PruningConfig, not {type(config).__name__}")
    config.check()


def job_for(shape: tuple[int, ...], config: PruningConfig, name: str, count: int | None = None) -> Job:
    """Check all that can be checked without reading the weight, and say how many units fall.

    With `count` so many fall, whatever the sparsity; `min_nonzero` limits them all the same.
    """
    check_config(config)
    size = math.prod(shape)
    if size == 0:
        raise EmptyTensor(name)
    try:
        view = _view(config.granularity, shape)
        job = Job(name, config, view, size, 0)
        k = _units_that_fall(job) if count is None else _counted_units(job, count)
    except PruningError as error:
        error.add_note(f"tensor '{name}'")  # the reference's texts do not name it
        raise
    config.metric.check(name, shape)
    return replace(job, k=k)


def _view(granularity: PruningGranularity, shape: tuple[int, ...]) -> UnitView | GroupView | None:
    return granularity.group_view(shape) or granularity.unit_view(shape)


def _units_that_fall(job: Job) -> int:
    config = job.config
    if isinstance(job.view, GroupView):
        kept = job.size - job.view.pruned
        if config.min_nonzero > kept:
            raise BelowMinNonzero(config.min_nonzero, job.size, f": {config.granularity.text} keeps {kept}")
        return job.view.pruned
    return units_to_prune(config.sparsity, job.units, job.unit_size, config.min_nonzero)


def _counted_units(job: Job, count: int) -> int:
    if isinstance(job.view, GroupView):
        raise InvalidOption(
            f"count {count!r} of tensor '{job.name}': granularity {job.config.granularity.text} says it itself"
        )
    return min(checked_count(count, job.units, job.name), job.most_units)


def check_source(source: BlockSource, name: str, *, writing: bool = False) -> None:
    """Raise when `source` is no weight that can be read in blocks, or written."""
    if not isinstance(source, BlockSource):
        raise UnsupportedArray(
            name, f"a BlockSource is wanted, not {type(source).__name__}; ArrayBlocks wraps an array"
        )
    if source.dtype not in DTYPES:
        raise UnsupportedDtype(name, source.dtype)
    if writing and isinstance(source, ArrayBlocks) and not source.writable:
        raise ReadOnlyTarget(name)
