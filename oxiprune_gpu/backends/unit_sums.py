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
_STEPS = CHUNK // LANES
_ROW_PIECE = 1 << 17
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
        read, summer = terms(), LaneSummer(_ROW_PIECE)

        def work(span: Span) -> Sums:
            pieces = cut(span, _ROW_PIECE)
            return np.concatenate([summer.chunk_sums(read(*piece)) for piece in pieces])

        return work

    return float(_in_sequence(np.concatenate(over_spans(make_worker, spans_of(size)))[None])[0])


def array_sum(terms: Array) -> float:
    """Sum of a flat array as one unit."""
    return ordered_sum(len(terms), lambda: lambda start, stop: terms[start:stop])


class LaneSummer:
    """Sums chunks through their lanes. It owns scratch memory: one for each thread.

    Args:
        size: most terms at a time.
    """

    def __init__(self, size: int) -> None:
        self._wide = np.empty(size, np.float64)

    def chunk_sums(self, terms: Array) -> Sums:
        """Sums of the chunks of a flat array of terms; the last chunk may be short."""
        full, rest = divmod(len(terms), CHUNK)
        sums = [self.sums(terms[: full * CHUNK].reshape(full, CHUNK))] if full else []
        if rest:
            sums.append(self.sums(terms[None, full * CHUNK :]))
        return np.concatenate(sums)

    def sums(self, terms: Array) -> Sums:
        """Sums of the rows of (rows, length <= CHUNK), each row one chunk."""
        rows, length = terms.shape
        steps = -(-length // LANES)
        wide = self._scratch(rows, steps * LANES)
        wide[:, :length] = terms
        wide[:, length:] = 0.0
        return fold_lanes(np.add.reduce(wide.reshape(rows, steps, LANES), axis=1).T)

    def _scratch(self, rows: int, length: int) -> Sums:
        if rows * length > len(self._wide):
            self._wide = np.empty(rows * length, np.float64)
        return self._wide[: rows * length].reshape(rows, length)


def fold_lanes(lanes: Sums) -> Sums:
    """Fold (LANES, units) to (units,): lane j += lane j + 64, then 32, 16, ... 1."""
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = lanes[:half] + lanes[half:]
    return lanes.reshape(-1)


def _in_sequence(sums: Sums) -> Sums:
    """Add (units, chunks) along the chunks, one after another."""
    return np.cumsum(sums, axis=1)[:, -1]


def _row_sums(weight: ScoredWeight, rows: int, length: int) -> Sums:
    """Units that lie in one piece."""
    if length > BLOCK:
        return np.concatenate([_long_row_sum(weight, row * length, length) for row in range(rows)])
    at_once = max(1, _ROW_PIECE // length)

    def make_worker() -> Callable[[Span], Sums]:
        reader, summer = BlockReader(weight, at_once * length), LaneSummer(_ROW_PIECE)

        def work(span: Span) -> Sums:
            pieces = []
            for first, stop in cut(span, at_once):
                scores = reader.scores(first * length, stop * length)
                pieces.append(_sums_of_rows(scores.reshape(stop - first, length), summer))
            return np.concatenate(pieces)

        return work

    return np.concatenate(over_spans(make_worker, cut((0, rows), 16 * at_once)))


def _sums_of_rows(scores: Array, summer: LaneSummer) -> Sums:
    sums = [summer.sums(scores[:, start : start + CHUNK]) for start in range(0, scores.shape[1], CHUNK)]
    return sums[0] if len(sums) == 1 else _in_sequence(np.stack(sums, axis=1))


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
        chunks.append(fold_lanes(_column_lanes(weight, start + first * columns, stop - first, columns)))
    return _in_sequence(np.stack(chunks, axis=1))


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
    summer = LaneSummer(0)
    return np.concatenate(
        [
            _sums_of_rows(_gather_units(weight, view, group, *piece), summer)
            for group in range(view.groups)
            for piece in cut((0, view.units), at_once)
        ]
    )


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
