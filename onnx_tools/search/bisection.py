"""The highest of some levels that passes, where passing mostly ends once and for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

PROBES = 2
"""Levels above the first failure that are tried too: real quality goes up and down a little."""


class Highest(NamedTuple):
    """`level`: the highest that was seen to pass, 0 if none did. `monotone`: no level passed above one that failed."""

    level: int
    monotone: bool


def highest_passing(
    passes: Callable[[int], bool],
    most: int,
    *,
    above: int = 0,
    probes: int = PROBES,
    spent: Callable[[], bool] = lambda: False,
) -> Highest:
    """Bisect the levels 1 to `most` for the highest that passes.

    Whatever the levels do, the level returned was asked for and passed, unless it is `above`. Levels from the failure
    on that ended the bisection are then tried one after another, some for the second time, until `probes` of them in a
    row have failed. Without such surprises 1 + log2(most) + `probes` questions are asked, with `above` twice as many at
    most.

    Args:
        passes: whether a level passes.
        most: the highest level there is.
        above: a level that is known to pass, or that nobody would go below: only higher ones are looked at, near ones
            first.
        probes: see there.
        spent: asked before each level; True ends the search with what was found.
    """
    low, high = _bracket(passes, above, most, spent)
    while high - low > 1 and not spent():
        middle = (low + high) // 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    return _beyond(passes, Highest(low, True), high, most, probes, spent)


def _bracket(passes: Callable[[int], bool], above: int, most: int, spent: Callable[[], bool]) -> tuple[int, int]:
    """A level that passes or is `above`, and one that fails or is past the end."""
    if not above:
        return 0, most + 1
    low, step = above, 1
    while low + step <= most and not spent():
        if not passes(low + step):
            return low, low + step
        low, step = low + step, 2 * step
    return low, most + 1


def _beyond(
    passes: Callable[[int], bool], found: Highest, failed: int, most: int, probes: int, spent: Callable[[], bool]
) -> Highest:
    left = probes
    for level in range(failed + 1, most + 1):
        if not left or spent():
            break
        if passes(level):
            found, left = Highest(level, False), probes
        else:
            left -= 1
    return found
