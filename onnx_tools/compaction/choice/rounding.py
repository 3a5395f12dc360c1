"""Numbers of channels that hardware likes: of each layer a multiple stays, or all.

Layers whose channels are tied need not have the same ones: two that are concatenated in front of a residual sum have a
part each. So what stays is counted in the result of every layer that makes channels, not in their groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_tools.compaction.looking import end_of
from onnx_tools.compaction.mapping.channel_map import ChannelMap, Member
from onnx_tools.compaction.mapping.channels import Ids
from onnx_tools.compaction.mapping.roles import Role

Mask = NDArray[np.bool_]

_MOST_PASSES = 64
"""Over the axes of one family; what doesn't fit together then stays."""


@dataclass(frozen=True, eq=False)
class MadeAxis:
    """The channels of a layer's result. `places`: the groups among them that may leave, by their place in an order.

    `sizes`: how many channels each of those takes along; `total`: how many channels there are.
    """

    places: Ids
    sizes: Ids
    total: int

    def too_many(self, leaves: Mask, multiple: int) -> Ids:
        """The last ones of those that leave, without which a multiple of `multiple` channels stays, but not none."""
        own = np.flatnonzero(leaves[self.places])
        left = self.total - np.concatenate([[0], np.cumsum(self.sizes[own])])
        fits = np.flatnonzero((left % multiple == 0) & (left > 0))
        found: Ids = self.places[own[fits[-1] if len(fits) else 0 :]]
        return found


def made_axes(channels: ChannelMap, order: Ids) -> dict[int, list[MadeAxis]]:
    """For each family the results of its layers, those with the fewest groups first; like ones once.

    `order`: the groups that may leave; places are theirs among those of the same family.
    """
    families = channels.groups.families
    by_family = order[np.argsort(families[order], kind="stable")]
    place = np.full(len(channels.groups.of), -1)
    place[by_family] = np.arange(len(order)) - np.searchsorted(families[by_family], families[by_family])
    found: dict[int, dict[bytes, MadeAxis]] = {}
    for groups in _results(channels):
        numbers, sizes = np.unique(groups, return_counts=True)
        free = place[numbers] >= 0
        numbers, sizes = numbers[free], sizes[free]
        by_place = np.argsort(place[numbers])
        axis = MadeAxis(place[numbers][by_place], sizes[by_place], len(groups))
        key = axis.places.tobytes() + axis.sizes.tobytes() + len(groups).to_bytes(8, "little")
        if len(numbers):
            found.setdefault(int(families[numbers[0]]), {})[key] = axis
    return {family: sorted(axes.values(), key=lambda axis: len(axis.places)) for family, axes in found.items()}


def rounded(leaves: Mask, axes: list[MadeAxis], multiple: int) -> Mask:
    """Of the groups of a family that shall leave those that do, so that each layer keeps a multiple, or all."""
    leaves = leaves.copy()
    for _ in range(_MOST_PASSES):
        before = int(leaves.sum())
        for axis in axes:
            leaves[axis.too_many(leaves, multiple)] = False
        if leaves.sum() == before:
            return leaves
    return np.zeros_like(leaves)


def _results(channels: ChannelMap) -> Iterator[Ids]:
    """The group of each channel of what a layer makes, one by one along its axis."""
    for member in channels.members:
        if member.role is Role.MAKES:
            groups = channels.groups.of[_in_result(channels, member)]
            varying = [at for at in range(groups.ndim) if (groups != groups.take([0], at)).any()]
            along = varying[0] if varying else groups.ndim - 1
            yield groups[tuple(slice(None) if at == along else 0 for at in range(groups.ndim))]


def _in_result(channels: ChannelMap, member: Member) -> Ids:
    """The channels that a stored tensor makes, as they lie in the result of the layer; else as they are stored."""
    layer = end_of(member.node)
    for output in [] if layer is None else layer.outputs:
        for factor in channels.of(output):
            if np.isin(factor.ids, member.factor.ids).all():
                return factor.ids
    return member.factor.ids
