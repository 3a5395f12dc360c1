"""Convolutions and matrix products: they sum over the channels that come in and make new ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnx_tools.compaction.mapping.adjustments import Counts
from onnx_tools.compaction.mapping.channels import Ids
from onnx_tools.compaction.mapping.factors import MOST_ENTRIES, Factor, Traced
from onnx_tools.compaction.mapping.roles import Role
from onnx_tools.compaction.mapping.rules.meeting import NONE, Operand, let_meet, letters_of, meet
from onnx_tools.compaction.mapping.trace import Trace, said
from onnx_tools.graph_parts import Node

_WINDOWS = "moves a window over it"


def convolution(trace: Trace, node: Node) -> None:
    """Conv: weight (M, C / group, ...), bias (M)."""
    convolve(trace, node)


def transposed_convolution(trace: Trace, node: Node) -> None:
    """ConvTranspose: weight (C, M / group, ...), bias (M)."""
    convolve(trace, node, out_axis=1, in_axis=0)


def convolve(
    trace: Trace, node: Node, *, out_axis: int = 0, in_axis: int = 1, weight: int = 1, bias: int = 2
) -> Ids | None:
    """The channels that a convolution makes; None if its weight has no known shape. `weight`, `bias`: input numbers."""
    ids = trace.along(node, 0, 1, _WINDOWS)
    sizes = trace.dims(node.inputs[weight]) if weight < len(node.inputs) else None
    groups = node.int_attribute("group", 1)
    if sizes is None or len(sizes) < 2 or not all(isinstance(size, int) for size in sizes[:2]):
        trace.bar(node, f"{said(node)} has a weight of unknown shape")
        return None
    out_size, in_size = int(sizes[out_axis] or 0), int(sizes[in_axis] or 0)
    if groups == 1:
        made = trace.channels.new(out_size, node.label)
        trace.meet(node, weight, Factor((out_axis,), made), Role.MAKES)
        if ids is not None:
            trace.meet(node, weight, Factor((in_axis,), ids), Role.READS)
    else:
        count = int(sizes[0] or 0)
        if not 0 < groups <= count or count % groups or groups * in_size > MOST_ENTRIES:
            raise ValueError(f"{groups} groups")
        per_in, per_out = (in_size, out_size // groups) if in_axis == 1 else (in_size // groups, out_size)
        if ids is not None and len(ids) != groups * per_in:
            raise ValueError(f"{groups} groups of {per_in} for {len(ids)} channels")
        if ids is None:
            ids = np.repeat(trace.channels.staying(1, f"{said(node)} reads what stays as it is"), groups * per_in)
        whole = groups >= per_in
        follow = _whole_groups if whole else _inside_groups
        made = follow(trace, node, ids.reshape(groups, per_in), per_out, out_axis, weight)
    trace.meet(node, bias, Factor((0,), made), Role.SHIFTS)
    trace.give(node, (Factor((1,), made),), rank=len(sizes))
    return made


def _whole_groups(trace: Trace, node: Node, ids: Ids, per_out: int, out_axis: int, weight: int) -> Ids:
    """Many groups, each of few channels (depthwise: of one): each goes whole, with what it reads and makes."""
    groups = trace.channels.new(len(ids), node.label)
    trace.channels.tie(ids, groups[:, None])
    stored = np.repeat(groups, per_out if out_axis == 0 else ids.shape[1])
    trace.meet(node, weight, Factor((0,), stored), Role.MAKES)
    value = node.inputs[0]
    if value is not None:
        trace.adjustments.append(Counts(node, "group", value, 1, ids.shape[1]))
    return np.repeat(groups, per_out)


def _inside_groups(trace: Trace, node: Node, ids: Ids, per_out: int, out_axis: int, weight: int) -> Ids:
    """Few groups: all stay, and all lose the same of their channels."""
    trace.channels.tie(ids, ids[:1])
    made = trace.channels.new(per_out, node.label)
    if out_axis == 0:
        trace.meet(node, weight, Factor((0,), np.tile(made, len(ids))), Role.MAKES)
        trace.meet(node, weight, Factor((1,), ids[0]), Role.READS)
    else:
        trace.meet(node, weight, Factor((1,), made), Role.MAKES)
        trace.meet(node, weight, Factor((0,), ids.reshape(-1)), Role.READS)
    return np.tile(made, len(ids))


def matrix_product(trace: Trace, node: Node) -> None:
    """MatMul: (..., M, K) by (..., K, N); the batch axes are broadcast."""
    multiply(trace, node)


def multiply(
    trace: Trace, node: Node, first: int = 0, second: int = 1, order: Callable[[int, int], Sequence[int]] | None = None
) -> Traced:
    """The channels of a matrix product of two inputs. `order(index, rank)`: their axes in the order of MatMul."""
    pair = [(index, trace.dims(node.inputs[index])) for index in (first, second)]
    known = [(index, dims) for index, dims in pair if dims is not None and len(dims) >= 2]
    if len(known) < 2:
        trace.bar(node, f"{said(node)} has an input of unknown shape, or of one axis; --input-shape may tell it")
        return ()
    rank = max(len(dims) for _, dims in known)
    operands = []
    for (index, dims), inner in zip(known, ((rank - 2, rank), (rank, rank - 1)), strict=True):
        axes = range(len(dims)) if order is None else order(index, len(dims))
        letters = [*range(rank - len(dims), rank - 2), *inner]
        lone = {axis for axis in axes[:-2] if dims[axis] == 1}
        placed = {axis: NONE if axis in lone else letter for axis, letter in zip(axes, letters, strict=True)}
        operands.append(Operand(index, tuple(placed[axis] for axis in range(len(dims))), Role.MAKES))
    result = meet(trace, node, operands, rank, makes=True)
    trace.give(node, result, rank=rank)
    return result


def general_product(trace: Trace, node: Node) -> None:
    """Gemm: A (M, K) or (K, M), B (K, N) or (N, K), C broadcast to (M, N)."""
    multiply_and_add(trace, node)


def multiply_and_add(trace: Trace, node: Node, weight: int = 1, bias: int = 2) -> Traced:
    """The channels of a Gemm. `weight`, `bias`: input numbers."""
    first = (2, 0) if node.int_attribute("transA", 0) else (0, 2)
    second = (1, 2) if node.int_attribute("transB", 0) else (2, 1)
    made = meet(trace, node, [Operand(0, first), Operand(weight, second, Role.MAKES)], 2, makes=True)
    added = trace.dims(node.inputs[bias]) if node.has_input(bias) else ()
    for factor in made:
        let_meet(trace, node, Operand(bias, letters_of(added or (), 2), Role.SHIFTS), factor)
    trace.give(node, made, rank=2)
    return made


def by_letters(trace: Trace, node: Node) -> None:
    """Einsum: the letters of its equation, which say all; "..." and a letter twice in a term can't be followed."""
    terms, output = _terms(node.text_attribute("equation"))
    dims = [trace.dims(value) for value in node.inputs]
    named = [len(term) == len(set(term)) and term.isalpha() for term in (*terms, output)]
    fits = [each is not None and len(each) == len(term) for each, term in zip(dims, terms, strict=True)]
    if not all(named) or not all(fits):
        trace.bar(node, f"{said(node)} has an equation or inputs that can't be followed")
        return
    letters = [*output, *sorted(set("".join(terms)) - set(output))]
    operands = [
        Operand(index, tuple(NONE if size == 1 else letters.index(letter) for size, letter in pairs), Role.MAKES)
        for index, pairs in enumerate(
            zip(each or (), term, strict=True) for each, term in zip(dims, terms, strict=True)
        )
    ]
    trace.give(node, meet(trace, node, operands, len(output), makes=True))


def _terms(equation: str) -> tuple[list[str], str]:
    left, arrow, right = "".join(equation.split()).partition("->")
    once = "".join(sorted(letter for letter in set(left) - {","} if left.count(letter) == 1))
    return left.split(","), right if arrow else once


RULES = {
    ("", "Einsum"): by_letters,
    ("", "Conv"): convolution,
    ("", "ConvTranspose"): transposed_convolution,
    ("", "MatMul"): matrix_product,
    ("", "Gemm"): general_product,
}
