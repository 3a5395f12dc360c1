"""Larger layers lose more: Erdos-Renyi-Kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from oxiprune_gpu.allocation.base import Allocation, Share, unit_weights, units_of_all


@dataclass(frozen=True)
class Erk(Allocation):
    """The density of a weight is proportional to the sum of its dimensions divided by their product.

    Evci et al., 2020, "Rigging the lottery: making all tickets winners". A weight that would keep more than it has (or
    than its floor and ceiling allow) keeps that, and the others share the rest. Computed with exact fractions; what is
    left of whole units goes to the largest remainders, of equal ones to the first weight. Where the units of the
    weights have different sizes, their elements are counted, and as many fall as whole units allow.
    """

    name: ClassVar[str] = "erk"

    def counts(self, shares: Sequence[Share]) -> list[int]:
        """See `Allocation.counts`."""
        wanted, sizes = units_of_all(shares), unit_weights(shares)
        totals = [share.job.units * size for share, size in zip(shares, sizes, strict=True)]
        lines = [_Line.of(share, size) for share, size in zip(shares, sizes, strict=True)]
        kept = _kept(lines, sum(totals) - wanted)
        falling = [total - part for total, part in zip(totals, kept, strict=True)]
        return _whole(falling, sizes, [share.most for share in shares], wanted)


@dataclass(frozen=True)
class _Line:
    """A weight keeps `slope` for each unit of density, but at least `low` and at most `high`: units, or elements."""

    slope: Fraction
    low: int
    high: int

    @classmethod
    def of(cls, share: Share, size: int) -> _Line:
        units = share.job.units
        density = Fraction(sum(share.dims) or 1, math.prod(share.dims))
        return cls(density * units * size, (units - share.most) * size, (units - share.least) * size)

    def at(self, scale: Fraction) -> Fraction:
        return min(max(self.slope * scale, Fraction(self.low)), Fraction(self.high))


def _kept(lines: Sequence[_Line], total: int) -> list[Fraction]:
    """What each keeps at the scale at which all together keep `total`."""
    bends = sorted({end / line.slope for line in lines for end in (line.low, line.high)})
    first, last = 0, len(bends) - 1
    while first < last:  # the first bend at which enough is kept
        middle = (first + last) // 2
        first, last = (first, middle) if _sum(lines, bends[middle]) >= total else (middle + 1, last)
    after = bends[first]
    before = bends[max(0, first - 1)]
    low, high = _sum(lines, before), _sum(lines, after)
    scale = after if low == high else before + (after - before) * (total - low) / (high - low)
    return [line.at(scale) for line in lines]


def _sum(lines: Sequence[_Line], scale: Fraction) -> Fraction:
    return sum((line.at(scale) for line in lines), Fraction(0))


def _whole(parts: Sequence[Fraction], sizes: Sequence[int], most: Sequence[int], total: int) -> list[int]:
    """Whole units, each of its size, nearest to parts of a `total`, by largest remainder; together no more than it."""
    counts = [math.floor(part / size) for part, size in zip(parts, sizes, strict=True)]
    left = total - sum(count * size for count, size in zip(counts, sizes, strict=True))
    for number in sorted(range(len(parts)), key=lambda number: counts[number] - parts[number] / sizes[number]):
        if sizes[number] <= left and counts[number] < most[number]:
            counts[number] += 1
            left -= sizes[number]
    return counts
