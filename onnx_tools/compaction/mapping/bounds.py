"""Bounds of numbers, and what operators that work on each element make of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple


class Bounds(NamedTuple):
    """No number is lower or higher."""

    low: float
    high: float

    @property
    def hold_zero(self) -> bool:
        """Whether zero lies between them."""
        return self.low <= 0 <= self.high


ZERO = Bounds(0.0, 0.0)
ANYTHING = Bounds(-math.inf, math.inf)

Function = Callable[[Sequence[Bounds]], Bounds]
"""Bounds of a result from those of all operands."""


def around(numbers: Iterable[float]) -> Bounds:
    """The bounds of some numbers; of none, or with NaN among them, ANYTHING."""
    found = list(numbers)
    return ANYTHING if not found or any(map(math.isnan, found)) else Bounds(min(found), max(found))


def hull(given: Iterable[Bounds]) -> Bounds:
    """What holds all of the given ones."""
    return around(end for each in given for end in each)


def total(given: Sequence[Bounds]) -> Bounds:
    """Of a sum."""
    return around((sum(each.low for each in given), sum(each.high for each in given)))


def difference(given: Sequence[Bounds]) -> Bounds:
    """Of the first less the second."""
    return around((given[0].low - given[1].high, given[0].high - given[1].low))


def product(given: Sequence[Bounds]) -> Bounds:
    """Of the first times the second. Numbers are finite, whatever their bounds: zero times any of them is zero."""
    return around(_times(one, other) for one in given[0] for other in given[1])


def square(of: Bounds) -> Bounds:
    """Of a number times itself."""
    ends = [_times(end, end) for end in of]
    return Bounds(0.0 if of.hold_zero else min(ends), max(ends))


def quotient(given: Sequence[Bounds]) -> Bounds:
    """Of the first by the second."""
    return ANYTHING if given[1].hold_zero else product((given[0], around(1 / end for end in given[1])))


def power(given: Sequence[Bounds]) -> Bounds:
    """Of the first to the power of the second, which is told for 2 and 0.5."""
    base, exponents = given[0], set(given[1])
    return square(base) if exponents == {2.0} else rising(_root)((base,)) if exponents == {0.5} else ANYTHING


def absolute(given: Sequence[Bounds]) -> Bounds:
    """Of what is left without a sign."""
    return Bounds(0.0 if given[0].hold_zero else min(map(abs, given[0])), max(map(abs, given[0])))


def highest(given: Sequence[Bounds]) -> Bounds:
    """Of the highest of all operands."""
    return Bounds(max(each.low for each in given), max(each.high for each in given))


def lowest(given: Sequence[Bounds]) -> Bounds:
    """Of the lowest of all operands."""
    return Bounds(min(each.low for each in given), min(each.high for each in given))


def clipped(given: Sequence[Bounds]) -> Bounds:
    """Of the first, no less than the second and no more than the third."""
    return lowest((highest(given[:2]), given[2]))


def rising(function: Callable[[float], float]) -> Function:
    """What makes bounds of bounds for a function that never falls."""
    return lambda given: around(map(function, given[0]))


def _root(number: float) -> float:
    return math.sqrt(number) if number >= 0 else math.nan


def _exponential(number: float) -> float:
    return math.exp(number) if number < 700 else math.inf


def _sigmoid(number: float) -> float:
    return 1 / (1 + _exponential(-number))


def _times(one: float, other: float) -> float:
    return 0.0 if 0.0 in (one, other) else one * other


FUNCTIONS: dict[str, Function] = {
    "Add": total,
    "Sum": total,
    "Sub": difference,
    "Mul": product,
    "Div": quotient,
    "Pow": power,
    "Abs": absolute,
    "Max": highest,
    "Min": lowest,
    "Neg": lambda given: Bounds(-given[0].high, -given[0].low),
    "Relu": rising(lambda number: max(number, 0.0)),
    "Exp": rising(_exponential),
    "Sigmoid": rising(_sigmoid),
    "Softplus": rising(lambda number: math.log1p(_exponential(number)) if number < 30 else number),
    "Sqrt": rising(_root),
    "Tanh": rising(math.tanh),
}
"""By operator."""
