"""Comparing the values of two tensors, in blocks: what became zero, what came back, what else changed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_tools.model_file import ModelFile, message_at
from onnx_tools.verification.byte_spans import SpanComparer
from onnx_tools.verification.tensor_values import located, values_of, whole_tensor
from onnx_tools.wire import Path
from oxiprune_gpu import BlockSource

_BLOCK = 1 << 18

Array = NDArray[Any]


@dataclass
class ValueChanges:
    """How the elements of two tensors differ. `changed`: nonzero in both, other bits.

    `max_abs`: the largest difference of those, infinite where one is not finite. `differing`: elements whose bits
    differ, zeros that only changed their sign included.
    """

    zeros_before: int = 0
    zeros_after: int = 0
    newly_zero: int = 0
    newly_nonzero: int = 0
    changed: int = 0
    max_abs: float = 0.0
    differing: int = 0

    @np.errstate(invalid="ignore", over="ignore")  # NaN that signal, differences beyond the largest number
    def add(self, before: Array, after: Array) -> None:
        """Count the elements of one block; numbers of any dtypes, flat."""
        zero_before, zero_after = before == 0, after == 0
        differs = _differs(before, after)
        self.zeros_before += int(np.count_nonzero(zero_before))
        self.zeros_after += int(np.count_nonzero(zero_after))
        self.newly_zero += int(np.count_nonzero(~zero_before & zero_after))
        self.newly_nonzero += int(np.count_nonzero(zero_before & ~zero_after))
        self.differing += int(np.count_nonzero(differs))
        changed = differs & ~zero_before & ~zero_after
        if changed.any():
            self._add_changed(before[changed], after[changed])

    def _add_changed(self, before: Array, after: Array) -> None:
        self.changed += len(before)
        moved = np.abs(after.astype(np.float64) - before.astype(np.float64))
        self.max_abs = max(self.max_abs, math.inf if np.isnan(moved).any() else float(moved.max()))


def compare_values(before: BlockSource, after: BlockSource) -> ValueChanges:
    """Compare two tensors of as many elements."""
    changes = ValueChanges()
    for old, new in zip(_blocks(before), _blocks(after), strict=True):
        changes.add(old, new)
    return changes


def count_zeros(source: BlockSource) -> int:
    """The zeros of a tensor."""
    return sum(len(block) - int(np.count_nonzero(block)) for block in _blocks(source))


def same_stored(spans: SpanComparer, before: tuple[ModelFile, Path], after: tuple[ModelFile, Path]) -> bool:
    """Whether what is stored in two models at a path each is the same, whatever it is; names do not count."""
    old, new = (message_at(model.skeleton, path) for model, path in (before, after))
    if type(old) is not type(new):
        return False
    if isinstance(old, onnx.SparseTensorProto):
        return list(old.dims) == list(new.dims) and all(
            same_stored(spans, (before[0], (*before[1], part)), (after[0], (*after[1], part)))
            for part in (("values", 0), ("indices", 0))
        )
    if isinstance(old, onnx.TensorProto):
        return _same_tensor(spans, (*before, old), (*after, new))
    return bool(old.SerializeToString(deterministic=True) == new.SerializeToString(deterministic=True))


def _same_tensor(
    spans: SpanComparer,
    before: tuple[ModelFile, Path, onnx.TensorProto],
    after: tuple[ModelFile, Path, onnx.TensorProto],
) -> bool:
    places = located(*before), located(*after)
    if places[0] is None or places[1] is None:
        return values_of(whole_tensor(spans, *before)) == values_of(whole_tensor(spans, *after))
    ends = [(place.file, place.offset) for place in places if place is not None]
    return places[0].length == places[1].length and spans.compare(ends[0], ends[1], places[0].length).index is None


def _differs(before: Array, after: Array) -> NDArray[np.bool_]:
    """Where the bits differ; of different dtypes, the values, all NaN being equal."""
    if before.dtype == after.dtype:
        bits = np.dtype(f"u{before.dtype.itemsize}")
        differs: NDArray[np.bool_] = before.view(bits) != after.view(bits)
        return differs
    old, new = before.astype(np.float64), after.astype(np.float64)
    values_differ: NDArray[np.bool_] = (old != new) & ~(np.isnan(old) & np.isnan(new))
    return values_differ


def _blocks(source: BlockSource) -> Iterator[Array]:
    size = math.prod(source.shape)
    scratch: Array = np.empty(min(size, _BLOCK), source.dtype)
    for start in range(0, size, _BLOCK):
        yield source.load(start, min(start + _BLOCK, size), scratch)
