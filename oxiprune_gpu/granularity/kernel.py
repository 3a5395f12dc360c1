"""The kernels of a convolution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from oxiprune_gpu.errors import ShapeMismatch
from oxiprune_gpu.granularity.base import PruningGranularity, UnitView


@dataclass(frozen=True)
class Kernel(PruningGranularity):
    """Whole kernels of a convolution, `weight[o, i]`: all that lies below the first two axes of a weight.

    Kernels are numbered by o, then i.
    """

    name: ClassVar[str] = "kernel"

    def unit_view(self, shape: tuple[int, ...]) -> UnitView:
        """See `PruningGranularity.unit_view`."""
        if len(shape) < 3:
            raise ShapeMismatch(
                f"shape {list(shape)} has no kernels, which lie below the first two axes: use granularity unstructured"
            )
        return UnitView(1, 1, shape[0] * shape[1], math.prod(shape[2:]))
