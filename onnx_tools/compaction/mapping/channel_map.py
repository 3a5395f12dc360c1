"""What is known of the channels of a model, and what remains when some of them leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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

    def masks(self, traced: Traced) -> dict[int, Mask]:
        """For each axis that loses entries: which of them stay."""
        found = {}
        for factor in traced:
            stays = ~self.gone[factor.ids]
            for at, axis in enumerate(factor.axes):
                along: Mask = np.asarray(stays.any(axis=tuple(other for other in range(stays.ndim) if other != at)))
                if not along.all():
                    found[axis] = along
        return found

    def sizes(self, value: Value) -> dict[int, int]:
        """For each axis that loses entries: how many stay."""
        return {axis: int(mask.sum()) for axis, mask in self.masks(self.map.of(value)).items()}
