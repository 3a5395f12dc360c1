"""Values of a graph as rows of features: what a weight, seen as matrices, is multiplied with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Rows(NamedTuple):
    """Rows as the axes of an array: the first `groups` axes are groups, the last `features` axes are features.

    All axes between are samples. Often a view of the value that repeats its elements, so never write to it.
    """

    array: Array
    groups: int
    features: int

    def blocks(self, most: int) -> Iterator[Array]:
        """All samples, in blocks (groups, samples, features) of about `most` elements, float64 or else float32."""
        samples = range(self.groups, self.array.ndim - self.features)
        for part in _parts(self.array, samples, most):
            shape = part.shape
            groups, features = prod(shape[: self.groups]), prod(shape[part.ndim - self.features :])
            dtype = np.float64 if part.dtype == np.float64 else np.float32
            if part.size:
                yield np.ascontiguousarray(part, dtype).reshape(groups, -1, features)


def _parts(array: Array, axes: range, most: int) -> Iterator[Array]:
    """Cut an array along `axes`, from the first on, into parts of `most` elements, or of one entry of all of them."""
    if array.size <= most or not axes:
        yield array
        return
    length, axis = array.shape[axes[0]], axes[0]
    step = most * length // array.size
    for start in range(0, length, max(step, 1)):
        part = array[(slice(None),) * axis + (slice(start, start + max(step, 1)),)]
        yield from (part,) if step else _parts(part, axes[1:], most)


class Unfold(ABC):
    """How the values that a node reads become rows. A frozen dataclass: two that are equal give the same rows."""

    @abstractmethod
    def rows(self, values: Sequence[Array | None]) -> Rows:
        """The rows of one run of the model; None for a value that the node is not given.

        Raises `ValueError` for shapes that do not go with the operator.
        """

    def copied(self, shape: tuple[int, ...]) -> int:
        """Elements that `rows` copies, at most, where the first value has this shape."""
        return 0


@dataclass(frozen=True)
class ProductRows(Unfold):
    """The other operand of a product of matrices, whose axes are batches but for two, as in numpy.matmul.

    `output`, `reduction`: those two axes; the second one is summed. `batch`: sizes of the batch axes of the weight,
    which those of the value are aligned with from the last; where it has more than one entry, each is a group.
    """

    output: int = -2
    reduction: int = -1
    batch: tuple[int, ...] = ()

    def rows(self, values: Sequence[Array | None]) -> Rows:
        """See `Unfold.rows`."""
        (value,) = values
        assert value is not None
        value = self._in_order(value)
        first = value.ndim - 2 - len(self.batch)
        groups = [first + i for i, size in enumerate(self.batch) if size > 1]
        sizes = {first + i: size for i, size in enumerate(self.batch) if size > 1}
        value = np.broadcast_to(value, [sizes.get(axis, size) for axis, size in enumerate(value.shape)])
        samples = [axis for axis in range(value.ndim - 1) if axis not in sizes]
        return Rows(value.transpose(*groups, *samples, value.ndim - 1), len(groups), 1)

    def _in_order(self, value: Array) -> Array:
        """Batch axes, at least as many as the weight has, samples, features."""
        if value.ndim == 1:
            value = value[None]
        else:
            output, reduction = self.output % value.ndim, self.reduction % value.ndim
            batch = [axis for axis in range(value.ndim) if axis not in (output, reduction)]
            value = value.transpose(*batch, output, reduction)
        return value[(None,) * max(len(self.batch) + 2 - value.ndim, 0)]


@dataclass(frozen=True)
class ChannelRows(Unfold):
    """What a normalisation reads: axis 1 is features, all else samples."""

    def rows(self, values: Sequence[Array | None]) -> Rows:
        """See `Unfold.rows`."""
        (value,) = values
        assert value is not None
        return Rows(np.moveaxis(value, 1, -1), 0, 1)


@dataclass(frozen=True)
class LetterRows(Unfold):
    """An operand of an Einsum. `term`: its letters; `groups`, `features`: those it shares with the weight.

    `sizes`: of the weight along `groups`, then `features`, for operands that are broadcast.
    """

    term: str
    groups: str
    features: str
    sizes: tuple[int, ...]

    def rows(self, values: Sequence[Array | None]) -> Rows:
        """See `Unfold.rows`."""
        (value,) = values
        assert value is not None
        sizes = dict(zip(self.groups + self.features, self.sizes, strict=True))
        wanted = [sizes.get(letter, size) for letter, size in zip(self.term, value.shape, strict=True)]
        samples = "".join(letter for letter in self.term if letter not in sizes)
        order = [self.term.index(letter) for letter in self.groups + samples + self.features]
        return Rows(np.broadcast_to(value, wanted).transpose(order), len(self.groups), len(self.features))


@dataclass(frozen=True)
class Dequantised(Unfold):
    """Rows of the real values that codes stand for: (code - zero point) * scale; the values are these three.

    `axis`: the axis of the codes that a scale or zero point of several elements belongs to.
    """

    inner: Unfold
    axis: int

    def rows(self, values: Sequence[Array | None]) -> Rows:
        """See `Unfold.rows`."""
        codes, scale, zero_point = values
        assert codes is not None
        real = codes.astype(np.float32)
        if zero_point is not None:
            real -= self._along(zero_point, codes.ndim)
        if scale is not None:
            real *= self._along(scale, codes.ndim)
        return self.inner.rows((real,))

    def copied(self, shape: tuple[int, ...]) -> int:
        """See `Unfold.copied`."""
        return prod(shape) + self.inner.copied(shape)

    def _along(self, parameter: Array, ndim: int) -> Array:
        real = parameter.astype(np.float32)
        if real.size == 1:
            return real.reshape(())
        return real if real.ndim > 1 else real.reshape([-1 if i == self.axis % ndim else 1 for i in range(ndim)])
