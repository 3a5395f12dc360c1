"""How many units fall: sparsity -> k, and the floor that `min_nonzero` sets."""

from __future__ import annotations

import numpy as np

from oxiprune_gpu.errors import BelowMinNonzero


def units_to_prune(sparsity: float, units: int, unit_size: int, min_nonzero: int) -> int:
    """Return k, the number of units to prune out of `units`, each `unit_size` elements large.

    `k = floor(float32(sparsity) * float32(units))`, the product rounded to float32, limited so that at least
    `min_nonzero` elements, rounded up to whole units, are kept.

    Raises:
        BelowMinNonzero: `min_nonzero` is larger than the weight, even when nothing would be pruned.
    """
    total = units * unit_size
    if min_nonzero > total:
        raise BelowMinNonzero(min_nonzero, total)
    wanted = wanted_units(sparsity, units)
    floor = -(-min_nonzero // unit_size) if unit_size else 0
    return max(0, min(wanted, units - floor))


def wanted_units(sparsity: float, units: int) -> int:
    """`floor(float32(sparsity) * float32(units))`, the product rounded to float32.

    0.7 of 10 units is 7, though the float32 nearest to 0.7 is below it. Above 2**24 `units` itself is rounded.
    """
    return int(np.floor(np.float32(sparsity) * np.float32(units)))
