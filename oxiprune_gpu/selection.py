"""How many units fall: sparsity -> k, and the floor that `min_nonzero` sets."""

from __future__ import annotations

import numbers

import numpy as np

from oxiprune_gpu.errors import BelowMinNonzero, InvalidOption


def units_to_prune(sparsity: float, units: int, unit_size: int, min_nonzero: int) -> int:
    """Return k, the number of units to prune out of `units`, each `unit_size` elements large.

    `k = floor(float32(sparsity) * float32(units))`, the product rounded to float32, limited by `most_units`. Errors as
    there.
    """
    return min(wanted_units(sparsity, units), most_units(units, unit_size, min_nonzero))


def most_units(units: int, unit_size: int, min_nonzero: int) -> int:
    """Return how many units can fall when at least `min_nonzero` elements, rounded up to whole units, are kept.

    Raises:
        BelowMinNonzero: `min_nonzero` is larger than the weight, even when nothing would be pruned.
    """
    total = units * unit_size
    if min_nonzero > total:
        raise BelowMinNonzero(min_nonzero, total)
    return units - (-(-min_nonzero // unit_size) if unit_size else 0)


def checked_count(count: object, units: int, name: str) -> int:
    """Return `count`, a number of units, as int.

    Raises:
        InvalidOption: it is no whole number from 0 to `units`.
    """
    if isinstance(count, bool) or not isinstance(count, numbers.Integral) or not 0 <= int(count) <= units:
        raise InvalidOption(f"tensor '{name}' has {units} units: count {count!r} must be a whole number from 0 to that")
    return int(count)


def wanted_units(sparsity: float, units: int) -> int:
    """`floor(float32(sparsity) * float32(units))`, the product rounded to float32.

    0.7 of 10 units is 7, though the float32 nearest to 0.7 is below it. Above 2**24 `units` itself is rounded.
    """
    return int(np.floor(np.float32(sparsity) * np.float32(units)))
