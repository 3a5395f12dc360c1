"""Whole slices of stored tensors that fall together: what is left of a tensor along its axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnx_tools.report import Configuration
from onnx_tools.wire import Path

Kept = NDArray[np.bool_]

STAY = "its channels stay: "
"""How the reason of a tensor starts whose channels something holds."""


@dataclass(frozen=True, eq=False)
class SliceMask:
    """For axes of a stored tensor, which indices stay: all other slices become zero.

    `op_types`, `consumers`: the nodes that read it.
    """

    kept: Mapping[int, Kept]
    op_types: tuple[str, ...] = ()
    consumers: tuple[str, ...] = ()

    def elements(self, shape: tuple[int, ...]) -> Kept:
        """Which elements of the tensor stay, in its shape."""
        mask = np.ones(shape, np.bool_)
        for axis, along in self.kept.items():
            mask &= along.reshape([-1 if each == axis else 1 for each in range(len(shape))])
        return mask


@dataclass(frozen=True, eq=False)
class SliceMasks:
    """What falls in a model, by the path of the stored tensor. `configuration`: what was asked for, for reports.

    `reasons`: why other stored tensors lose nothing, by their path.
    """

    masks: Mapping[Path, SliceMask]
    configuration: Configuration
    reasons: Mapping[Path, str] = field(default_factory=dict)
