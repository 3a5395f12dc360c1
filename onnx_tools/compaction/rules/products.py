"""Convolutions and matrix products: they sum over the channels that come in and make new ones."""

from __future__ import annotations

import numpy as np

from onnx_tools.compaction.adjustments import Counts
from onnx_tools.compaction.channels import Ids
from onnx_tools.compaction.factors import Factor
from onnx_tools.compaction.roles import Role
from onnx_tools.compaction.rules.meeting import NONE, Operand, meet
from onnx_tools.compaction.trace import Trace, said
from onnx_tools.graph_parts import Node

_WINDOWS = "moves a window over it"


def convolution(trace: Trace, node: Node) -> None:
    """Conv: weight (M, C / group, ...), bias (M)."""
    _convolve(trace, node, out_axis=0, in_axis=1)


def transposed_convolution(trace: Trace, node: Node) -> None:
    """ConvTranspose: weight (C, M / group, ...), bias (M)."""
    _convolve(trace, node, out_axis=1, in_axis=0)


def _convolve(trace: Trace, node: Node, out_axis: int, in_axis: int) -> None:
    ids = trace.along(node, 0, 1, _WINDOWS)
    sizes = trace.dims(node.inputs[1])
    groups = node.int_attribute("group", 1)
    if sizes is None or len(sizes) < 2 or not all(isinstance(size, int) for size in sizes[:2]):
        trace.bar(node, f"{said(node)} has a weight of unknown shape")
        return
    out_size, in_size = int(sizes[out_axis] or 0), int(sizes[in_axis] or 0)
    if groups == 1:
        made = trace.channels.new(out_size, node.label)
        trace.meet(node, 1, Factor((out_axis,), made), Role.MAKES)
        if ids is not None:
            trace.meet(node, 1, Factor((in_axis,), ids), Role.READS)
    else:
        per_in, per_out = (in_size, out_size // groups) if in_axis == 1 else (in_size // groups, out_size)
        if ids is None or len(ids) != groups * per_in:
            ids = np.repeat(trace.channels.staying(1, f"{said(node)} reads what stays as it is"), groups * per_in)
        whole = groups >= per_in
        made = (_whole_groups if whole else _inside_groups)(trace, node, ids.reshape(groups, per_in), per_out, out_axis)
    trace.meet(node, 2, Factor((0,), made), Role.SHIFTS)
    trace.give(node, (Factor((1,), made),))


def _whole_groups(trace: Trace, node: Node, ids: Ids, per_out: int, out_axis: int) -> Ids:
    """Many groups, each of few channels (depthwise: of one): each goes whole, with what it reads and makes."""
    groups = trace.channels.new(len(ids), node.label)
    trace.channels.tie(ids, groups[:, None])
    stored = np.repeat(groups, per_out if out_axis == 0 else ids.shape[1])
    trace.meet(node, 1, Factor((0,), stored), Role.MAKES)
    value = node.inputs[0]
    if value is not None:
        trace.adjustments.append(Counts(node, "group", value, 1, ids.shape[1]))
    return np.repeat(groups, per_out)


def _inside_groups(trace: Trace, node: Node, ids: Ids, per_out: int, out_axis: int) -> Ids:
    """Few groups: all stay, and all lose the same of their channels."""
    trace.channels.tie(ids, ids[:1])
    made = trace.channels.new(per_out, node.label)
    if out_axis == 0:
        trace.meet(node, 1, Factor((0,), np.tile(made, len(ids))), Role.MAKES)
        trace.meet(node, 1, Factor((1,), ids[0]), Role.READS)
    else:
        trace.meet(node, 1, Factor((1,), made), Role.MAKES)
        trace.meet(node, 1, Factor((0,), ids.reshape(-1)), Role.READS)
    return np.tile(made, len(ids))


def matrix_product(trace: Trace, node: Node) -> None:
    """MatMul: (..., M, K) by (..., K, N); the batch axes are broadcast."""
    first, second = trace.dims(node.inputs[0]), trace.dims(node.inputs[1])
    if first is None or second is None or min(len(first), len(second)) < 2:
        trace.bar(node, f"{said(node)} has an input of unknown shape, or of one axis; --input-shape may tell it")
        return
    rank = max(len(first), len(second))
    summed = rank
    operands = []
    for index, dims, inner in ((0, first, (rank - 2, summed)), (1, second, (summed, rank - 1))):
        batch = range(rank - len(dims), rank - 2)
        letters = tuple(NONE if dims[i] == 1 else axis for i, axis in enumerate(batch))
        operands.append(Operand(index, (*letters, *inner), Role.MAKES))
    trace.give(node, meet(trace, node, operands, rank, makes=True))


def general_product(trace: Trace, node: Node) -> None:
    """Gemm: A (M, K) or (K, M), B (K, N) or (N, K), C broadcast to (M, N)."""
    first = (2, 0) if node.int_attribute("transA", 0) else (0, 2)
    second = (1, 2) if node.int_attribute("transB", 0) else (2, 1)
    made = meet(trace, node, [Operand(0, first), Operand(1, second, Role.MAKES)], 2, makes=True)
    bias = trace.dims(node.inputs[2]) if node.has_input(2) else None
    for factor in made if bias is not None else ():
        axis = factor.axes[0] - (2 - len(bias or ()))
        if len(factor.axes) == 1 and axis >= 0 and (bias or ())[axis] != 1:
            trace.meet(node, 2, Factor((axis,), factor.ids), Role.SHIFTS)
    trace.give(node, made)


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
