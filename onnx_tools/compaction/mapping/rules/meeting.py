"""Operands that meet: what broadcasting, products and sums do to channels, said once in letters.

Each axis of each operand gets a letter. A letter below the rank of the result is that axis of the result; the others
are summed. An operand that has size 1 along a letter is repeated there, and its axis has no letter (`NONE`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from onnx_tools.compaction.mapping.factors import Dims, Factor, Size, Traced, factor_on, joined, moved, narrowed
from onnx_tools.compaction.mapping.roles import Role
from onnx_tools.compaction.mapping.trace import Meeting, Trace, said, why_whole
from onnx_tools.graph_parts import Node

NONE = -1


@dataclass(frozen=True)
class Operand:
    """An input of a node, and the letter of each of its axes. `role`: what it does if it is stored."""

    index: int
    letters: tuple[int, ...]
    role: Role = Role.DESCRIBES

    def axes(self, letters: Sequence[int]) -> dict[int, int]:
        """Its axis for each of the letters that it has."""
        return {letter: self.letters.index(letter) for letter in letters if letter in self.letters}


def letters_of(dims: Dims, rank: int) -> tuple[int, ...]:
    """Letters of an operand that is broadcast to `rank` axes."""
    first = rank - len(dims)
    return tuple(NONE if size == 1 else first + axis for axis, size in enumerate(dims))


def meet(trace: Trace, node: Node, operands: Sequence[Operand], rank: int, *, makes: bool) -> Traced:
    """Tie the channels of operands, and return the factors of a result of `rank` axes.

    `makes`: a letter that only a stored operand has is an axis of new channels; else that operand keeps its size.
    """
    computed = [each for each in operands if not _is_stored(node, each)]
    stored = [each for each in operands if _is_stored(node, each)]
    found = {each.index: _lettered(trace, node, each, rank) for each in computed}
    for letter in sorted({letter for each in operands for letter in each.letters if letter >= rank}):
        _sum(trace, node, letter, computed, stored, found)
    result = _carried(trace, node, computed, found, rank)
    for factor in result:
        for each in stored:
            let_meet(trace, node, each, factor)
    return (*result, *_made(trace, node, computed, stored, rank)) if makes else result


def _is_stored(node: Node, operand: Operand) -> bool:
    value = node.inputs[operand.index]
    return value is None or value.constant


def _lettered(trace: Trace, node: Node, operand: Operand, rank: int) -> Traced:
    """The factors of an operand by letters. What is summed together with something else is tied along the sum."""
    traced = trace.of(node.inputs[operand.index])
    lone = [axis for axis, letter in enumerate(operand.letters) if letter == NONE]
    traced = narrowed(trace.channels, traced, lone, f"{said(node)} repeats it")
    for factor in traced:
        summed = [axis for axis in factor.axes if operand.letters[axis] >= rank]
        if 0 < len(summed) < len(factor.axes):
            traced = narrowed(trace.channels, traced, summed, said(node))
    return moved(traced, dict(enumerate(operand.letters)))


def _sum(
    trace: Trace,
    node: Node,
    letter: int,
    computed: Sequence[Operand],
    stored: Sequence[Operand],
    found: dict[int, Traced],
) -> None:
    having = [each for each in computed if letter in each.letters]
    factors = [factor for each in having if (factor := factor_on(found[each.index], letter)) is not None]
    simple = [factor for factor in factors if factor.axes == (letter,)]
    alone = len(having) == 1 and not any(letter in each.letters for each in stored)
    if alone or not having or len(simple) < len(having):
        lacking = next((node.inputs[each.index] for each in having if not _has_simple(found[each.index], letter)), None)
        what = "" if lacking is None else f" with '{lacking.name}', {why_whole(lacking)}"
        trace.fix(factors, f"{said(node)} sums it{what}")
        return
    first, *others = simple
    for other in others:
        trace.channels.tie(first.ids, other.ids)
    for one, another in pairwise(having):
        ends = tuple((each.index, each.letters.index(letter)) for each in (one, another))
        trace.meetings.append(Meeting(node, ends))
    for each in stored:
        if letter in each.letters:
            trace.meet(node, each.index, Factor((each.letters.index(letter),), first.ids), Role.READS)


def _has_simple(traced: Traced, letter: int) -> bool:
    factor = factor_on(traced, letter)
    return factor is not None and factor.axes == (letter,)


def _carried(trace: Trace, node: Node, computed: Sequence[Operand], found: dict[int, Traced], rank: int) -> Traced:
    """The factors that the result has from computed operands."""
    result: Traced = ()
    for each in computed:
        for factor in found[each.index]:
            if max(factor.axes) < rank:
                result = joined(trace.channels, result, factor)
    for each in computed:
        own = {letter for other in found[each.index] for letter in other.axes}
        value = node.inputs[each.index]
        reason = f"{said(node)} takes '{getattr(value, 'name', '')}' with it, {why_whole(value)}"
        result = narrowed(trace.channels, result, set(each.letters) - own, reason)
    return result


def let_meet(trace: Trace, node: Node, operand: Operand, factor: Factor) -> None:
    """An operand has the channels of the result along the letters that it has of them.

    One that lacks the first, as a table for the width of all heads, keeps its size: heads leave whole.
    """
    axes = operand.axes(factor.axes)
    if not axes:
        return
    whole = factor.axes[0] not in axes
    (part,) = narrowed(trace.channels, (factor,), set(axes) if whole else set(factor.axes) - set(axes), said(node))
    if not whole:
        trace.meet(node, operand.index, part.moved(axes), operand.role)


def _made(trace: Trace, node: Node, computed: Sequence[Operand], stored: Sequence[Operand], rank: int) -> Traced:
    taken = {letter for each in computed for letter in each.letters}
    result: Traced = ()
    for each in stored:
        dims = trace.dims(node.inputs[each.index]) or ()
        for axis, letter in enumerate(each.letters):
            size = dims[axis] if axis < len(dims) else None
            if letter in taken or not 0 <= letter < rank or not isinstance(size, int):
                continue
            taken.add(letter)
            ids = trace.channels.new(size, node.label)
            trace.meet(node, each.index, Factor((axis,), ids), Role.MAKES)
            result = (*result, Factor((letter,), ids))
    return result


def repeated(trace: Trace, node: Node, operands: Sequence[Operand], rank: int) -> Traced:
    """Channels along the axes of a result for which computed operands are repeated, so that stored ones give the size.

    No layer makes them: they leave only with channels that they meet later, as scales of a weight with its results.
    """
    taken = {letter for each in operands if not _is_stored(node, each) for letter in each.letters}
    stored = [each for each in operands if _is_stored(node, each)]
    result: Traced = ()
    for letter in (letter for letter in range(rank) if letter not in taken):
        sizes = {_size(trace, node, each, letter) for each in stored if letter in each.letters}
        size = sizes.pop() if len(sizes) == 1 else None
        if isinstance(size, int):
            factor = Factor((letter,), trace.channels.new(size))
            for each in stored:
                let_meet(trace, node, each, factor)
            result = (*result, factor)
    return result


def _size(trace: Trace, node: Node, operand: Operand, letter: int) -> Size:
    dims = trace.dims(node.inputs[operand.index]) or ()
    axis = operand.letters.index(letter)
    return dims[axis] if axis < len(dims) else None
