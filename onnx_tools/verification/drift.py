"""How far the outputs of a model moved, added up over many runs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_tools.report import OutputDrift


class DriftMeter:
    """Adds up how one output differs before and after; sums are float64.

    Sequences and maps (scikit-learn's ZipMap) are compared number by number where their structure is the same.
    """

    def __init__(self, output: str) -> None:
        self._output = output
        self._squares = np.zeros(3)
        """Of the difference, of before, and the products of both."""
        self._after_squares = 0.0
        self._max_abs = 0.0
        self._values = 0
        self._differing = 0
        self._non_finite = 0
        self._both_non_finite = 0
        self._numeric = False
        self._exact = False
        self._problem = ""
        self._notes: dict[str, None] = {}

    def add(self, before: Any, after: Any) -> None:
        """Add what one run gave, as onnxruntime returns it."""
        old, new = _flat(before), _flat(after)
        if not isinstance(before, np.ndarray):
            self._notes["a sequence or map, compared number by number"] = None
        if (
            len(old) != len(new)
            or any(a.shape != b.shape for a, b in zip(old, new, strict=True))
            or _keys(before) != _keys(after)
        ):
            shapes = f": {old[0].shape} became {new[0].shape}" if len(old) == len(new) == 1 else ""
            self._problem = f"its shape or structure differs{shapes}"
            return
        for a, b in zip(old, new, strict=True):
            self._add_array(a, b)

    def result(self) -> OutputDrift:
        """What was found so far. Measures are None where there are none, and the note says why."""
        return replace(self._measured(), excess=self.excess())

    def _measured(self) -> OutputDrift:
        notes = [self._problem, *self._notes, self._count_note()]
        if self._problem or not self._numeric or self.blank:
            return OutputDrift(self._output, None, None, None, "; ".join(note for note in notes if note))
        diff, reference, product = (float(value) for value in self._squares)
        relative = math.sqrt(diff / reference) if reference > 0 else (0.0 if diff == 0 else None)
        if relative is None:
            notes.append("all zero before")
        scale = math.sqrt(reference) * math.sqrt(self._after_squares)
        cosine = min(max(product / scale if diff else 1.0, -1.0), 1.0) if scale > 0 else None
        values = [_finite(value) for value in (relative, self._max_abs, cosine)]
        return OutputDrift(self._output, values[0], values[1], values[2], "; ".join(note for note in notes if note))

    @property
    def blank(self) -> bool:
        """Whether it says nothing: all values are NaN or infinite, the same before and after."""
        return 0 < self._values == self._both_non_finite

    def excess(self) -> float:
        """The number that is held against a limit: relative L2; the share that differs of text; else inf."""
        if self._problem or self._non_finite:
            return math.inf
        if not self._numeric:
            return self._differing / self._values if self._differing else 0.0
        if self.blank:
            return 0.0
        relative = self._measured().relative_l2
        return math.inf if relative is None else relative

    def _count_note(self) -> str:
        if self._non_finite:
            return f"{self._non_finite:,} of {self._values:,} values are NaN or infinite before or after, not both"
        if self._both_non_finite:
            return (
                f"{self._both_non_finite:,} of {self._values:,} values are NaN or infinite, the same before and after"
            )
        if self._exact and self._differing:
            return f"{self._differing:,} of {self._values:,} values differ"
        return ""

    def _add_array(self, before: NDArray[Any], after: NDArray[Any]) -> None:
        self._values += before.size
        if not (_is_numeric(before) and _is_numeric(after)):
            self._exact = True
            self._notes["not numbers"] = None
            self._differing += int(np.count_nonzero(before != after))
            return
        self._numeric = True
        if before.dtype.kind in "iub":
            self._exact = True
            self._differing += int(np.count_nonzero(before != after))
        old, new = before.astype(np.float64).ravel(), after.astype(np.float64).ravel()
        finite = np.isfinite(old) & np.isfinite(new)
        if not finite.all():
            same = (old == new) | (np.isnan(old) & np.isnan(new))
            self._non_finite += int(np.count_nonzero(~finite & ~same))
            self._both_non_finite += int(np.count_nonzero(~finite & same))
            old, new = old[finite], new[finite]
        with np.errstate(over="ignore", invalid="ignore"):
            difference = new - old
            self._squares += [difference @ difference, old @ old, old @ new]
            self._after_squares += float(new @ new)
        self._max_abs = max(self._max_abs, float(np.abs(difference).max(initial=0.0)))


def _finite(value: float | None) -> float | None:
    """Overflow of a sum of squares leaves nothing to tell."""
    return value if value is not None and math.isfinite(value) else None


def _is_numeric(array: NDArray[Any]) -> bool:
    return array.dtype.kind in "iufb" or array.dtype.name == "bfloat16"


def _flat(value: Any) -> list[NDArray[Any]]:
    """The arrays in an output, maps as the array of their values."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, dict):
        return [np.asarray(list(value.values()))]
    if isinstance(value, list):
        return [array for part in value for array in _flat(part)]
    return [] if value is None else [np.asarray(value)]


def _keys(value: Any) -> Any:
    """The keys of the maps in an output, and the lengths of its sequences."""
    if isinstance(value, dict):
        return list(value)
    return [_keys(part) for part in value] if isinstance(value, list) else value is None
