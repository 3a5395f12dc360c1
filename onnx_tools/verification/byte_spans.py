"""The rule of the byte comparison, element by element: equal bits, or a zero where zeros may be new.

The zero is +0.0, in a quantised weight the zero point.

Files are compared in chunks that stay in the cache, by positioned reads, so the size of a model does not matter.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_tools.errors import InvalidModelFile
from onnx_tools.file_blocks import read_at
from onnx_tools.quantisation.codes import WeightCodes

_CHUNK = 1 << 20
"""Bytes compared at once, a multiple of every element's size. Half of it was slower, four times it gained nothing."""

_BYTE = np.dtype(np.uint8)


@dataclass(frozen=True, slots=True)
class Violation:
    """A change that pruning does not make. `index`: of the first such element (a byte where there are no elements).

    `before`, `after`: its values as text; `what` says the rest.
    """

    where: str
    what: str
    index: int | None = None
    before: str = ""
    after: str = ""

    def __str__(self) -> str:
        """One line for people."""
        values = f" (index {self.index}: {self.before} became {self.after})" if self.index is not None else ""
        return f"{self.where}: {self.what}{values}"


@dataclass(frozen=True, slots=True)
class Difference:
    """How two arrays differ: elements that became +0.0, and the first one that broke the rule.

    `newly_zero`: of those the ones that were not zero; `signs`: the ones that were -0.0. `refitted`: elements that
    became another number, where that is allowed.
    """

    newly_zero: int = 0
    signs: int = 0
    refitted: int = 0
    index: int | None = None
    before: str = ""
    after: str = ""

    def violation(self, where: str, what: str) -> Violation:
        """The same as a violation; `index` must not be None."""
        return Violation(where, what, self.index, self.before, self.after)


@dataclass(frozen=True, slots=True)
class Rule:
    """What two spans are made of, and what may differ: elements of `dtype`, which `zeros` lets become +0.0.

    `codes`: those of a quantised weight, which may become its zero points. `finite`: elements may become any number.
    """

    dtype: np.dtype[Any] = _BYTE
    zeros: bool = False
    codes: WeightCodes | None = None
    finite: bool = False

    def compare(self, before: NDArray[np.uint8], after: NDArray[np.uint8], start: int = 0) -> Difference:
        """Compare the bytes from `start` of a tensor on; the index in what is returned counts its elements."""
        if self.codes is not None:
            return _compare_codes(before, after, self.codes, start * 8 // self.codes.kind.bits)
        bits = bits_of(self.dtype)
        compare = compare_refitted if self.finite else compare_elements
        found = compare(before.view(bits), after.view(bits), self.dtype, self.zeros)
        return found if found.index is None else replace(found, index=found.index + start // self.dtype.itemsize)


def _compare_codes(before: NDArray[np.uint8], after: NDArray[np.uint8], codes: WeightCodes, start: int) -> Difference:
    """Compare the bytes of a quantised weight from the stored element `start` on."""
    if np.array_equal(before, after):
        return Difference()
    old, new = codes.kind.unpacked(before), codes.kind.unpacked(after)
    changed = old != new
    zeroed = changed & codes.are_zero_points(new, start)
    negative = codes.kind.negative_zero
    signs = 0 if negative is None else int(np.count_nonzero(zeroed & (old == negative)))
    newly_zero = int(np.count_nonzero(zeroed)) - signs
    changed &= ~zeroed
    if not changed.any():
        return Difference(newly_zero, signs)
    first = int(changed.argmax())
    shown = [f"{float(codes.kind.numbers(array[first])):g}" for array in (old, new)]
    return Difference(newly_zero, signs, 0, start + first, *shown)


def compare_elements(before: NDArray[Any], after: NDArray[Any], dtype: np.dtype[Any], zeros: bool) -> Difference:
    """Compare two arrays of unsigned integers, the bits of elements of `dtype`. `zeros`: new zeros are allowed."""
    differs = before != after
    changed = int(np.count_nonzero(differs))
    if not changed:
        return Difference()
    signs = 0
    if zeros:
        signs = int(np.count_nonzero((before == _negative_zero(dtype)) & (after == 0)))
        differs &= after != 0  # all bits zero is +0.0, and -0.0 is not
    if not differs.any():
        return Difference(changed - signs, signs)
    first = int(differs.argmax())
    shown = [_shown(array[first : first + 1], dtype) for array in (before, after)]
    return Difference(changed - signs - int(np.count_nonzero(differs)), signs, 0, first, *shown)


def compare_refitted(before: NDArray[Any], after: NDArray[Any], dtype: np.dtype[Any], zeros: bool) -> Difference:
    """The same where an element may become any number. `zeros`: whether it may; if not, as `compare_elements`."""
    if not zeros:
        return compare_elements(before, after, dtype, zeros)
    differs = before != after
    changed = int(np.count_nonzero(differs))
    if not changed:
        return Difference()
    negative = before == _negative_zero(dtype)
    zeroed = differs & (after == 0)
    signs = int(np.count_nonzero(zeroed & negative))
    newly_zero = int(np.count_nonzero(zeroed)) - signs
    refitted = changed - newly_zero - signs
    bad = differs & ~np.isfinite(after.view(dtype))
    if not bad.any():
        return Difference(newly_zero, signs, refitted)
    first = int(bad.argmax())
    return Difference(
        newly_zero, signs, refitted, first, *(_shown(each[first : first + 1], dtype) for each in (before, after))
    )


def bits_of(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the unsigned integer that is as wide as `dtype`."""
    return np.dtype(f"u{dtype.itemsize}")


def _negative_zero(dtype: np.dtype[Any]) -> int:
    """The bits of -0.0: the sign and nothing else."""
    return 1 << (8 * dtype.itemsize - 1)


def _shown(element: NDArray[Any], dtype: np.dtype[Any]) -> str:
    return f"0x{int(element[0]):02x}" if dtype == _BYTE else str(element.view(dtype)[0])


_EQUAL = Rule()


class SpanComparer:
    """Compares spans of files; opens each file once, and closes them all at the end of its `with` block."""

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()
        self._descriptors: dict[pathlib.Path, int] = {}
        self._buffers = np.empty((2, _CHUNK), np.uint8)

    def __enter__(self) -> SpanComparer:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def compare(
        self,
        before: tuple[pathlib.Path, int],
        after: tuple[pathlib.Path, int],
        length: int,
        rule: Rule = _EQUAL,
    ) -> Difference:
        """Compare `length` bytes at two (file, offset), at any alignment.

        Raises `InvalidModelFile` if a file cannot be read.
        """
        newly_zero = signs = refitted = 0
        bad: Difference | None = None
        for start in range(0, length, _CHUNK):
            size = min(_CHUNK, length - start)
            found = rule.compare(self._read(0, before, start, size), self._read(1, after, start, size), start)
            newly_zero += found.newly_zero
            signs += found.signs
            refitted += found.refitted
            if bad is None and found.index is not None:
                bad = found
        return replace(bad or Difference(), newly_zero=newly_zero, signs=signs, refitted=refitted)

    def read(self, file: pathlib.Path, offset: int, length: int) -> NDArray[np.uint8]:
        """Return `length` bytes of a file."""
        data = np.empty(length, np.uint8)
        self._fill(data, file, offset)
        return data

    def _read(self, which: int, place: tuple[pathlib.Path, int], start: int, size: int) -> NDArray[np.uint8]:
        buffer = self._buffers[which, :size]
        self._fill(buffer, place[0], place[1] + start)
        return buffer

    def _fill(self, buffer: NDArray[np.uint8], file: pathlib.Path, offset: int) -> None:
        try:
            if file not in self._descriptors:
                descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0))
                self._open.callback(os.close, descriptor)
                self._descriptors[file] = descriptor
            read_at(self._descriptors[file], buffer.data, offset)
        except OSError as error:
            raise InvalidModelFile(f"{file}: cannot be read: {error.strerror or error}") from error
