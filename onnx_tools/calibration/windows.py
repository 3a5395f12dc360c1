"""What the kernel of a convolution is multiplied with: windows of its input (im2col), never copied as a whole.

Features are numbered by the position in the kernel, then by the input channel of the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from onnx_tools.calibration.rows import Array, Rows, Unfold
from onnx_tools.graph_parts import Node

Pads = list[tuple[int, int]]
"""How many zeros stand before and behind each spatial axis; less than none: so many entries are left out."""


@dataclass(frozen=True)
class Kernel:
    """The attributes of a convolution, an entry for each spatial axis. `pads`: all begins, then all ends."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str
    groups: int
    channels_last: bool

    @classmethod
    def of(cls, node: Node, sizes: tuple[int, ...], *, channels_last: bool = False) -> Kernel | str:
        """The kernel of a node, whose weight has these sizes, or the reason why its attributes make no sense."""
        ones = (1,) * len(sizes)
        strides = node.ints_attribute("strides") or ones
        dilations = node.ints_attribute("dilations") or ones
        pads = node.ints_attribute("pads") or (0, 0) * len(sizes)
        counts = (len(strides), len(dilations), len(pads))
        if counts != (len(sizes), len(sizes), 2 * len(sizes)) or min((*strides, *dilations), default=1) < 1:
            return f"the attributes of {node.op_type} '{node.label}' do not fit its kernel"
        auto_pad, groups = node.text_attribute("auto_pad") or "NOTSET", node.int_attribute("group", 1)
        return cls(sizes, strides, dilations, pads, auto_pad, groups, channels_last)

    @property
    def extents(self) -> tuple[int, ...]:
        """How far the kernel reaches along each axis."""
        return tuple(dilation * (size - 1) + 1 for size, dilation in zip(self.sizes, self.dilations, strict=True))

    def given_pads(self) -> Pads:
        """The attribute `pads`, none where `auto_pad` says so."""
        rank = len(self.sizes)
        pads = self.pads if self.auto_pad == "NOTSET" else (0, 0) * rank
        return list(zip(pads[:rank], pads[rank:], strict=True))

    def spatial(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The spatial sizes of a value of this shape. Raises `ValueError` for one with other axes."""
        if len(shape) != len(self.sizes) + 2:
            raise ValueError(f"a kernel of {len(self.sizes)} axes reads a value of {len(shape)}")
        return shape[1:-1] if self.channels_last else shape[2:]

    def windows(self, value: Array, pads: Pads, strides: Sequence[int], turn: int = 1) -> Rows:
        """The windows that start `strides` apart in a value (batch, channels, ...) of which zeros are added or cut.

        `turn`: -1 to number the positions in the kernel from the last.
        """
        value = _padded(value, pads)
        batch, channels = value.shape[:2]
        axes = tuple(range(2, value.ndim))
        found = sliding_window_view(value, self.extents, axes) if axes else value
        found = found[_steps((1, 1, *strides))]
        found = found[_steps((1,) * (2 + len(axes)) + tuple(turn * dilation for dilation in self.dilations))]
        found = found.reshape(batch, self.groups, channels // self.groups, *found.shape[2:])
        rank = len(axes)
        order = (1, 0, *range(3, 3 + 2 * rank), 2)
        return Rows(found.transpose(order), 1, rank + 1)


def _steps(strides: Sequence[int]) -> tuple[slice, ...]:
    """The index that takes every so-manieth entry of each axis, from the last on where it is negative."""
    return tuple(slice(None, None, stride) for stride in strides)


def _padded(value: Array, pads: Pads) -> Array:
    added = [(max(begin, 0), max(end, 0)) for begin, end in pads]
    if any(map(any, added)):
        value = np.pad(value, [(0, 0), (0, 0), *added])
    cut = [slice(max(-begin, 0), size - max(-end, 0)) for (begin, end), size in zip(pads, value.shape[2:], strict=True)]
    return value[(slice(None), slice(None), *cut)]


def _channels_first(value: Array, kernel: Kernel) -> Array:
    kernel.spatial(value.shape)
    return np.moveaxis(value, -1, 1) if kernel.channels_last else value


@dataclass(frozen=True)
class ConvRows(Unfold):
    """The windows that a Conv multiplies its kernel with."""

    kernel: Kernel

    def rows(self, values: Sequence[Array | None]) -> Rows:
        """See `Unfold.rows`."""
        (value,) = values
        assert value is not None
        value = _channels_first(value, self.kernel)
        return self.kernel.windows(value, self._pads(value.shape[2:]), self.kernel.strides)

    def copied(self, shape: tuple[int, ...]) -> int:
        """See `Unfold.copied`."""
        spatial = self.kernel.spatial(shape)
        padded = [size + sum(pads) for size, pads in zip(spatial, self._pads(spatial), strict=True)]
        return prod(shape) // max(prod(spatial), 1) * prod(padded)

    def _pads(self, spatial: tuple[int, ...]) -> Pads:
        kernel = self.kernel
        if not kernel.auto_pad.startswith("SAME"):
            return kernel.given_pads()
        found = zip(spatial, kernel.strides, kernel.extents, strict=True)
        missing = [max((-(-size // stride) - 1) * stride + extent - size, 0) for size, stride, extent in found]
        return [_halves(total, more_behind=kernel.auto_pad == "SAME_UPPER") for total in missing]


@dataclass(frozen=True)
class ConvTransposeRows(Unfold):
    """The same for ConvTranspose: its output is a convolution, stride 1, of the input with zeros between its entries.

    `output_padding`, `output_shape`: the attributes; none for the second where it is not given.
    """

    kernel: Kernel
    output_padding: tuple[int, ...]
    output_shape: tuple[int, ...]

    def rows(self, values: Sequence[Array | None]) -> Rows:
        """See `Unfold.rows`."""
        (value,) = values
        assert value is not None
        value = _channels_first(value, self.kernel)
        spatial = value.shape[2:]
        spread = np.zeros((*value.shape[:2], *self._spread(spatial)), value.dtype)
        spread[_steps((1, 1, *self.kernel.strides))] = value
        return self.kernel.windows(spread, self._pads(spatial), (1,) * len(spatial), turn=-1)

    def copied(self, shape: tuple[int, ...]) -> int:
        """See `Unfold.copied`."""
        spatial = self.kernel.spatial(shape)
        pads, spread = self._pads(spatial), self._spread(spatial)
        padded = [size + max(begin, 0) + max(end, 0) for size, (begin, end) in zip(spread, pads, strict=True)]
        return prod(shape) // max(prod(spatial), 1) * (prod(spread) + prod(padded))

    def _spread(self, spatial: tuple[int, ...]) -> list[int]:
        return [(size - 1) * stride + 1 for size, stride in zip(spatial, self.kernel.strides, strict=True)]

    def _pads(self, spatial: tuple[int, ...]) -> Pads:
        reach = [extent - 1 for extent in self.kernel.extents]
        cut = zip(reach, self._cut(spatial), self.output_padding, strict=True)
        return [(more - begin, more - end + added) for more, (begin, end), added in cut]

    def _cut(self, spatial: tuple[int, ...]) -> Pads:
        """What the attributes call pads: how much of the whole output is left out."""
        kernel = self.kernel
        wanted = self.output_shape
        if kernel.auto_pad.startswith("SAME") and not wanted:
            wanted = tuple(size * stride for size, stride in zip(spatial, kernel.strides, strict=True))
        if not wanted:
            return kernel.given_pads()
        found = zip(self._spread(spatial), kernel.extents, self.output_padding, wanted, strict=True)
        total = [max(size + extent - 1 + added - out, 0) for size, extent, added, out in found]
        return [_halves(each, more_behind=kernel.auto_pad == "SAME_UPPER") for each in total]


def _halves(total: int, *, more_behind: bool) -> tuple[int, int]:
    return (total // 2, total - total // 2) if more_behind else (total - total // 2, total // 2)
