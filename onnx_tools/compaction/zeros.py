"""Which groups of channels a model can lose without changing what it computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_tools.compaction.channels import Ids
from onnx_tools.compaction.factors import Factor, factor_on
from onnx_tools.compaction.folds import Fold
from onnx_tools.compaction.roles import Role
from onnx_tools.compaction.tracing import ChannelMap
from onnx_tools.compaction.zero_entries import nonzero_entries
from onnx_tools.model_file import ModelFile

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Note:
    """Groups of one family that could not leave, or left at a price; `reason` says why, or which."""

    family: int
    origins: tuple[str, ...]
    groups: Ids
    reason: str


@dataclass(frozen=True, eq=False)
class Removable:
    """`gone`: the numbers of the groups that may leave, ascending. `folds`: what must be added then. `notes`: plain."""

    gone: Ids
    folds: tuple[Fold, ...]
    notes: tuple[Note, ...]


def removable(model: ModelFile, channels: ChannelMap, *, constants: str = "keep") -> Removable:
    """The groups that may leave a model as it is: nobody looks at their values.

    Every stored tensor that reads such a group is zero there, or nobody reads it at all. Its values are then multiplied
    by zero wherever they go: that they are finite is assumed, as 0 * inf is not 0. Of channels that would all leave an
    axis, one stays.
    """
    del constants
    looked_at, read = _readings(model, channels)
    unseen = ~looked_at & (channels.groups.of == np.arange(len(looked_at)))
    free = unseen & ~channels.groups.held
    gone = leaving_one(channels, np.flatnonzero(free))
    last = np.setdiff1d(np.flatnonzero(free), gone)
    held = np.flatnonzero(unseen & channels.groups.held & read)
    reasons = {
        **{int(group): channels.groups.reasons.get(int(group), "") for group in held},
        **dict.fromkeys(last.tolist(), "one channel of an axis has to stay"),
    }
    return Removable(gone, (), tuple(_notes(channels, reasons)))


def _readings(model: ModelFile, channels: ChannelMap) -> tuple[Mask, Mask]:
    """For each group by its number: whether what reads it looks at it, and whether anything stored reads it."""
    of = channels.groups.of
    looked_at, read = np.zeros(len(of), bool), np.zeros(len(of), bool)
    readers = [member for member in channels.members if member.role is Role.READS]
    for member, nonzero in nonzero_entries(model, readers).items():
        groups = of[member.factor.ids]
        read[groups] = True
        looked_at[groups[nonzero]] = True
    for factor in _met(channels):
        looked_at[of[factor.ids]] = True
    return looked_at, read


def _met(channels: ChannelMap) -> Iterator[Factor]:
    """The channels that are multiplied with each other."""
    for meeting in channels.meetings:
        for index, axis in (meeting.first, meeting.second):
            factor = factor_on(channels.of(meeting.node.inputs[index]), axis)
            if factor is not None:
                yield factor


def _notes(channels: ChannelMap, reasons: dict[int, str]) -> Iterator[Note]:
    groups = channels.groups
    collected: dict[tuple[int, str], list[int]] = {}
    for group in sorted(reasons):
        collected.setdefault((int(groups.families[group]), reasons[group]), []).append(group)
    for (family, reason), members in collected.items():
        yield Note(family, groups.origins.get(family, ()), np.array(members), reason)


def leaving_one(channels: ChannelMap, gone: Ids) -> Ids:
    """Of the groups `gone` those that can leave so that no axis of a value or stored tensor loses all its entries.

    Of a factor that would go entirely the group of its first entry stays. What stays for one factor can only help
    others, so one pass over all factors is enough.
    """
    of = channels.groups.of
    leaves = np.zeros(len(of) + 1, bool)
    leaves[gone] = True
    values = (factor for traced in channels.traced.values() for factor in traced)
    members = (member.factor for member in channels.members)
    seen: set[int] = set()
    for factor in (*values, *members):
        if factor.ids.size and id(factor.ids) not in seen and leaves[of[factor.ids]].all():
            leaves[of[factor.ids.flat[0]]] = False
        seen.add(id(factor.ids))
    return np.flatnonzero(leaves)
