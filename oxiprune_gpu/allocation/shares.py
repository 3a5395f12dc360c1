"""The weights among which an allocation spreads the pruning, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from oxiprune_gpu.allocation.base import Share
from oxiprune_gpu.blocks import BlockSource
from oxiprune_gpu.config import PruningConfig
from oxiprune_gpu.errors import InvalidOption, ShapeMismatch
from oxiprune_gpu.granularity import GroupView
from oxiprune_gpu.jobs import check_config, check_source, job_for
from oxiprune_gpu.selection import wanted_units

Bound = float | Sequence[float]
"""A sparsity for all weights, or one for each."""


_NUMBERS = (int, float, np.integer, np.floating)


class Wishes(NamedTuple):
    """What may be said of each weight; see `allocate`."""

    floor: Bound
    ceiling: Bound
    names: Sequence[str] | None
    dims: Sequence[Sequence[int]] | None


def shares_of(
    sources: Sequence[BlockSource], config: PruningConfig | Sequence[PruningConfig], wishes: Wishes
) -> list[Share]:
    """Check all that can be checked without reading the weights. Errors as in `allocate`."""
    count = len(sources)
    names = _one_each([f"weight {n}" for n in range(count)] if wishes.names is None else wishes.names, count, "names")
    for source, name in zip(sources, names, strict=True):
        check_source(source, name)
    configs = [config] * count if isinstance(config, PruningConfig) else _one_each(config, count, "config")
    _check_one_sparsity(configs)
    dims = _one_each([source.shape for source in sources] if wishes.dims is None else wishes.dims, count, "dims")
    floors, ceilings = (_bounds(bound, count, what) for bound, what in zip(wishes[:2], wishes._fields[:2], strict=True))
    return [_share(*each) for each in zip(configs, sources, names, dims, floors, ceilings, strict=True)]


def _check_one_sparsity(configs: Sequence[PruningConfig]) -> None:
    for config in configs:
        check_config(config)
        if config.sparsity != configs[0].sparsity:
            raise InvalidOption(
                f"sparsities {configs[0].sparsity:g} and {config.sparsity:g}: an allocation has one for all weights"
            )


def _bounds(bound: Any, count: int, what: str) -> list[Any]:
    return [bound] * count if isinstance(bound, _NUMBERS) else _one_each(bound, count, what)


def _one_each(wishes: Any, count: int, what: str) -> list[Any]:
    if not isinstance(wishes, Sequence | np.ndarray) or isinstance(wishes, str) or len(wishes) != count:
        raise InvalidOption(f"{what} {wishes!r}: one for each of the {count} weights is wanted")
    return list(wishes)


def _is_length(length: Any) -> bool:
    return isinstance(length, int | np.integer) and int(length) > 0


def _share(config: PruningConfig, source: BlockSource, name: str, dims: Any, floor: Any, ceiling: Any) -> Share:
    job = job_for(source.shape, config, name)
    if isinstance(job.view, GroupView):
        raise InvalidOption(
            f"granularity {config.granularity.text} says itself how many fall of tensor '{name}': nothing to allocate"
        )
    if not (isinstance(dims, Sequence) and all(map(_is_length, dims)) and math.prod(dims) == job.size):
        raise ShapeMismatch(f"dims {dims!r} of tensor '{name}' do not fit its shape {list(source.shape)}")
    if not (isinstance(floor, _NUMBERS) and isinstance(ceiling, _NUMBERS) and 0 <= floor <= ceiling <= 1):
        raise InvalidOption(f"floor {floor!r} and ceiling {ceiling!r} of tensor '{name}': 0 <= floor <= ceiling <= 1")
    most = min(job.most_units, _bound(ceiling, job.units))
    return Share(source, job, tuple(dims), min(most, _bound(floor, job.units)), most)


def _bound(sparsity: Any, units: int) -> int:
    return units if sparsity == 1 else min(units, wanted_units(sparsity, units))
