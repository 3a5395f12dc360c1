"""Where channels lie in a value: factors, each the channels along one or several of its axes.

An entry of a value is there while all channels at its indices stay. Usually a factor has one axis: the output of a
convolution has its channels along axis 1. A Reshape spreads a factor over several axes, (heads, width); one that mixes
axes repeats channels. An axis in no factor keeps its size. Before anything is removed, `align` ties what would not
leave a rectangle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from onnx_tools.compaction.mapping.channels import Channels, Ids

Size = int | str | None
"""Of an axis: a number, a name that stands for one number, or unknown."""

Dims = tuple[Size, ...]

MOST_ENTRIES = 1 << 22
"""Of a factor; a larger one is not followed."""


@dataclass(frozen=True, eq=False)
class Factor:
    """`ids[i, j, ...]`: the channel of the entries at these indices of `axes`, which ascend."""

    axes: tuple[int, ...]
    ids: Ids

    def moved(self, to: Mapping[int, int]) -> Factor:
        """The same with axes renumbered, in ascending order again."""
        axes = [to[axis] for axis in self.axes]
        order = np.argsort(axes)
        return Factor(tuple(sorted(axes)), self.ids.transpose(order))

    def fits(self, dims: Dims | None) -> bool:
        """Whether a value of these sizes can have it, as far as they are known."""
        sizes = zip(self.axes, self.ids.shape, strict=True)
        return dims is None or all(
            axis < len(dims) and (not isinstance(dims[axis], int) or dims[axis] == size) for axis, size in sizes
        )

    def over(self, axes: Sequence[int]) -> Ids:
        """The channels for broadcasting along ascending `axes`, which hold those of the factor; the others get 1."""
        sizes = iter(self.ids.shape)
        return self.ids.reshape([next(sizes) if axis in self.axes else 1 for axis in axes])


Traced = tuple[Factor, ...]
"""The factors of one value; no axis is in two of them."""


def factor_on(traced: Traced, axis: int) -> Factor | None:
    """The factor that has `axis`."""
    return next((factor for factor in traced if axis in factor.axes), None)


def moved(traced: Traced, to: Mapping[int, int]) -> Traced:
    """All factors with their axes renumbered."""
    return tuple(factor.moved(to) for factor in traced)


def joined(channels: Channels, traced: Traced, factor: Factor) -> Traced:
    """`traced` with one more factor; where axes overlap, an entry must mean the same channel: they are tied.

    Entries keep the channels that they have in `traced`, by which it is known what makes them.
    """
    apart: list[Factor] = []
    overlapping: list[Factor] = []
    for other in traced:
        (overlapping if set(other.axes) & set(factor.axes) else apart).append(other)
    overlapping.append(factor)
    axes = tuple(sorted({axis for each in overlapping for axis in each.axes}))
    all_ids = [each.over(axes) for each in overlapping]
    for ids in all_ids[1:]:
        channels.tie(all_ids[0], ids)
    shape = np.broadcast_shapes(*(ids.shape for ids in all_ids))
    return (*apart, Factor(axes, np.broadcast_to(all_ids[0], shape)))


def narrowed(channels: Channels, traced: Traced, without: Iterable[int], reason: str) -> Traced:
    """Keep nothing apart along the axes `without`: what has other axes too is tied along them, the rest is fixed."""
    barred = set(without)
    kept = []
    for factor in traced:
        stay = tuple(axis for axis in factor.axes if axis not in barred)
        if stay == factor.axes:
            kept.append(factor)
        elif not stay:
            channels.fix(factor.ids, reason)
        else:
            first = tuple(0 if axis in barred else slice(None) for axis in factor.axes)
            ids = factor.ids[first]
            channels.tie(Factor(stay, ids).over(factor.axes), factor.ids)
            kept.append(Factor(stay, ids))
    return tuple(kept)


def simplified(channels: Channels, factor: Factor) -> Factor | None:
    """Without the axes along which nothing varies; None, and fixed, if nothing varies at all."""
    for axis in factor.axes:
        at = factor.axes.index(axis)
        first = factor.ids.take([0], at)
        if (factor.ids == first).all():
            axes = factor.axes[:at] + factor.axes[at + 1 :]
            if not axes:
                channels.fix(first, "it is the only channel of its layer")
                return None
            factor = Factor(axes, first.squeeze(at))
    return factor


def tiled(factor: Factor, times: Sequence[int]) -> Factor:
    """`factor` so many times along each of its axes. Raises `ValueError` for more than can be followed."""
    if not 0 < factor.ids.size * prod(times) <= MOST_ENTRIES or min(times) < 1:
        raise ValueError(f"{factor.ids.size} channels can't be followed {times} times")
    return Factor(factor.axes, np.tile(factor.ids, times))


def align(channels: Channels, factor: Factor, groups: Ids) -> bool:
    """Tie what would not leave a rectangle; say whether anything was. `groups`: the group of each channel so far.

    The channels of a factor over several axes may vary along one only. That is the one along which they vary already,
    if there is one, else the first: heads stand in front of their width.
    """
    if len(factor.axes) == 1:
        return False
    found = groups[factor.ids]
    varying = [at for at in range(found.ndim) if (found != found.take([0], at)).any()]
    if len(varying) <= 1:
        return False
    first = tuple(slice(None) if at == varying[0] else slice(0, 1) for at in range(found.ndim))
    channels.tie(factor.ids[first], factor.ids)
    return True
