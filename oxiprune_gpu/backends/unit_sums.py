"""Sums of scores in the one documented order (docs/design.md, section 3), so that every backend agrees by bits.

Terms are cut into chunks of 16,384; inside a chunk term i goes to lane i mod 128; a lane adds its terms one after
another; lanes are folded in halves; chunk sums are added one after another. All additions are float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.backends.parallel import CHUNK, Span, cut, over_spans, spans_of
from oxiprune_gpu.backends.scored import BlockReader, ScoredWeight
from oxiprune_gpu.granularity import UnitView

Array = NDArray[Any]
Sums = NDArray[np.float64]

LANES = 128

_ROW_PIECE = 1 << 18
"""Elements of rows summed at a time, whole chunks: their float64 copies still stay in a core's cache."""

_COLUMN_PIECE = 1 << 18
"""Elements of a matrix added to the lanes of its columns at a time."""

_STRIP = 1 << 16
"""Columns summed at a time; their lanes are what is held."""


def unit_sums(weight: ScoredWeight, view: UnitView) -> Sums:
    """Sum of the scores of each unit, shape (view.count,)."""
    if view.outer == 1:
        return _row_sums(weight, view.count, view.inner)
    if view.inner == 1:
        size = view.outer * view.units
        return np.concatenate([_column_sums(weight, g * size, view.outer, view.units) for g in range(view.groups)])
    return _gathered_sums(weight, view)


def ordered_sum(size: int, terms: Callable[[], Callable[[int, int], Array]]) -> float:
    """Sum of `size` terms as one unit; `terms()` makes a function that gives the terms start..stop."""

    def make_worker() -> Callable[[Span], Sums]:
        read, adder = terms(), _LaneAdder()

        def work(span: Span) -> Sums:
            return np.concatenate([adder.chunk_sums(read(*piece)) for piece in cut(span, _ROW_PIECE)])

        return work

    return float(_in_sequence(np.concatenate(over_spans(make_worker, spans_of(size)))[None])[0])


def array_sum(terms: Array) -> float:
    """Sum of a flat array as one unit."""
    return ordered_sum(len(terms), lambda: lambda start, stop: terms[start:stop])


class _LaneAdder:
    """Adds chunks through their lanes. It owns scratch memory: one for each thread."""

    def __init__(self) -> None:
        self._wide = np.empty(0, np.float64)

    def lanes(self, terms: Array, lanes: Sums) -> None:
        """Write to `lanes` (rows, width) the lane sums of `terms` (rows, length <= CHUNK), each row one chunk."""
        rows, length = terms.shape
        width = lanes.shape[1]
        if length <= width:  # one term a lane: nothing to add
            lanes[:, :length] = terms
            lanes[:, length:] = 0.0
            return
        steps = -(-length // width)
        wide = self._scratch(rows, steps * width)
        wide[:, :length] = terms
        if length < steps * width:
            wide[:, length:] = 0.0
        np.add.reduce(wide.reshape(rows, steps, width), axis=1, out=lanes)

    def chunk_sums(self, terms: Array) -> Sums:
        """Sums of the chunks of a flat array of terms; the last chunk may be short."""
        full, rest = divmod(len(terms), CHUNK)
        lanes = np.empty((full + bool(rest), LANES))
        if full:
            self.lanes(terms[: full * CHUNK].reshape(full, CHUNK), lanes[:full])
        if rest:
            self.lanes(terms[None, full * CHUNK :], lanes[full:])
        return _folded(lanes)

    def _scratch(self, rows: int, length: int) -> Sums:
        if rows * length > len(self._wide):
            self._wide = np.empty(rows * length, np.float64)
        return self._wide[: rows * length].reshape(rows, length)


def _lane_count(length: int) -> int:
    """Lanes that a unit of `length` terms fills: folding the others would only add zeros."""
    return min(LANES, 1 << (length - 1).bit_length())


def _folded(lanes: Sums) -> Sums:
    """Fold lanes (..., width) along the last axis: lane j += lane j + 64, then 32, 16, ... 1. May change `lanes`."""
    width = lanes.shape[-1]
    folded = np.ascontiguousarray(lanes.reshape(-1, width).T)
    half = width // 2
    while half:
        lower: Sums = folded[:half]
        lower += folded[half : 2 * half]
        half //= 2
    sums: Sums = folded[0].reshape(lanes.shape[:-1])
    return sums


def _in_sequence(sums: Sums) -> Sums:
    """Add chunk sums (units, chunks) along the chunks, one after another."""
    total: Sums = sums[:, 0] if sums.shape[1] == 1 else np.cumsum(sums, axis=1)[:, -1]
    return total


def _row_sums(weight: ScoredWeight, rows: int, length: int) -> Sums:
    """Units that lie in one piece."""
    if length > _ROW_PIECE:
        return _long_row_sums(weight, rows, length)
    chunks, width = -(-length // CHUNK), _lane_count(length)
    at_once = max(1, _ROW_PIECE // (-(-length // width) * width))
    # Lanes of several pieces are folded together: fewer, longer steps. They are held within a piece's memory.
    together = max(1, min(16, _ROW_PIECE // (at_once * chunks * width)))
    sums = np.empty(rows)

    def make_worker() -> Callable[[Span], None]:
        reader, adder = BlockReader(weight, at_once * length), _LaneAdder()
        scratch = np.empty((min(rows, together * at_once), chunks, width))

        def work(span: Span) -> None:
            lanes = scratch[: span[1] - span[0]]
            for first, stop in cut(span, at_once):
                scores = reader.scores(first * length, stop * length).reshape(stop - first, length)
                _add_rows(scores, adder, lanes[first - span[0] : stop - span[0]])
            sums[slice(*span)] = _in_sequence(_folded(lanes))

        return work

    over_spans(make_worker, cut((0, rows), together * at_once))
    return sums


def _add_rows(scores: Array, adder: _LaneAdder, lanes: Sums) -> None:
    """Write the lanes (rows, chunks, width) of rows of scores."""
    for chunk, start in enumerate(range(0, scores.shape[1], CHUNK)):
        adder.lanes(scores[:, start : start + CHUNK], lanes[:, chunk])


def _long_row_sums(weight: ScoredWeight, rows: int, length: int) -> Sums:
    """The same for units of many pieces."""
    sums = np.empty((rows, -(-length // CHUNK)))

    def make_worker() -> Callable[[Span], None]:
        reader, adder = BlockReader(weight, _ROW_PIECE), _LaneAdder()

        def work(span: Span) -> None:
            row, start = divmod(span[0], length)
            terms = adder.chunk_sums(reader.scores(*span))
            sums[row, start // CHUNK : start // CHUNK + len(terms)] = terms

        return work

    pieces = [piece for row in range(rows) for piece in cut((row * length, (row + 1) * length), _ROW_PIECE)]
    over_spans(make_worker, pieces)
    return _in_sequence(sums)


def _column_sums(weight: ScoredWeight, start: int, rows: int, columns: int) -> Sums:
    """Columns of a (rows, columns) matrix that begins at element `start`."""
    matrix = _Matrix(weight, start, rows, columns)
    return np.concatenate([matrix.column_sums(strip) for strip in cut((0, columns), _STRIP)])


class _Matrix:
    """A weight, or a part of one, as a (rows, columns) matrix whose columns are summed."""

    def __init__(self, weight: ScoredWeight, start: int, rows: int, columns: int) -> None:
        self._weight = weight
        self._start = start
        self._rows = rows
        self._columns = columns

    def column_sums(self, strip: Span) -> Sums:
        """Sums of a strip of columns."""
        chunks = [_folded(self._lanes(strip, chunk).T) for chunk in cut((0, self._rows), CHUNK)]
        total = chunks[0]
        for chunk in chunks[1:]:
            total = total + chunk
        return total

    def _lanes(self, strip: Span, chunk: Span) -> Sums:
        """Lane sums (lanes, columns) of one chunk of rows: row r goes to lane r mod LANES, in order."""
        width = strip[1] - strip[0]
        lanes = np.zeros((_lane_count(chunk[1] - chunk[0]), width))
        # Each piece owns some lanes for the whole chunk, so threads never meet and every lane is filled in order.
        height = min(len(lanes), max(1, _COLUMN_PIECE // width)) if width == self._columns else 1

        def make_worker() -> Callable[[Span], None]:
            reader = BlockReader(self._weight, height * width)

            def work(span: Span) -> None:
                lane, lane_stop = span
                for row in range(chunk[0] + lane, chunk[1], LANES):
                    stop = min(row + lane_stop - lane, chunk[1])
                    target = lanes[lane : lane + stop - row]
                    np.add(target, self._scores(reader, row, stop, strip), out=target)

            return work

        over_spans(make_worker, cut((0, len(lanes)), height))
        return lanes

    def _scores(self, reader: BlockReader, row: int, stop: int, strip: Span) -> Array:
        """Scores of whole rows, or of a strip of one row."""
        first = self._start + row * self._columns + strip[0]
        width = strip[1] - strip[0]
        return reader.scores(first, first + (stop - row) * width).reshape(stop - row, width)


def _gathered_sums(weight: ScoredWeight, view: UnitView) -> Sums:
    """Any other view: units are collected into rows, as many at a time as fit a few pieces."""
    at_once = max(1, 16 * _ROW_PIECE // view.unit_size)
    pieces = [(group, piece) for group in range(view.groups) for piece in cut((0, view.units), at_once)]
    return np.concatenate([_collected_sums(_gather_units(weight, view, *piece)) for piece in pieces])


def _collected_sums(rows: Array) -> Sums:
    """Sums of the rows of an array of scores."""
    adder, length = _LaneAdder(), rows.shape[1]
    width = _lane_count(length)
    sums = []
    for first, stop in cut((0, len(rows)), max(1, _ROW_PIECE // (-(-length // width) * width))):
        lanes = np.empty((stop - first, -(-length // CHUNK), width))
        _add_rows(rows[first:stop], adder, lanes)
        sums.append(_in_sequence(_folded(lanes)))
    return np.concatenate(sums)


def _gather_units(weight: ScoredWeight, view: UnitView, group: int, span: Span) -> Array:
    """Scores of the units of a span of a group as (units, unit_size)."""
    first, stop = span
    rows = np.empty((stop - first, view.outer, view.inner), weight.score_dtype)
    slab = view.units * view.inner
    # All units: several slabs lie in one piece. Some: each slab has its own.
    at_once = max(1, _ROW_PIECE // slab) if stop - first == view.units else 1
    reader = BlockReader(weight, at_once * (stop - first) * view.inner)
    for outer, outer_stop in cut((0, view.outer), at_once):
        start = (group * view.outer + outer) * slab + first * view.inner
        count = outer_stop - outer
        scores = reader.scores(start, start + count * (stop - first) * view.inner)
        rows[:, outer:outer_stop] = scores.reshape(count, stop - first, view.inner).transpose(1, 0, 2)
    return rows.reshape(stop - first, view.unit_size)
