"""One option of each of several groups, so that enough is covered at the lowest cost: exactly.

The multiple-choice knapsack problem. States (what is covered, what it costs) are built up group by group; a state goes
when another covers as much for as little, or when even the linear relaxation of what is left makes it dearer than a
solution that is known. Neither can lose the best one, so what remains at the end is the best.

Sources: K. Dudzinski, S. Walukiewicz, "Exact methods for the knapsack problem and its relatives", European Journal of
Operational Research 28, 1987; M. E. Dyer, W. O. Riha, J. Walker, "A hybrid dynamic programming/branch-and-bound
algorithm for the multiple-choice knapsack problem", Journal of Computational and Applied Mathematics 58, 1995.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu import InvalidOption

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MOST_STATES = 4_000_000
"""States of one group that are looked at: 32 bytes each, and 8 of those that are left until the end."""

_ROUNDING = 1e-9
"""Relative error of sums of costs that must not make a state look dearer than it is."""


class Option(NamedTuple):
    """Covers so much (0 or more) at such a cost, which may be negative, and is finite."""

    covered: int
    cost: float


class _Stage(NamedTuple):
    """States after a group: each one's option in the group, and the state before it was made from."""

    covered: Ints
    cost: Floats
    option: Ints
    before: Ints


def cheapest(groups: Sequence[Sequence[Option]], need: int) -> tuple[int, ...]:
    """The index of one option of each group; together they cover `need` or more, and no other choice costs less.

    Exact on the numbers given, up to the rounding of sums of float64. Of equal costs, one of those that cover most.

    Raises `InvalidOption` if no choice covers `need`, or if more than `MOST_STATES` states can't be told apart.
    """
    most = sum(max(option.covered for option in group) for group in groups)
    if need > most:
        raise InvalidOption(f"{need:,} can't be covered: all groups together cover {most:,}")
    relaxations = _relaxations(groups)
    bound = _known(need, next(relaxations))
    bound += _ROUNDING * (1 + sum(max(abs(option.cost) for option in group) for group in groups))
    none = np.zeros(1, np.int64)
    stage, way = _Stage(none, np.zeros(1), none, none), []
    for group, rest in zip(groups, relaxations, strict=True):
        stage = _next(stage, group, rest, need, bound)
        way.append((stage.option.astype(np.int32), stage.before.astype(np.int32)))
    return _traced(int(stage.cost.argmin()), way)


@dataclass(frozen=True)
class _Relaxation:
    """The linear relaxation of some groups: the lowest costs, by what is covered.

    From (`covered[0]`, `cost[0]`), the cheapest of all choices, along segments of ever higher cost for each element.
    """

    covered: Ints
    cost: Floats

    def lowest(self, needed: Ints) -> Floats:
        """The lowest cost to cover so much; infinite if that is more than all."""
        found: Floats = np.interp(needed, self.covered, self.cost, right=np.inf)
        return found


def _relaxations(groups: Sequence[Sequence[Option]]) -> Iterator[_Relaxation]:
    """Of all groups, of all but the first, and so on to none; made one by one, as each is as long as all options."""
    hulls = [_hull(group) for group in groups]
    steps = [
        (number, Option(b.covered - a.covered, b.cost - a.cost))
        for number, hull in enumerate(hulls)
        for a, b in pairwise(hull)
    ]
    steps.sort(key=lambda step: _slope(step[1]))
    group = np.array([number for number, _ in steps], np.int64)
    covered = np.array([step.covered for _, step in steps], np.int64)
    cost = np.array([step.cost for _, step in steps], np.float64)
    least_covered = np.cumsum([0, *(hull[0].covered for hull in reversed(hulls))], dtype=np.int64)
    least_cost = np.cumsum([0.0, *(hull[0].cost for hull in reversed(hulls))])
    for first in range(len(groups) + 1):
        rest, last = group >= first, len(groups) - first
        yield _Relaxation(_sums(least_covered[last], covered[rest]), _sums(least_cost[last], cost[rest]))


def _sums(start: Any, steps: NDArray[Any]) -> NDArray[Any]:
    """The start, and what it comes to after each step."""
    return np.cumsum(np.concatenate([[start], steps]), dtype=steps.dtype)


def _slope(step: Option) -> float:
    return step.cost / step.covered


def _hull(group: Sequence[Option]) -> list[Option]:
    """The lower convex hull of the options from the cheapest on, by what they cover."""
    first = min(group, key=lambda option: (option.cost, -option.covered))
    hull = [first]
    for option in sorted(group, key=lambda option: (option.covered, -option.cost)):
        if option.covered <= first.covered:
            continue
        while len(hull) > 1 and _left_of(hull[-2], hull[-1], option):
            hull.pop()
        if hull[-1].covered == option.covered:
            hull.pop()
        hull.append(option)
    return hull


def _left_of(start: Option, middle: Option, end: Option) -> bool:
    """Whether the middle lies on or above the line from the start to the end."""
    rise = (middle.cost - start.cost) * (end.covered - start.covered)
    return rise >= (end.cost - start.cost) * (middle.covered - start.covered)


def _known(need: int, relaxed: _Relaxation) -> float:
    """The cost of a choice that covers the need: along the relaxation, to the end of the segment where it is met."""
    reached = int(np.searchsorted(relaxed.covered, need))
    return float(relaxed.cost[reached])


def _next(stage: _Stage, group: Sequence[Option], rest: _Relaxation, need: int, bound: float) -> _Stage:
    parts = [_with(stage, index, option, rest, need, bound) for index, option in enumerate(group)]
    merged = _Stage(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    if len(merged.cost) > MOST_STATES:
        raise InvalidOption(
            f"{len(merged.cost):,} ways to choose can't be told apart by their bounds: measure fewer sparsities, or "
            "prune fewer weights"
        )
    return _not_dominated(merged)


def _with(stage: _Stage, index: int, option: Option, rest: _Relaxation, need: int, bound: float) -> _Stage:
    """The states with one option more that may lead to the best. What is covered beyond the need counts nothing."""
    covered, cost = stage.covered + option.covered, stage.cost + option.cost
    hopeful = np.flatnonzero(cost + rest.lowest(need - covered) <= bound)
    return _Stage(covered[hopeful], cost[hopeful], np.full(len(hopeful), index, np.int64), hopeful)


def _not_dominated(stage: _Stage) -> _Stage:
    """Without states that cost no less than one that covers as much or more."""
    order = np.lexsort((stage.cost, -stage.covered))
    cost = stage.cost[order]
    lowest = np.minimum.accumulate(cost)
    first = np.ones(len(cost), np.bool_)
    first[1:] = cost[1:] < lowest[:-1]
    chosen = order[first]
    return _Stage(stage.covered[chosen], cost[first], stage.option[chosen], stage.before[chosen])


def _traced(state: int, way: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]]) -> tuple[int, ...]:
    """The options that led to a state of the last group; `way`: of each group the options, and the states before."""
    options = []
    for option, before in reversed(way):
        options.append(int(option[state]))
        state = int(before[state])
    return tuple(options[::-1])
