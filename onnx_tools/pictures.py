"""Pictures of weights for people: a histogram of the values, and a small image of where the nonzeros lie.

They are taken while a weight is pruned or inspected, block by block; no weight is held in memory. They cost a few
passes over its values, so only the largest weights have some, and only where a report wants them.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_tools.operators import UnitAxis
from onnx_tools.weights import Weight
from onnx_tools.wire import Path
from oxiprune_gpu import BlockSource

MOST_PICTURES = 24
"""Weights of a model that have pictures: the largest."""
BINS = 61
"""Of a histogram; an odd number, so that values around zero have one bin of their own."""

_MOST_ROWS = 64
_MOST_COLUMNS = 128
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Histogram:
    """How the values of a weight lie: `counts` of the finite nonzero ones in equal bins from -`limit` to `limit`.

    `limit`: the largest finite magnitude before pruning. Exact zeros and values that are not finite are counted apart.
    """

    limit: float
    counts: tuple[int, ...]
    zeros: int
    not_finite: int


@dataclass(frozen=True)
class MaskPicture:
    """Where the nonzeros of a weight lie: rows are output channels (else the first axis), columns all other elements.

    `height` x `width` cells cut `rows` x `columns` elements into nearly equal rectangles. `shades`: for each cell, row
    by row, the fraction of nonzeros in it, 0 to 255; the ends only if it is all or none.
    """

    rows: int
    columns: int
    height: int
    width: int
    shades: bytes
    output_channels: bool


@dataclass(frozen=True)
class WeightPictures:
    """The pictures of a weight `before` and `after` pruning. `after` is None where it was only inspected."""

    name: str
    before: Histogram
    after: Histogram | None
    mask: MaskPicture


class Album:
    """Takes pictures of the largest of some weights."""

    def __init__(self, weights: Collection[Weight] = ()) -> None:
        seen = [weight for weight in weights if weight.elements]
        largest = heapq.nlargest(MOST_PICTURES, seen, key=lambda weight: weight.elements)
        self._wanted = {weight.path for weight in largest}
        self._order = [weight.path for weight in weights]
        self._taken: dict[Path, WeightPictures] = {}

    @property
    def pictures(self) -> tuple[WeightPictures, ...]:
        """What was taken so far, in the order of the weights."""
        return tuple(self._taken[path] for path in self._order if path in self._taken)

    @contextmanager
    def pruning(self, weight: Weight, source: BlockSource) -> Iterator[None]:
        """Around the pruning of a weight in `source`: its pictures before and after."""
        if weight.path not in self._wanted:
            yield
            return
        before = histogram(source)
        yield
        after = histogram(source, before.limit)
        self._taken[weight.path] = WeightPictures(weight.name, before, after, mask_picture(source, weight.rows))

    def inspecting(self, weight: Weight, source: BlockSource) -> None:
        """Take the pictures of a weight as it is."""
        if weight.path in self._wanted:
            mask = mask_picture(source, weight.rows)
            self._taken[weight.path] = WeightPictures(weight.name, histogram(source), None, mask)


def histogram(source: BlockSource, limit: float | None = None) -> Histogram:
    """The histogram of a weight up to `limit`; without, up to its own largest magnitude, for one more pass."""
    limit = _largest(source) if limit is None else limit
    counts = np.zeros(BINS, np.int64)
    zeros = not_finite = 0
    for _, block in _blocks(source):
        values = block[block != 0]
        finite = values[np.isfinite(values)]
        zeros += len(block) - len(values)
        not_finite += len(values) - len(finite)
        if len(finite):
            counts += np.bincount(_bins(finite, limit), minlength=BINS)
    return Histogram(limit, tuple(counts.tolist()), zeros, not_finite)


def mask_picture(source: BlockSource, rows: UnitAxis | None) -> MaskPicture:
    """The picture of a weight's nonzeros; `rows`: its output channels, if they are known."""
    grid = _grid(source.shape, rows)
    kept = np.zeros(grid.height * grid.width, np.int64)
    for start, block in _blocks(source):
        kept += np.bincount(grid.cells(start + np.flatnonzero(block)), minlength=len(kept))
    shades = _shades(kept, grid.sizes())
    return MaskPicture(grid.rows, grid.columns, grid.height, grid.width, shades, output_channels=rows is not None)


@dataclass(frozen=True)
class _Grid:
    """Cells over a weight seen as (groups, outer, units, inner): rows are (groups, units), columns (outer, inner)."""

    groups: int
    outer: int
    units: int
    inner: int

    @property
    def rows(self) -> int:
        return self.groups * self.units

    @property
    def columns(self) -> int:
        return self.outer * self.inner

    @property
    def height(self) -> int:
        return min(self.rows, _MOST_ROWS)

    @property
    def width(self) -> int:
        return min(self.columns, _MOST_COLUMNS)

    def cells(self, places: NDArray[np.intp]) -> NDArray[np.intp]:
        """The cell of each element."""
        runs, inner = np.divmod(places, self.inner)
        planes, unit = np.divmod(runs, self.units)
        group, outer = np.divmod(planes, self.outer)
        row = (group * self.units + unit) * self.height // self.rows
        cells: NDArray[np.intp] = row * self.width + (outer * self.inner + inner) * self.width // self.columns
        return cells

    def sizes(self) -> NDArray[np.int64]:
        """The elements of each cell."""
        return np.outer(_parts(self.rows, self.height), _parts(self.columns, self.width)).reshape(-1)


def _grid(shape: tuple[int, ...], rows: UnitAxis | None) -> _Grid:
    if rows is not None:
        seen, at = rows.view_shape, rows.axis
        return _Grid(rows.groups, math.prod(seen[:at]) // rows.groups, seen[at], math.prod(seen[at + 1 :]))
    first = shape[0] if len(shape) > 1 else 1
    return _Grid(1, 1, first, math.prod(shape) // first)


def _parts(size: int, parts: int) -> NDArray[np.int64]:
    """The sizes of the parts that `place * parts // size` makes."""
    edges = [-(-part * size // parts) for part in range(parts + 1)]
    return np.array([stop - start for start, stop in pairwise(edges)], np.int64)


def _shades(kept: NDArray[np.int64], sizes: NDArray[np.int64]) -> bytes:
    shades = np.clip(np.rint(255 * (kept / sizes)), 1, 254)
    shades[kept == 0], shades[kept == sizes] = 0, 255
    return shades.astype(np.uint8).tobytes()


def _largest(source: BlockSource) -> float:
    """The largest finite magnitude, 0 without any."""
    largest = 0.0
    for _, block in _blocks(source):
        magnitudes = np.abs(block[np.isfinite(block)])
        largest = max(largest, float(magnitudes.max(initial=0)))
    return largest


def _bins(values: NDArray[np.float64], limit: float) -> NDArray[np.intp]:
    """The bin of each value; the outer ones have what is beyond `limit`, which refitted values may be."""
    with np.errstate(divide="ignore"):
        return np.clip((values / limit + 1) * (BINS / 2), 0, BINS - 1).astype(np.intp, copy=False)


def _blocks(source: BlockSource) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """The values in float64, in blocks, each with the place of its first."""
    size = math.prod(source.shape)
    scratch: NDArray[Any] = np.empty(min(size, _BLOCK), source.dtype)
    for start in range(0, size, _BLOCK):
        block = source.load(start, min(start + _BLOCK, size), scratch)
        with np.errstate(invalid="ignore"):  # NaN that signal
            values = block.astype(np.float64)
        yield start, values
