"""What is known of values without running the model: entries of factors that are one number everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_tools.compaction.constants.evaluating import Evaluator
from onnx_tools.compaction.mapping.channel_map import ChannelMap
from onnx_tools.compaction.mapping.factors import Factor, factor_on
from onnx_tools.graph_parts import Value
from onnx_tools.model_file import DTYPES

Array = NDArray[Any]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Known:
    """Of the entries of a factor, in the shape of its ids: `numbers` of their own type where `known`."""

    numbers: Array
    known: Mask

    @property
    def sure(self) -> Mask:
        """Which are known floats: a code may stand for another number."""
        return self.known if self.numbers.dtype in DTYPES.values() else np.zeros_like(self.known)

    @property
    def zero(self) -> Mask:
        """Which are known to be zero."""
        zero: Mask = self.sure & (self.numbers == 0)
        return zero


class KnownValues:
    """What is known of the values of a model. `zero_made`: for each channel whether all that makes it is zero."""

    def __init__(self, channels: ChannelMap, evaluator: Evaluator, zero_made: Mask) -> None:
        self.channels = channels
        self.evaluator = evaluator
        self.zero_made = zero_made
        self._found: dict[int, dict[int, Known]] = {}

    def anything(self, value: Value | None) -> bool:
        """Whether anything is known of a value."""
        return value is not None and id(value) in self._found

    def of(self, value: Value | None, factor: Factor) -> Known:
        """What is known of a factor of a value."""
        known = None if value is None else self._found.get(id(value), {}).get(id(factor))
        return nothing(factor.ids.shape) if known is None else known

    def along(self, value: Value | None, axis: int) -> tuple[Factor, Known] | None:
        """The factor that lies along this axis of a value and no other, and what is known of it."""
        factor = factor_on(self.channels.of(value), axis)
        return None if factor is None or len(factor.axes) != 1 else (factor, self.of(value, factor))

    def give(self, value: Value | None, factor: Factor, known: Known) -> None:
        """Say what is known of a factor of a value. Infinities and NaN are not numbers that can be reckoned with."""
        sure = known.known & np.isfinite(known.numbers.astype(np.float64))
        if value is not None and not value.duplicated and sure.any():
            self._found.setdefault(id(value), {})[id(factor)] = Known(known.numbers, sure)


def nothing(shape: tuple[int, ...]) -> Known:
    """Nothing is known of entries in this shape."""
    return Known(np.zeros(shape, np.float32), np.zeros(shape, bool))


def spread(array: Array, rank: int, factor: Factor) -> Array | None:
    """A stored operand, broadcast to `rank` axes, at the entries of a factor; None if it varies beside them."""
    shape = (1,) * (rank - array.ndim) + array.shape
    beside = [size for axis, size in enumerate(shape) if axis not in factor.axes]
    if len(shape) != rank or max(factor.axes) >= rank or any(size != 1 for size in beside):
        return None
    sizes = [shape[axis] for axis in factor.axes]
    fits = all(size in (1, wanted) for size, wanted in zip(sizes, factor.ids.shape, strict=True))
    return np.broadcast_to(array.reshape(sizes), factor.ids.shape) if fits else None
