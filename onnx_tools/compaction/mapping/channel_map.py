"""What is known of the channels of a model, and what remains when some of them leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnx_tools.compaction.mapping.adjustments import Adjustment
from onnx_tools.compaction.mapping.channels import Groups
from onnx_tools.compaction.mapping.factors import Factor, Traced
from onnx_tools.compaction.mapping.roles import Role
from onnx_tools.compaction.mapping.shapes import Shapes
from onnx_tools.compaction.mapping.trace import Meeting
from onnx_tools.graph_index import GraphIndex
from onnx_tools.graph_parts import Node, StoredTensor, Value

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Member:
    """A stored tensor that loses entries along the axes of `factor` when channels leave; what it does for them.

    `node`: who reads it, perhaps to compute another constant of it.
    """

    tensor: StoredTensor
    factor: Factor
    role: Role
    node: Node


@dataclass(frozen=True, eq=False)
class ChannelMap:
    """The channels of a model. `members`: one for each reader of a stored tensor and each factor it has there."""

    index: GraphIndex
    shapes: Shapes
    groups: Groups
    members: tuple[Member, ...]
    adjustments: tuple[Adjustment, ...]
    meetings: tuple[Meeting, ...]
    traced: Mapping[int, Traced]

    def of(self, value: Value | None) -> Traced:
        """The factors of a value; of a stored one those of all its readers together."""
        return () if value is None else self.traced.get(id(value), ())

    def without(self, gone: NDArray[np.int64]) -> Remaining:
        """What remains when the groups `gone` leave."""
        leaves = np.zeros(len(self.groups.of) + 1, bool)
        leaves[gone] = True
        return Remaining(self, leaves[self.groups.of])


@dataclass(frozen=True, eq=False)
class Remaining:
    """What remains of each value. `gone`: whether a channel leaves."""

    map: ChannelMap
    gone: Mask
    _sizes: dict[int, dict[int, int]] = field(default_factory=dict, init=False, repr=False)
    """What `sizes` found, by the id of the value: most are asked for several times."""

    def masks(self, traced: Traced) -> dict[int, Mask]:
        """For each axis that loses entries: which of them stay."""
        found: dict[int, Mask] = {}
        for factor in traced:
            leaves = self.gone[factor.ids]
            for at, axis in enumerate(factor.axes if leaves.any() else ()):
                gone = leaves if leaves.ndim == 1 else np.asarray(leaves.all(axis=_others(at, leaves.ndim)))
                if gone.any():
                    found[axis] = ~gone
        return found

    def sizes(self, value: Value) -> Mapping[int, int]:
        """For each axis that loses entries: how many stay."""
        known = self._sizes.get(id(value))
        if known is None:
            masks = self.masks(self.map.of(value))
            known = self._sizes[id(value)] = {axis: int(np.count_nonzero(mask)) for axis, mask in masks.items()}
        return known


def _others(axis: int, rank: int) -> tuple[int, ...]:
    return tuple(other for other in range(rank) if other != axis)
