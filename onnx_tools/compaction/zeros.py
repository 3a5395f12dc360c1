"""Which groups of channels a model can lose without changing what it computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_tools.compaction.constants.evaluating import Evaluator
from onnx_tools.compaction.constants.finding import find_constants
from onnx_tools.compaction.constants.folds import Fold
from onnx_tools.compaction.constants.values import KnownValues, Mask
from onnx_tools.compaction.looking import Price, folds_of, uses_of
from onnx_tools.compaction.mapping.channel_map import ChannelMap, Member
from onnx_tools.compaction.mapping.channels import Ids
from onnx_tools.compaction.mapping.roles import Role
from onnx_tools.compaction.progress import Progress
from onnx_tools.compaction.zero_entries import nonzero_entries
from onnx_tools.model_file import ModelFile
from onnx_tools.values import ValueReader

KEEP, DROP = "keep", "drop"


@dataclass(frozen=True, eq=False)
class Note:
    """Groups of one family that are zero, or constant, and stay for `reason`; or are `gone` in spite of it.

    `constant`: the largest absolute value that they carry there, 0 if nobody looks at them. `origins`: the nodes that
    make the channels of the family.
    """

    family: int
    origins: tuple[str, ...]
    groups: Ids
    reason: str
    constant: float = 0.0
    gone: bool = False


@dataclass(frozen=True, eq=False)
class Removable:
    """`gone`: the numbers of the groups that may leave, ascending. `folds`: what must be added then. `notes`: plain."""

    gone: Ids
    folds: tuple[Fold, ...]
    notes: tuple[Note, ...]


def removable(
    model: ModelFile, channels: ChannelMap, *, constants: str = KEEP, progress: Progress | None = None
) -> Removable:
    """The groups that may leave a model as it is: nobody looks at their values, or they are known constants.

    Nobody looks where every stored tensor that reads a group is zero, and one of two values that are multiplied with
    each other. Such values are multiplied by zero wherever they go: that they are finite is assumed, as 0 * inf is not
    0. A constant, a number that a channel has everywhere, is folded into what takes it in. Where that can't be exact
    (a convolution that pads with zeros takes in less at its borders; operators that nothing can be folded into), with
    `constants` "keep" the group stays. With "drop" it goes all the same: a convolution gets what it takes in away from
    the borders, others lose it. Of channels that would all leave an axis, one stays. `progress`: told before each
    stored tensor that is looked at.

    Raises `InvalidExternalData` and `InvalidModelFile` if a file is not there or can't be read, `ValueError` for other
    `constants`.
    """
    if constants not in (KEEP, DROP):
        raise ValueError(f"constants is {constants!r}: 'keep' or 'drop' is possible")
    nonzero = nonzero_entries(model, [each for each in channels.members if each.role in _LOOKED_AT], progress)
    with ValueReader(model) as reader:
        values = _constants(channels, Evaluator(model, reader), nonzero)
        uses = uses_of(channels, values, nonzero)
        unseen = ~uses.seen & (channels.groups.of == np.arange(len(uses.seen)))
        dear = np.zeros(len(unseen), bool)
        for price in uses.prices if constants == KEEP else ():
            dear[price.groups] = True
        free = unseen & ~channels.groups.held & ~dear
        leaving = np.zeros(len(free), bool)
        leaving[leaving_one(channels, np.flatnonzero(free))] = True
        folds = () if values is None else tuple(folds_of(values, leaving))
    reasons = _of_the_held(channels, unseen & uses.read) | _of_the_last(np.flatnonzero(free & ~leaving))
    priced = _of_constants(channels, uses.prices, unseen & ~channels.groups.held, leaving)
    return Removable(np.flatnonzero(leaving), folds, (*_notes(channels, reasons), *priced))


_LOOKED_AT = {Role.READS, Role.MAKES, Role.SCALES}


def _constants(channels: ChannelMap, evaluator: Evaluator, nonzero: dict[Member, Mask]) -> KnownValues | None:
    """What is known of values; None if no weight and no scale is zero whose channel anything stored reads.

    So it is in most models, and in those whose channels are zero in all that reads them.
    """
    of = channels.groups.of
    made, nonzero_made, scaled, looked_at = np.zeros((4, len(of)), bool)
    for member, mask in nonzero.items():
        ids = member.factor.ids
        if member.role is Role.MAKES:
            made[ids] = True
            nonzero_made[ids[mask]] = True
        elif member.role is Role.SCALES:
            scaled[ids[~mask]] = True
        else:
            looked_at[of[ids[mask]]] = True
    for meeting in channels.meetings:
        for index, _ in meeting.ends:
            for factor in channels.of(meeting.node.inputs[index]):
                looked_at[of[factor.ids]] = True
    zero_made = made & ~nonzero_made
    wanted = ((zero_made | scaled) & looked_at[of]).any()
    return find_constants(channels, evaluator, zero_made) if wanted else None


def _of_the_held(channels: ChannelMap, held: Mask) -> dict[int, str]:
    groups = np.flatnonzero(held & channels.groups.held).tolist()
    return {group: channels.groups.reasons.get(group, "") for group in groups}


def _of_the_last(groups: Ids) -> dict[int, str]:
    return dict.fromkeys(groups.tolist(), "one channel of an axis has to stay")


def _notes(channels: ChannelMap, reasons: dict[int, str]) -> Iterator[Note]:
    """One note for each family and reason."""
    groups = channels.groups
    collected: dict[tuple[int, str], list[int]] = {}
    for group in sorted(reasons):
        collected.setdefault((int(groups.families[group]), reasons[group]), []).append(group)
    for (family, reason), members in collected.items():
        yield Note(family, groups.origins.get(family, ()), np.array(members), reason)


def _of_constants(channels: ChannelMap, prices: Sequence[Price], free: Mask, leaving: Mask) -> Iterator[Note]:
    """One note for each family and node that takes in constants which nothing makes up for."""
    families, origins = channels.groups.families, channels.groups.origins
    for price in prices:
        for gone in (False, True):
            ours = free[price.groups] & (leaving[price.groups] == gone)
            for family in np.unique(families[price.groups[ours]]).tolist():
                own = ours & (families[price.groups] == family)
                largest = float(price.constants[own].max())
                reason = price.reason if gone else f"{price.reason}; --constants drop removes it all the same"
                yield Note(family, origins.get(family, ()), price.groups[own], reason, largest, gone)


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
