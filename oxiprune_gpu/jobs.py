"""What is to be done with one weight: its units, and how many of them fall."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from oxiprune_gpu.backends import Backend
from oxiprune_gpu.config import PruningConfig
from oxiprune_gpu.errors import BelowMinNonzero, EmptyTensor, InvalidOption, PruningError
from oxiprune_gpu.granularity import GroupView, PruningGranularity, UnitView
from oxiprune_gpu.selection import checked_count, most_units, units_to_prune


@dataclass(frozen=True)
class Job:
    """The `k` lowest units of a weight are to be pruned.

    `view` says how they lie: as units that all compete, or as elements that compete in groups. With None every element
    is a unit, and all compete.
    """

    name: str
    config: PruningConfig
    view: UnitView | GroupView | None
    k: int

    @property
    def elements(self) -> int:
        """How many elements fall."""
        return self.k * self.view.unit_size if isinstance(self.view, UnitView) else self.k

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
        k = _units_that_fall(view, size, config) if count is None else _counted_units(view, size, config, count, name)
    except PruningError as error:
        error.add_note(f"tensor '{name}'")  # the reference's texts do not name it
        raise
    config.metric.check(name, shape)
    return Job(name, config, view, k)


def _view(granularity: PruningGranularity, shape: tuple[int, ...]) -> UnitView | GroupView | None:
    return granularity.group_view(shape) or granularity.unit_view(shape)


def _units_that_fall(view: UnitView | GroupView | None, size: int, config: PruningConfig) -> int:
    if isinstance(view, GroupView):
        kept = size - view.pruned
        if config.min_nonzero > kept:
            raise BelowMinNonzero(config.min_nonzero, size, f": {config.granularity.text} keeps {kept}")
        return view.pruned
    return units_to_prune(config.sparsity, *_units(view, size), config.min_nonzero)


def _counted_units(view: UnitView | GroupView | None, size: int, config: PruningConfig, count: int, name: str) -> int:
    if isinstance(view, GroupView):
        raise InvalidOption(f"count {count!r} of tensor '{name}': granularity {config.granularity.text} says it itself")
    units, unit_size = _units(view, size)
    return min(checked_count(count, units, name), most_units(units, unit_size, config.min_nonzero))


def _units(view: UnitView | None, size: int) -> tuple[int, int]:
    """How many units there are, and how many elements each has."""
    return (size, 1) if view is None else (view.count, view.unit_size)
