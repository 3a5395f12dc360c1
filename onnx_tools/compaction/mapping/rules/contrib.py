"""Operators of onnxruntime that fuse several of ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_tools.compaction.mapping.adjustments import Counts
from onnx_tools.compaction.mapping.channels import Ids
from onnx_tools.compaction.mapping.factors import Factor
from onnx_tools.compaction.mapping.roles import Role
from onnx_tools.compaction.mapping.rules.elementwise import adding
from onnx_tools.compaction.mapping.rules.products import convolve, general_product, multiply
from onnx_tools.compaction.mapping.stand_ins import batched_order
from onnx_tools.compaction.mapping.trace import Trace, said
from onnx_tools.graph_parts import Node
from onnx_tools.operators import CONTRIB


def fused_convolution(trace: Trace, node: Node) -> None:
    """FusedConv: Conv, then perhaps a sum with Z, then an activation of each element."""
    made = convolve(trace, node)
    if made is not None and node.has_input(3):
        trace.only(node, 3, (1,), f"{said(node)} adds it")
        trace.meet(node, 3, Factor((1,), made), Role.SHIFTS)


def fused_product(trace: Trace, node: Node) -> None:
    """FusedMatMul: MatMul behind transBatch (axis 0 goes behind the batch axes) and trans (of the last two)."""
    multiply(trace, node, order=lambda index, rank: _order(node, "AB"[index], rank))


def _order(node: Node, letter: str, rank: int) -> Sequence[int]:
    """The axes of an operand in the order in which MatMul would have them."""
    batch, last = (bool(node.int_attribute(f"{name}{letter}", 0)) for name in ("transBatch", "trans"))
    return batched_order(rank, batch=batch, last=last)


def packed_product(trace: Trace, node: Node) -> None:
    """MatMulNBits: rows of A times a weight (N, blocks along K, bytes), with scales and zero points; then a bias (N).

    Blocks are packed, so that all of K stays.
    """
    rank, packed, count = trace.rank(node.inputs[0]), trace.dims(node.inputs[1]), node.int_attribute("N", 0)
    if rank is None or packed is None or packed[0] != count or node.outputs[0] is None:
        trace.bar(node, f"{said(node)} has an input of unknown shape; --input-shape may tell it")
        return
    passing = trace.narrow(node, 0, (rank - 1,), "multiplies it with packed blocks")
    made = trace.channels.new(count, node.label)
    trace.meet(node, 1, Factor((0,), made), Role.MAKES)
    for index, role in ((2, Role.DESCRIBES), (3, Role.DESCRIBES), (5, Role.SHIFTS)):
        if node.has_input(index):
            _meet_rows(trace, node, index, made, role)
    trace.adjustments.append(Counts(node, "N", node.outputs[0], rank - 1))
    trace.give(node, (*passing, Factor((rank - 1,), made)), rank=rank)


def _meet_rows(trace: Trace, node: Node, index: int, made: Ids, role: Role) -> None:
    """Numbers for each row: along axis 0, or one row behind the other in a list."""
    dims = trace.dims(node.inputs[index])
    size = dims[0] if dims else None
    if not isinstance(size, int) or size % len(made):
        trace.channels.fix(made, f"{said(node)} has an input of unknown shape; --input-shape may tell it")
        return
    trace.meet(node, index, Factor((0,), np.repeat(made, size // len(made))), role)


_SUMS = ("BiasGelu", "FastGelu", "BiasAdd")

RULES = {
    (CONTRIB, "FusedConv"): fused_convolution,
    (CONTRIB, "FusedMatMul"): fused_product,
    (CONTRIB, "TransposeMatMul"): fused_product,
    (CONTRIB, "FusedGemm"): general_product,
    (CONTRIB, "MatMulNBits"): packed_product,
    **{(CONTRIB, name): adding for name in _SUMS},
}
