"""Who looks at channels: whether their values matter, can be made up for, or not quite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_tools.compaction.constants.folds import Fold
from onnx_tools.compaction.constants.products import Product, product_of, sums
from onnx_tools.compaction.constants.values import Known, KnownValues, Mask
from onnx_tools.compaction.mapping.channel_map import ChannelMap, Member
from onnx_tools.compaction.mapping.channels import Ids
from onnx_tools.compaction.mapping.factors import Factor, factor_on
from onnx_tools.compaction.mapping.roles import Role
from onnx_tools.compaction.mapping.trace import Meeting, said
from onnx_tools.graph_parts import Node

_MOST_STEPS = 64


@dataclass(frozen=True, eq=False)
class Price:
    """Groups whose constants, of these absolute values, a node takes in so that nothing makes up for them exactly."""

    groups: Ids
    constants: NDArray[np.float64]
    reason: str


@dataclass(frozen=True, eq=False)
class Uses:
    """For each group by its number: `seen`: its values matter. `read`: something stored reads it. And `prices`."""

    seen: Mask
    read: Mask
    prices: tuple[Price, ...]


def uses_of(channels: ChannelMap, values: KnownValues | None, nonzero: Mapping[Member, Mask]) -> Uses:
    """Who looks at which group. `values`: what is known of them, None if nothing; `nonzero`: see `nonzero_entries`."""
    of = channels.groups.of
    seen, read = np.zeros(len(of), bool), np.zeros(len(of), bool)
    looking: dict[Node | None, list[Ids]] = {}
    for member, mask in nonzero.items():
        if member.role is Role.READS:
            groups = of[member.factor.ids]
            read[groups] = True
            looking.setdefault(end_of(member.node), []).append(groups[mask])
    prices = []
    for node, parts in looking.items():
        groups = np.unique(np.concatenate(parts))
        matters, price = (groups, None) if node is None or values is None else _taken_in(values, node, groups)
        seen[matters] = True
        prices += [] if price is None else [price]
    for meeting in channels.meetings:
        for factor, used in _met(channels, values, meeting):
            seen[of[factor.ids[used]]] = True
    return Uses(seen, read, tuple(prices))


def end_of(node: Node) -> Node | None:
    """The only node that gets what `node` computes of stored data; None if there are several, or too far away."""
    for _ in range(_MOST_STEPS):
        if not node.constant:
            return node
        readers = [reader.node for output in node.outputs if output is not None for reader in output.readers]
        if len(readers) != 1:
            return None
        node = readers[0]
    return None


def _taken_in(values: KnownValues, node: Node, looked: Ids) -> tuple[Ids, Price | None]:
    """Of groups where the weights of a node are not zero: those whose values matter, and the price of others."""
    product = product_of(node, values.channels.shapes)
    of = values.channels.groups.of
    amounts, matters = np.zeros(len(looked)), np.ones(len(looked), bool)
    there = np.zeros(len(looked), bool)
    unknown = np.zeros(len(looked), bool)
    for factor, known in _sources(values, node, product):
        groups = of[factor.ids]
        places = np.minimum(np.searchsorted(looked, groups), len(looked) - 1)
        ours = looked[places] == groups if len(looked) else np.zeros(groups.shape, bool)
        there[places[ours]] = True
        unknown[places[ours & ~known.sure]] = True
        np.maximum.at(amounts, places[ours & known.sure], np.abs(known.numbers[ours & known.sure].astype(np.float64)))
    matters = unknown | ~there
    if product is not None and product.exact and _can_sum(values, product):
        return looked[matters], None
    dear = ~matters & (amounts > 0)
    return looked[matters], Price(looked[dear], amounts[dear], _why(node, product)) if dear.any() else None


def _sources(values: KnownValues, node: Node, product: Product | None) -> Iterator[tuple[Factor, Known]]:
    """What a node may read channels of: the data of a product, else all that it computes with, and its own results."""
    if product is not None:
        found = values.along(node.inputs[product.data], product.along)
        yield from [] if found is None else [found]
        return
    for value in (*node.inputs, *node.outputs):
        if value is not None and not value.constant:
            for factor in values.channels.of(value):
                yield factor, values.of(value, factor)


def _can_sum(values: KnownValues, product: Product) -> bool:
    weight = product.node.inputs[product.weight]
    return weight is not None and values.evaluator.blocks(weight) is not None


def _why(node: Node, product: Product | None) -> str:
    if product is None:
        return f"{said(node)} takes in its constant, and nothing can be added in its place"
    return f"{said(node)} takes in its constant, but less of it at its borders"


def _met(channels: ChannelMap, values: KnownValues | None, meeting: Meeting) -> Iterator[tuple[Factor, Mask]]:
    """The channels of values that are multiplied with each other, and which of them are not zero in any."""
    ends = [(meeting.node.inputs[index], axis) for index, axis in meeting.ends]
    found = [None if values is None else values.along(*end) for end in ends]
    zeros = [known.zero for each in found if each is not None for known in each[1:]]
    if len(zeros) == len(ends) and len({zero.shape for zero in zeros}) == 1:
        yield from ((each[0], ~np.logical_or.reduce(zeros)) for each in found if each is not None)
        return
    for value, axis in ends:
        factor = factor_on(channels.of(value), axis)
        if factor is not None:
            yield factor, np.ones(factor.ids.shape, bool)


def folds_of(values: KnownValues, leaving: Mask) -> Iterator[Fold]:
    """What must be added to the results of nodes when the groups `leaving` leave, a flag for each by its number."""
    for node in values.channels.index.nodes:
        product = None if node.constant else product_of(node, values.channels.shapes)
        data = None if product is None else values.along(node.inputs[product.data], product.along)
        if product is None or data is None or not product.even:
            continue
        factor, known = data
        gone = leaving[values.channels.groups.of[factor.ids]] & known.sure & (known.numbers != 0)
        summed = sums(product, values.evaluator, np.where(gone, known.numbers, 0)) if gone.any() else None
        staying = None if summed is None else _staying(values, product, leaving)
        if summed is not None and staying is not None and (summed * staying).any():
            yield Fold(node, product.axis, np.where(staying, summed, 0))


def _staying(values: KnownValues, product: Product, leaving: Mask) -> Mask | None:
    """Which results of a node stay."""
    factor = factor_on(values.channels.of(product.node.outputs[0]), product.axis)
    return None if factor is None or len(factor.axes) != 1 else ~leaving[values.channels.groups.of[factor.ids]]
