"""Tensors on the same bytes: which one is named, and how much work that is."""

from __future__ import annotations

import cProfile
import random

import pytest

from onnx_tools import shared_bytes
from onnx_tools.shared_bytes import Piece, overlaps, same_bytes

MANY = 20_000


@pytest.fixture
def lying(monkeypatch):
    """Lets every model have these pieces, (start, stop, data type), each called by its number, in one data file."""

    def lie(places):
        pieces = [Piece(*place, (("initializer", i),), str(i)) for i, place in enumerate(places)]
        monkeypatch.setattr(shared_bytes, "external_pieces", lambda model: {"file": pieces})
        return {piece.path: piece for piece in pieces}

    return lie


def calls(function, *arguments) -> int:
    profile = cProfile.Profile()
    profile.runcall(function, *arguments)
    return sum(entry.callcount for entry in profile.getstats())


@pytest.mark.parametrize("function", [overlaps, same_bytes])
def test_many_tensors_on_the_same_bytes_are_linear_work(lying, function):
    pieces = lying((0, 4 * size, 1) for size in range(1, MANY + 1))
    assert calls(function, None, pieces.keys()) < 20 * MANY


def test_what_is_named_has_bytes_in_common_and_other_elements(lying):
    rng = random.Random(0)
    for _ in range(200):
        starts = [rng.randrange(12) for _ in range(8)]
        pieces = lying((start, start + rng.randrange(1, 5), rng.choice((1, 10))) for start in starts)
        for path, overlap in overlaps(None, pieces.keys()).items():
            piece, other = pieces[path], pieces[(("initializer", int(overlap.name)),)]
            assert piece.start < other.stop
            assert other.start < piece.stop
            assert overlap.same == (piece[:3] == other[:3])


def test_same_bytes(lying):
    a, b, c, d = lying([(0, 4, 1), (0, 4, 1), (0, 4, 10), (8, 12, 1)])
    assert same_bytes(None, {a, d}) == {a, b, d}
    assert c not in same_bytes(None, {a})
