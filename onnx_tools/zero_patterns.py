"""Where the zeros of a weight lie: in whole rows and columns, and in groups of neighbours along an axis (N:M).

The weight is read once, and kept as a bit an element; everything else is counted from the bits, slab by slab.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from onnx_tools.operators import UnitAxis
from oxiprune_gpu import BlockSource

Zeros = NDArray[np.bool_]

_SLAB = 1 << 22
"""Elements looked at at a time; a multiple of 8."""


@dataclass(frozen=True)
class Tally:
    """How many there are, and how many of them are zero (or, of groups, zero enough)."""

    count: int
    zero: int


@dataclass(frozen=True)
class AxisView:
    """A weight in row-major order, seen as (outer, size, inner): neighbours lie along the middle."""

    outer: int
    size: int
    inner: int

    @classmethod
    def of(cls, shape: tuple[int, ...], axis: int) -> Self:
        """The view of one axis of a shape."""
        return cls(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))

    def groups(self, of: int) -> int:
        """Whole groups of `of` neighbours."""
        return self.outer * (self.size // of) * self.inner

    def pieces(self, bits: ZeroBits, step: int) -> Iterator[tuple[int, int, Zeros]]:
        """All zeros as 3-D pieces, each with its first line and first place in the line.

        Pieces hold a slab, more or less, and are cut at multiples of `step` along the axis, a last remainder apart.
        """
        line = self.size * self.inner
        if line <= _SLAB:
            lines = _SLAB // line
            for first in range(0, self.outer, lines):
                count = min(lines, self.outer - first)
                run = bits.run(first * line, (first + count) * line)
                yield first, 0, run.reshape(count, self.size, self.inner)
            return
        places = max(_SLAB // self.inner // step, 1) * step
        inner = min(self.inner, _SLAB)
        for first in range(self.outer):
            for place in range(0, self.size, places):
                for start in range(0, self.inner, inner):
                    yield first, place, self._piece(bits, first, slice(place, place + places), start, inner)

    def _piece(self, bits: ZeroBits, line: int, places: slice, start: int, length: int) -> Zeros:
        """Part of one line: where it holds whole `inner` runs they lie in one piece, else each place is read apart."""
        stop = min(places.stop, self.size)
        begin = line * self.size
        if length >= self.inner:
            run = bits.run((begin + places.start) * self.inner, (begin + stop) * self.inner)
            return run.reshape(1, stop - places.start, self.inner)
        length = min(length, self.inner - start)
        starts = [(begin + place) * self.inner + start for place in range(places.start, stop)]
        return np.stack([bits.run(at, at + length) for at in starts])[None]


class ZeroBits:
    """Which elements of a weight are zero, a bit an element; `zeros`: how many."""

    def __init__(self, source: BlockSource) -> None:
        size = math.prod(source.shape)
        self._bits = np.empty((size + 7) // 8, np.uint8)
        self.zeros = 0
        scratch = np.empty(min(size, _SLAB), source.dtype)
        for start in range(0, size, _SLAB):
            stop = min(start + _SLAB, size)
            zeros = np.equal(source.load(start, stop, scratch), 0)
            self.zeros += int(np.count_nonzero(zeros))
            self._bits[start // 8 : (stop + 7) // 8] = np.packbits(zeros)

    def run(self, start: int, stop: int) -> Zeros:
        """Whether each of the elements start..stop is zero."""
        first = start // 8
        bits = np.unpackbits(self._bits[first : (stop + 7) // 8]).view(np.bool_)
        return bits[start - first * 8 : stop - first * 8]


def axis_view(axis: UnitAxis) -> AxisView:
    """The view of the neighbours along a traced axis, its groups not cut."""
    return AxisView.of(axis.view_shape, axis.axis)


def zero_units(bits: ZeroBits, axis: UnitAxis) -> Tally:
    """Slices along an axis, each group's own, and those that are zero as a whole."""
    view = axis_view(axis)
    lines = view.outer // axis.groups
    kept = np.zeros((axis.groups, view.size), np.bool_)
    for first, place, zeros in view.pieces(bits, 1):
        nonzero = ~np.logical_and.reduce(zeros, axis=2)
        cuts = [0, *range(lines - first % lines, len(nonzero), lines)]
        found = np.logical_or.reduceat(nonzero, cuts, axis=0)
        group = first // lines
        kept[group : group + len(found), place : place + found.shape[1]] |= found
    return Tally(kept.size, kept.size - int(np.count_nonzero(kept)))


def zero_counts(bits: ZeroBits, view: AxisView, of: int) -> NDArray[np.int64]:
    """How many groups of `of` neighbours have 0, 1 ... `of` zeros; a remainder that fills no group is not counted."""
    counts = np.zeros(of + 1, np.int64)
    for _, _, zeros in view.pieces(bits, of):
        in_groups = _zeros_in_groups(zeros, of)
        counts += [int(np.count_nonzero(in_groups == number)) for number in range(of + 1)]
    return counts


def satisfies(bits: ZeroBits, view: AxisView, keep: int, of: int) -> bool:
    """Whether every group of `of` neighbours has `keep` nonzeros at most; False without groups."""
    groups = view.groups(of)
    if not groups or bits.zeros < groups * (of - keep):
        return False
    return all((_zeros_in_groups(zeros, of) >= of - keep).all() for _, _, zeros in view.pieces(bits, of))


def _zeros_in_groups(zeros: Zeros, of: int) -> NDArray[np.uint8]:
    whole = zeros.shape[1] // of * of
    counts = np.zeros((zeros.shape[0], whole // of, zeros.shape[2]), np.uint8)
    for place in range(of):
        counts += zeros[:, place:whole:of]
    return counts
