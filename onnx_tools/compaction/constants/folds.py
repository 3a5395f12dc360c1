"""Constants that channels leave behind: what is added to the results of a node when they are gone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_tools.graph_parts import Node


@dataclass(frozen=True, eq=False)
class Fold:
    """`values[c]` is added to channel `c`, counted before any leave, along `axis` of output 0 of `node`."""

    node: Node
    axis: int
    values: NDArray[np.float64]
