"""Which groups of channels leave: the lowest scores, as far as every layer keeps what it must."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_tools.compaction.choice.config import ChannelConfig, Target
from onnx_tools.compaction.choice.rounding import MadeAxis, made_axes, rounded
from onnx_tools.compaction.mapping.channel_map import ChannelMap
from onnx_tools.compaction.mapping.channels import Ids
from oxiprune_gpu import InvalidOption

Measure = Callable[[Ids], float]
"""What a target counts, when these groups leave."""


@dataclass(frozen=True, eq=False)
class Layer:
    """The groups of one family that may leave, lowest score first. `places`: how many have a lower score in the model.

    `axes`: the results of the layers that belong to it.
    """

    groups: Ids
    places: NDArray[np.int64]
    axes: list[MadeAxis]

    def most(self, config: ChannelConfig, groups: int) -> int:
        """How many of the groups may leave; `groups`: of the family, those that stay anyway too."""
        return max(min(len(self.groups), groups - config.min_channels, int(config.ceiling * groups)), 0)

    def lowest(self, count: int, round_to: int) -> Ids:
        """The `count` groups with the lowest scores, without those that must stay for a multiple of `round_to`."""
        if round_to == 1:
            return self.groups[:count]
        return self.groups[rounded(np.arange(len(self.groups)) < count, self.axes, round_to)]


class Chooser:
    """Chooses among the groups of a model by their scores."""

    def __init__(
        self, channels: ChannelMap, scores: NDArray[np.float64], config: ChannelConfig, may_leave: Ids
    ) -> None:
        self._config = config
        self._layers, self._limits = _layers(channels, scores, config, may_leave)
        self._count = sum(len(layer.groups) for layer in self._layers)

    @property
    def wanted(self) -> int:
        """How many groups a sparsity asks for, whatever must stay of each layer; 0 for a target."""
        sparsity = self._config.sparsity or 0.0
        if self._config.scope == "global":
            return _part_of(self._count, sparsity)
        return sum(_part_of(len(layer.groups), sparsity) for layer in self._layers)

    def choose(self, measure: Measure | None = None) -> Ids:
        """The groups that leave, by the sparsity or by the target, which `measure` counts."""
        target = self._config.target
        if target is None or measure is None:
            return self._of_sparsity(self._config.sparsity or 0.0)
        steps: Sequence[float] = range(self._count + 1) if self._config.scope == "global" else self._fractions()
        low, high = 0, len(steps) - 1
        most = self._at(steps[high])
        if (least := measure(most)) > target.amount:
            raise InvalidOption(_unreachable(target, least, len(most), self._count))
        while low < high:
            middle = (low + high) // 2
            if measure(self._at(steps[middle])) <= target.amount:
                high = middle
            else:
                low = middle + 1
        return self._at(steps[low])

    def _fractions(self) -> list[float]:
        """The sparsities at which a layer loses one more group."""
        sizes = {len(layer.groups) for layer in self._layers}
        exact = {np.float32(count / size) for size in sizes for count in range(1, size + 1)}
        return [0.0, *sorted(float(np.nextafter(fraction, np.float32(2))) for fraction in exact)]

    def _at(self, step: float) -> Ids:
        return self._lowest(int(step)) if self._config.scope == "global" else self._of_each(step)

    def _of_sparsity(self, sparsity: float) -> Ids:
        everywhere = self._config.scope == "global"
        return self._lowest(_part_of(self._count, sparsity)) if everywhere else self._of_each(sparsity)

    def _of_each(self, sparsity: float) -> Ids:
        """The fraction `sparsity` of each layer."""
        return self._taken([_part_of(len(layer.groups), sparsity) for layer in self._layers])

    def _lowest(self, count: int) -> Ids:
        """The `count` lowest scores of all layers."""
        return self._taken([int(np.searchsorted(layer.places, count)) for layer in self._layers])

    def _taken(self, counts: Sequence[int]) -> Ids:
        taken = [
            layer.lowest(min(count, limit), self._config.round_to)
            for layer, count, limit in zip(self._layers, counts, self._limits, strict=True)
        ]
        found: Ids = np.sort(np.concatenate([np.empty(0, np.int64), *taken]))
        return found


def _part_of(count: int, sparsity: float) -> int:
    """How many units fall, by the rule of all granularities: the product is rounded to float32, then down."""
    return int(np.float32(sparsity) * np.float32(count))


def _layers(
    channels: ChannelMap, scores: NDArray[np.float64], config: ChannelConfig, may_leave: Ids
) -> tuple[list[Layer], list[int]]:
    """The layers, and how many groups of each may leave."""
    groups = channels.groups
    order = may_leave[np.lexsort((may_leave, scores[may_leave]))]
    families = groups.families[order]
    all_groups = np.unique(groups.of)
    totals = np.bincount(groups.families[all_groups], minlength=int(groups.families.max(initial=0)) + 1)
    axes = made_axes(channels, order) if config.round_to > 1 else {}
    layers, limits = [], []
    by_family = np.argsort(families, kind="stable")
    for places in np.split(by_family, np.flatnonzero(np.diff(families[by_family])) + 1):
        if not len(places) or not (family := families[places[0]]):
            continue
        layer = Layer(order[places], places, axes.get(int(family), []))
        layers.append(layer)
        limits.append(layer.most(config, int(totals[family])))
    return layers, limits


def _unreachable(target: Target, least: float, gone: int, count: int) -> str:
    left = f"{least:,.0f} bytes are" if target.of == "bytes" else f"a fraction of {least:.4g} is"
    why = "`oxiprune compact --dry-run` says what holds the others"
    if gone < count:
        why = f"--min-channels, --ceiling and --round-to keep {count - gone:,} more, and one of each layer stays"
    return (
        f"target {target.of} {target.amount:,g} can't be reached: {left} left when {gone:,} groups of channels "
        f"leave, as many as may; {why}"
    )
