"""Weights of com.microsoft MatMulNBits: codes of 2, 4 or 8 bits packed into bytes, a scale for each block of a row.

Input 1, of uint8, has the shape (N, blocks, blob): N output channels, the K input channels of each in blocks of
`block_size`, the last one padded, a blob of `block_size * bits / 8` bytes each, filled from the low bits up. The scales
are (N, blocks), in that order; zero points are packed like the codes, each row from a new byte on, and 2^(bits - 1)
where they are not given. Source: docs/ContribOperators.md of onnxruntime.
"""

from __future__ import annotations

from math import prod

from onnx_tools.graph_parts import Node
from onnx_tools.layout import Layout
from onnx_tools.operators import Quantised
from onnx_tools.quantisation.kinds import PACKED, Kind
from onnx_tools.quantisation.parameters import GridOf, quantisation_of, scale_at, zero_point_at
from onnx_tools.quantisation.scheme import Grid, Quantisation


def packed_quantisation(node: Node, inputs: Quantised, layout: Layout) -> Quantisation | str:
    """How MatMulNBits `node` reads a tensor in `layout`, or why that can't be known."""
    packing = _packing(node)
    if isinstance(packing, str):
        return packing
    kind, lines, line, block = packing
    blocks = -(-line // block)
    if layout.row_major_shape() is None or prod(layout.stored) != kind.bytes_for(lines * blocks * block):
        return f"shape {list(layout.stored)} does not fit N = {lines}, K = {line} and blocks of {block} codes"
    assert inputs.scale is not None
    scale = scale_at(node, inputs.scale, _grid_of(blocks, block, lines * blocks))
    row = kind.bytes_for(blocks)
    zero_point = zero_point_at(node, inputs.zero_point, kind, _grid_of(blocks, block, lines * row), blocks)
    return quantisation_of(
        Quantisation(kind, (lines, line), zero_code=1 << (kind.bits - 1), pitch=blocks * block), scale, zero_point
    )


def _packing(node: Node) -> tuple[Kind, int, int, int] | str:
    """The attributes of the node: kind of the codes, N, K, block_size; or what is wrong with them."""
    lines, line = node.int_attribute("N", 0), node.int_attribute("K", 0)
    bits, block = node.int_attribute("bits", 4), node.int_attribute("block_size", 0)
    if bits not in PACKED:
        return f"codes of {bits} bits are not known"
    if node.has_input(4) or node.int_attribute("weight_prepacked", 0):
        return "its order is given by g_idx, or known to one device only"
    if min(lines, line) < 1 or block < 16 or block & (block - 1):
        return f"N = {lines}, K = {line} and block_size = {block} are impossible"
    return PACKED[bits], lines, line, block


def _grid_of(blocks: int, block: int, elements: int) -> GridOf:
    """Which parameter belongs to which code, if there are so many `elements` of them."""

    def grid_of(shape: tuple[int, ...]) -> Grid | str:
        if prod(shape) != elements:
            return f"of shape {list(shape)} has not the {elements} elements that {blocks} blocks a row ask for"
        return Grid(blocks * block, 1, block)

    return grid_of
