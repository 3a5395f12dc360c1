"""One option of each group at the lowest cost, against all choices there are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnx_tools.search import knapsack
from onnx_tools.search.knapsack import Option, cheapest
from oxiprune_gpu import InvalidOption


def total(groups, chosen):
    picked = [group[index] for group, index in zip(groups, chosen, strict=True)]
    return sum(option.covered for option in picked), sum(option.cost for option in picked)


def best_of_all(groups, need):
    """The lowest cost that covers the need, by trying every choice."""
    sums = (total(groups, chosen) for chosen in itertools.product(*(range(len(group)) for group in groups)))
    return min(cost for covered, cost in sums if covered >= need)


def option(random, largest):
    return Option(int(random.integers(0, largest)), float(random.integers(-3, 12)))


def drawn(random, groups=5, most=5, largest=30):
    """Groups with costs that go up and down, equal and negative ones among them."""
    return [
        [
            Option(int(random.integers(0, largest)), float(random.integers(-3, 12)))
            for _ in range(random.integers(1, most))
        ]
        for _ in range(groups)
    ]


@pytest.mark.parametrize("seed", range(60))
def test_no_choice_is_cheaper(seed):
    random = np.random.default_rng(seed)
    groups = drawn(random, groups=int(random.integers(1, 7)))
    most = sum(max(option.covered for option in group) for group in groups)
    for need in {0, 1, most // 3, most // 2, most - 1, most}:
        covered, cost = total(groups, cheapest(groups, need))
        assert covered >= need
        assert cost == best_of_all(groups, need)


def by_table(groups, need):
    """The lowest cost by a table over all units that are covered."""
    costs = np.full(need + 1, np.inf)
    costs[0] = 0
    for group in groups:
        following = np.full(need + 1, np.inf)
        for covered, cost in group:
            for start in range(need + 1):
                end = min(need, start + covered)
                following[end] = min(following[end], costs[start] + cost)
        costs = following
    return costs[need]


def test_many_groups_as_by_a_table():
    random = np.random.default_rng(1)
    groups = [
        [Option(int(size * level), float(cost)) for level, cost in zip((0, 0.3, 0.5, 0.7, 0.9), costs, strict=True)]
        for size, costs in zip(random.integers(10, 60, 40), random.random((40, 5)).cumsum(1), strict=True)
    ]
    need = sum(group[-1].covered for group in groups) // 2
    assert total(groups, cheapest(groups, need))[1] == pytest.approx(by_table(groups, need), rel=1e-12)


def test_not_only_the_hull_is_chosen():
    groups = [[Option(0, 0), Option(6, 7), Option(10, 10)]]
    assert cheapest(groups, 6) == (1,)


def test_what_costs_nothing_more_is_taken():
    assert cheapest([[Option(0, 0), Option(5, -1), Option(9, -1)]], 0) == (2,)


def test_what_can_not_be_covered():
    with pytest.raises(InvalidOption, match="31 can't be covered: all groups together cover 30"):
        cheapest([[Option(0, 0), Option(10, 1)], [Option(20, 1)]], 31)


def test_too_many_states_are_refused(monkeypatch):
    monkeypatch.setattr(knapsack, "MOST_STATES", 3)
    groups = [[Option(0, 0), Option(2**index, 2.0**index)] for index in range(8)]
    with pytest.raises(InvalidOption, match="can't be told apart"):
        cheapest(groups, 85)
