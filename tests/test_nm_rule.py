"""The oracle of the benchmarks' tables of 2:4: what stays, and the words for what a tool has done."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
if not FOLDER.is_dir():
    pytest.skip("the benchmarks are not here", allow_module_level=True)


@pytest.fixture(scope="module")
def nm_rule():
    sys.path.insert(0, str(FOLDER))
    import nm_rule

    yield nm_rule
    sys.path.remove(str(FOLDER))
    del sys.modules["nm_rule"]


LINE = np.float32([3, -1, 1, -2, 5, 5, 5, 5, 7])
PRUNED = np.float32([3, 0, 0, -2, 0, 0, 5, 5, 7])


def test_the_two_lowest_of_four_fall_the_first_of_equals_and_the_rest_stays(nm_rule):
    assert nm_rule.expected(LINE, 0).tolist() == (PRUNED != 0).tolist()
    assert nm_rule.expected(np.stack([LINE, LINE], 1), 0).tolist() == [[kept, kept] for kept in PRUNED != 0]


@pytest.mark.parametrize(
    ("after", "word"),
    [
        (PRUNED, "right"),
        (LINE, "not pruned"),
        (np.float32([3, 0, 0, -2, 5, 5, 0, 0, 7]), "2:4, but not the smallest fell"),
        (np.float32([3, 0, 0, -2, 0, 5, 5, 5, 7]), "not 2:4 along this axis"),
        (np.float32([4, 0, 0, -2, 0, 0, 5, 5, 7]), "other values"),
        (np.float32([3, -0.0, 0, -2, 0, 0, 5, 5, 7]), "other values"),
        (PRUNED[:8], "another shape"),
    ],
)
def test_what_was_done(nm_rule, after, word):
    assert nm_rule.verdict(LINE, after, 0) == word
