"""A layer: its weight, and what went into it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[Any]


def layer(outputs: int, features: int, seed: int = 0, dtype: Any = np.float32) -> tuple[Matrix, Matrix]:
    """A weight, and inputs whose features go together and differ in size."""
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((features, features)) * random.uniform(0.1, 3, features)
    inputs = random.standard_normal((4 * features, features)) @ mixing
    return random.standard_normal((outputs, features)).astype(dtype), inputs
