"""Sums of scores in the one documented order (docs/design.md, section 3), so that every backend agrees by bits.

Terms are cut into chunks of 16,384; inside a chunk term i goes to lane i mod 128; a lane adds its terms one after
another; lanes are folded in halves; chunk sums are added one after another. All additions are float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.backends.parallel import BLOCK, CHUNK, Span, cut, over_spans, spans_of
from oxiprune_gpu.backends.scored import BlockReader, ScoredWeight
from oxiprune_gpu.granularity import UnitView

Array = NDArray[Any]
Sums = NDArray[np.float64]

LANES = 128
_ROW_PIECE = 1 << 18
"""Elements of rows summed at a time: their float64 copies still stay in a core's cache."""

_COLUMN_PIECE = 1 << 18
"""Elements of a matrix added to the lanes of its columns at a time."""


def unit_sums(weight: ScoredWeight, view: UnitView) -> Sums:
    """Sum of the scores of each unit, shape (view.count,)."""
    if view.outer == 1:
        return _row_sums(weight, view.count, view.inner)
    if view.inner == 1:
        matrices = range(view.groups)
        size = view.outer * view.units
        return np.concatenate([_column_sums(weight, group * size, view.outer, view.units) for group in matrices])
    return _gathered_sums(weight, view)


def ordered_sum(size: int, terms: Callable[[], Callable[[int, int], Array]]) -> float:
    """Sum of `size` terms as one unit; `terms()` makes a function that gives the terms start..stop."""

    def make_worker() -> Callable[[Span], Sums]:
        read, adder = terms(), _LaneAdder()

        def work(span: Span) -> Sums:
            pieces = cut(span, _ROW_PIECE)
            return np.concatenate([_chunk_lanes(read(*piece), adder) for piece in pieces])

        return work

    lanes = np.concatenate(over_spans(make_worker, spans_of(size)))
    return float(_folded(lanes[None])[0])


def array_sum(terms: Array) -> float:
    """Sum of a flat array as one unit."""
    return ordered_sum(len(terms), lambda: lambda start, stop: terms[start:stop])


class _LaneAdder:
    """Adds chunks into their lanes. It owns scratch memory: one for each thread."""

    def __init__(self) -> None:
        self._wide = np.empty(0, np.float64)

    def add(self, terms: Array, lanes: Sums) -> None:
        """Write to `lanes` (rows, LANES) the lane sums of `terms` (rows, length <= CHUNK), each row one chunk."""
        rows, length = terms.shape
        steps = -(-length // LANES)
        wide = self._scratch(rows, steps * LANES)
        wide[:, :length] = terms
        if length < steps * LANES:
            wide[:, length:] = 0.0
        np.add.reduce(wide.reshape(rows, steps, LANES), axis=1, out=lanes)

    def _scratch(self, rows: int, length: int) -> Sums:
        if rows * length > len(self._wide):
            self._wide = np.empty(rows * length, np.float64)
        return self._wide[: rows * length].reshape(rows, length)


def _folded(lanes: Sums) -> Sums:
    """Sums of units from their lanes (units, chunks, LANES): lane j += lane j + 64, then 32, ... 1; then chunks."""
    while lanes.shape[2] > 1:
        half = lanes.shape[2] // 2
        lanes = lanes[:, :, :half] + lanes[:, :, half:]
    chunks = lanes[:, :, 0]
    total: Sums = chunks[:, 0] if chunks.shape[1] == 1 else np.cumsum(chunks, axis=1)[:, -1]
    return total


def _chunk_lanes(terms: Array, adder: _LaneAdder) -> Sums:
    """Lanes (chunks, LANES) of a flat array of terms; the last chunk may be short."""
    full, rest = divmod(len(terms), CHUNK)
    lanes = np.empty((full + bool(rest), LANES))
    if full:
        adder.add(terms[: full * CHUNK].reshape(full, CHUNK), lanes[:full])
    if rest:
        adder.add(terms[None, full * CHUNK :], lanes[full:])
    return lanes


def _row_sums(weight: ScoredWeight, rows: int, length: int) -> Sums:
    """Units that lie in one piece."""
    if length > BLOCK:
        return np.concatenate([_long_row_sum(weight, row * length, length) for row in range(rows)])
    at_once = max(1, _ROW_PIECE // length)

    def make_worker() -> Callable[[Span], Sums]:
        reader, adder = BlockReader(weight, at_once * length), _LaneAdder()

        def work(span: Span) -> Sums:
            lanes = np.empty((span[1] - span[0], -(-length // CHUNK), LANES))
            for first, stop in cut(span, at_once):
                scores = reader.scores(first * length, stop * length).reshape(stop - first, length)
                _add_rows(scores, adder, lanes[first - span[0] : stop - span[0]])
            return _folded(lanes)

        return work

    return np.concatenate(over_spans(make_worker, cut((0, rows), 16 * at_once)))


def _add_rows(scores: Array, adder: _LaneAdder, lanes: Sums) -> None:
    """Write the lanes (rows, chunks, LANES) of rows of scores."""
    for chunk, start in enumerate(range(0, scores.shape[1], CHUNK)):
        adder.add(scores[:, start : start + CHUNK], lanes[:, chunk])


def _long_row_sum(weight: ScoredWeight, start: int, length: int) -> Sums:
    def terms() -> Callable[[int, int], Array]:
        reader = BlockReader(weight)
        return lambda first, stop: reader.scores(start + first, start + stop)

    return np.array([ordered_sum(length, terms)])


def _column_sums(weight: ScoredWeight, start: int, rows: int, columns: int) -> Sums:
    """Columns of a (rows, columns) matrix that begins at element `start`."""
    chunks = []
    for first in range(0, rows, CHUNK):
        stop = min(first + CHUNK, rows)
        chunks.append(_column_lanes(weight, start + first * columns, stop - first, columns))
    return _folded(np.stack(chunks).transpose(2, 0, 1))


def _column_lanes(weight: ScoredWeight, start: int, rows: int, columns: int) -> Sums:
    """Lane sums (LANES, columns) of one chunk of rows: row r goes to lane r mod LANES, in order."""
    lanes = np.zeros((LANES, columns))
    # Each piece owns some lanes for the whole chunk, so threads never meet and every lane is filled in order.
    height = min(LANES, max(1, _COLUMN_PIECE // columns))

    def make_worker() -> Callable[[Span], None]:
        reader = BlockReader(weight, height * columns)

        def work(span: Span) -> None:
            lane, lane_stop = span
            for row in range(lane, rows, LANES):
                stop = min(row + lane_stop - lane, rows)
                scores = reader.scores(start + row * columns, start + stop * columns).reshape(stop - row, columns)
                target = lanes[lane : lane + stop - row]
                np.add(target, scores, out=target)

        return work

    over_spans(make_worker, cut((0, LANES), height))
    return lanes


def _gathered_sums(weight: ScoredWeight, view: UnitView) -> Sums:
    """Any other view: units are collected into rows, as many at a time as fit a few blocks."""
    at_once = max(1, 16 * BLOCK // view.unit_size)
    adder, sums = _LaneAdder(), []
    for group in range(view.groups):
        for first, stop in cut((0, view.units), at_once):
            lanes = np.empty((stop - first, -(-view.unit_size // CHUNK), LANES))
            _add_rows(_gather_units(weight, view, group, first, stop), adder, lanes)
            sums.append(_folded(lanes))
    return np.concatenate(sums)


def _gather_units(weight: ScoredWeight, view: UnitView, group: int, first: int, stop: int) -> Array:
    """Scores of the units first..stop of a group as (units, unit_size)."""
    rows = np.empty((stop - first, view.outer, view.inner), weight.score_dtype)
    length = (stop - first) * view.inner
    reader = BlockReader(weight, length)
    with np.errstate(all="ignore"):
        for outer in range(view.outer):
            start = ((group * view.outer + outer) * view.units + first) * view.inner
            rows[:, outer] = reader.scores(start, start + length).reshape(stop - first, view.inner)
    return rows.reshape(stop - first, view.unit_size)
