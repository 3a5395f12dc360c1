"""Values changed through their bits, so that nothing else about them changes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def bits_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Unsigned integers as wide as `dtype`."""
    return np.dtype(f"u{dtype.itemsize}")


def multiply_bits(values: NDArray[Any], kept: NDArray[np.bool_], factors: NDArray[Any]) -> None:
    """Set the values that are not kept to +0.0; `factors` is scratch of the same shape, for their bits."""
    # The bits times 0 or 1: no branch, kept bits stay, and neither -0.0 nor NaN can come of infinity.
    np.copyto(factors, kept)
    bits = values.view(factors.dtype)
    np.multiply(bits, factors, out=bits)


def count_nonzeros(values: NDArray[Any]) -> int:
    """Values that are not zero: the sign bit is shifted out, what is left is 0 only for +0.0 and -0.0."""
    bits = values.view(bits_dtype(values.dtype))
    return int(np.count_nonzero(bits + bits))
