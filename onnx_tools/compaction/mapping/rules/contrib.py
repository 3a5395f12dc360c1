"""Operators of onnxruntime that fuse several of ONNX."""

from __future__ import annotations

from collections.abc import Sequence

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
    """MatMulNBits: rows of A times a weight of which blocks along K are packed into bytes, so that it stays whole."""
    rank = trace.rank(node.inputs[0])
    if rank is None:
        trace.bar(node, f"{said(node)} has an input of unknown shape; --input-shape may tell it")
        return
    trace.give(node, trace.narrow(node, 0, (rank - 1,), "multiplies it with packed blocks"), rank=rank)


_SUMS = ("BiasGelu", "FastGelu", "BiasAdd")

RULES = {
    (CONTRIB, "FusedConv"): fused_convolution,
    (CONTRIB, "FusedMatMul"): fused_product,
    (CONTRIB, "TransposeMatMul"): fused_product,
    (CONTRIB, "FusedGemm"): general_product,
    (CONTRIB, "MatMulNBits"): packed_product,
    **{(CONTRIB, name): adding for name in _SUMS},
}
