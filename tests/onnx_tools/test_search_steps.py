"""The pure parts of a search: bisection, and climbing a weight at a time."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_tools.quality import Measured
from onnx_tools.search.bisection import PROBES, Highest, highest_passing
from onnx_tools.search.climbing import FACTORS, climb
from onnx_tools.search.judging import Judge
from oxiprune_gpu import InvalidOption


class Asked:
    """A question that remembers what was asked."""

    def __init__(self, passes):
        self.passes, self.asked = passes, []

    def __call__(self, what):
        self.asked.append(what)
        return self.passes(what)

    def spent(self, most):
        return lambda: len(self.asked) >= most


@given(st.integers(0, 300), st.integers(1, 300), st.integers(0, 300))
def test_the_end_of_what_passes_is_found(end, most, above):
    end, above = min(end, most), min(above, most)
    asked = Asked(lambda level: level <= end)
    found = highest_passing(asked, most, above=above)
    assert found == Highest(max(end, above), True)
    assert len(asked.asked) <= 2 * math.log2(most) + 2 + PROBES
    assert all(above < level <= most for level in asked.asked)


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(0, 20))
def test_whatever_passes_the_answer_was_asked_for_and_passed(levels, above):
    asked = Asked(lambda level: levels[level - 1])
    found = highest_passing(asked, len(levels), above=min(above, len(levels)))
    passed = [level for level in asked.asked if levels[level - 1]]
    assert found.level == max(passed, default=min(above, len(levels)))
    failed_below = [level for level in asked.asked if not levels[level - 1] and level < found.level]
    assert found.monotone == (not failed_below)


def test_a_level_beyond_the_first_failure_is_found():
    assert highest_passing(lambda level: level <= 4 or level == 7, 16) == Highest(7, False)


@pytest.mark.parametrize("most", range(6))
def test_a_bisection_ends_when_nothing_more_may_be_asked(most):
    asked = Asked(lambda level: level <= 40)
    found = highest_passing(asked, 99, spent=asked.spent(most))
    assert len(asked.asked) == most
    assert found.level == max([level for level in asked.asked if level <= 40], default=0)


def test_a_climb_leaves_what_is_needed():
    needed = {"a": 100, "b": 700, "c": 0}
    found = climb(dict.fromkeys(needed, 1000), lambda kept: all(kept[name] >= needed[name] for name in kept), least=1)
    assert {
        name: needed[name] <= kept <= needed[name] / FACTORS[-1] + 10 for name, kept in found.items()
    } == dict.fromkeys(needed, True)


@given(st.dictionaries(st.text("ab", min_size=1), st.integers(0, 1000), max_size=4), st.integers(0, 30), st.data())
def test_each_step_of_a_climb_was_asked_for_and_takes_one_weight(start, most, data):
    asked = Asked(lambda _: data.draw(st.booleans()))
    answers = {}

    def passes(kept):
        answers[tuple(kept.items())] = asked(kept)
        return answers[tuple(kept.items())]

    found = climb(start, passes, least=5, spent=asked.spent(most))
    assert found == start or answers[tuple(found.items())]
    assert len(asked.asked) <= most
    for kept in asked.asked:
        assert sum(kept.values()) <= sum(start.values()) - 5


def measured(*cases):
    return Measured(float(np.mean(cases)), np.array(cases, np.float64))


def test_scores_are_of_the_cases_that_are_searched_with_and_of_those_held_out():
    before, after = np.ones(100), np.arange(100) % 2.0
    searched, held_out = Judge(measured(*before), 0.1, 0.4, 3).scores(measured(*after), "m")
    assert (searched.cases, held_out.cases) == (60, 40)
    assert searched.quality * 60 + held_out.quality * 40 == pytest.approx(50)
    assert searched.drop == pytest.approx(1 - searched.quality)


def test_the_interval_is_that_of_paired_differences():
    found, _ = Judge(measured(1, 2, 3, 4), 0, 0, 0).scores(measured(1, 1, 3, 3), "m")
    spread = 1.959963984540054 * np.std([0, 1, 0, 1], ddof=1) / 2
    assert (found.drop, found.low, found.high) == pytest.approx((0.5, 0.5 - spread, 0.5 + spread))


def test_the_interval_of_shares_has_half_a_case_more_of_each_kind():
    before, after = np.ones(98), np.repeat([0.0, 1.0], [5, 93])
    found, _ = Judge(measured(*before), 0, 0, 0).scores(measured(*after), "m")
    lost, won, whole = 5.5, 0.5, 100
    spread = 1.959963984540054 * np.sqrt(lost + won - (lost - won) ** 2 / whole) / whole
    assert (found.drop, found.low, found.high) == pytest.approx((5 / 98, 0.05 - spread, 0.05 + spread))


@pytest.mark.parametrize(("worst", "drop"), [(-np.inf, np.inf), (0.0, 1.5)])
def test_what_is_infinitely_worse_passes_no_bar(worst, drop):
    judge = Judge(measured(1, 2), 1e300, 0, 0)
    found, _ = judge.scores(measured(0, worst), "m")
    assert found.drop == drop
    assert judge.passes(found) == np.isfinite(drop)
    assert not judge.passes(Judge(measured(1, -np.inf), 1, 0, 0).scores(measured(1, -np.inf), "m")[0])


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_a_confidence_is_that_of_a_one_sided_interval(confidence):
    random = np.random.default_rng(2)
    before, drops = random.random(400), random.normal(0.01, 0.1, 400)
    bound = drops.mean() + NormalDist().inv_cdf(confidence) * drops.std(ddof=1) / 20

    def passes(bar):
        judge = Judge(measured(*before), bar, 0, 0, confidence)
        judge.check()
        return judge.passes(judge.scores(measured(*before - drops), "m")[0])

    assert passes(bound + 1e-9)
    assert not passes(bound - 1e-9)


def test_a_confidence_holds_nearly_as_often_as_it_says():
    """The drop of all cases is above the bar, and half of the samples below; their intervals seldom are.

    Where cases are lost and none won, the interval of shares is a little short: 7.5 % of samples pass, not 5 %.
    """
    random = np.random.default_rng(1)
    passed = 0
    for _ in range(2000):
        after = (random.random(500) > 0.05).astype(float)
        judge = Judge(measured(*np.ones(500)), 0.0499, 0, 0, 0.95)
        passed += judge.passes(judge.scores(measured(*after), "m")[0])
    assert 0 < passed <= 0.08 * 2000


@pytest.mark.parametrize("of_one", [Measured(0.9, None), Measured(1.0, np.ones(1))])
def test_no_confidence_without_cases(of_one):
    Judge(of_one, 0.1, 0, 0).check()
    with pytest.raises(InvalidOption, match=r"confidence 0\.9 comes from differences case by case"):
        Judge(of_one, 0.1, 0, 0, 0.9).check()


@pytest.mark.parametrize(("cases", "held_out"), [(99, 0.3), (10, 0.9), (1, 0.5)])
def test_few_cases_are_not_held_out(cases, held_out):
    given = measured(*range(cases))
    assert Judge(given, 0, held_out, 0).scores(given, "m")[1] is None


def test_one_number_is_compared_as_it_is():
    searched, held_out = Judge(Measured(0.9, None), 0.1, 0.3, 0).scores(Measured(0.85, None), "m")
    assert (searched.drop, searched.low, searched.cases, held_out) == (pytest.approx(0.05), None, None, None)


def test_other_cases_are_refused():
    with pytest.raises(InvalidOption, match="m: the quality has 2 cases, that of the original model 3"):
        Judge(measured(1, 2, 3), 0, 0, 0).scores(measured(1, 2), "m")
