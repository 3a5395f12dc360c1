"""Weights in blocks, several codes to a byte: those of com.microsoft MatMulNBits and GatherBlockQuantized.

Input 1 of MatMulNBits, of uint8, has the shape (N, blocks, blob): N output channels, the K input channels of each in
blocks of `block_size`, the last one padded, a blob of `block_size * bits / 8` bytes each, filled from the low bits up.
The scales are (N, blocks), in that order; zero points are packed like the codes, each row from a new byte on, and
2^(bits - 1) where they are not given.

Input 0 of GatherBlockQuantized has blocks along quantize_axis. A uint8 tensor holds codes of 2, 4 or 8 bits, packed
along its last axis as above, but without padding; other types hold them unpacked, and their zero point is 0 by default.
Source: docs/ContribOperators.md of onnxruntime.
"""

from __future__ import annotations

from math import prod

from onnx_tools.graph_parts import Node
from onnx_tools.layout import Layout
from onnx_tools.operators import Quantised
from onnx_tools.quantisation.kinds import PACKED, Kind
from onnx_tools.quantisation.parameters import GridOf, Sharing, quantisation_of, scale_at, zero_point_at
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
    return _packed_lines(node, inputs, (lines, line), block, kind, blocks * block)


def table_quantisation(node: Node, inputs: Quantised, layout: Layout, kind: Kind) -> Quantisation | str:
    """How GatherBlockQuantized `node` reads a tensor of `kind` in `layout`, or why that can't be known."""
    sizes = layout.row_major_shape()
    axis, block = node.int_attribute("quantize_axis", 1), node.int_attribute("block_size", 128)
    if sizes is None or not -len(sizes) <= axis < len(sizes) or block < 0:
        return f"blocks of {block} along axis {axis} are impossible, or the table is rearranged before"
    assert inputs.scale is not None
    if kind.name != "uint8":
        sharing = Sharing(layout, axis, block or sizes[axis])
        scale = scale_at(node, inputs.scale, sharing.grid_of)
        zero_point = zero_point_at(node, inputs.zero_point, kind, sharing.grid_of)
        return quantisation_of(Quantisation(kind, layout.stored), scale, zero_point)
    codes = PACKED.get(node.int_attribute("bits", 4))
    if codes is None or axis % len(sizes) != len(sizes) - 1 or not block:
        return "its codes are packed in a way that is not known"
    return _packed_lines(node, inputs, (*sizes[:-1], sizes[-1] * codes.per_byte), block, codes)


def _packed_lines(
    node: Node, inputs: Quantised, shape: tuple[int, ...], block: int, kind: Kind, pitch: int = 0
) -> Quantisation | str:
    """Lines of packed codes with a scale for each block, the zero points of a line packed like the codes."""
    lines, line = prod(shape[:-1]), pitch or shape[-1]
    blocks = -(-line // block)
    assert inputs.scale is not None
    scale = scale_at(node, inputs.scale, _grid_of(line, block, lines * blocks))
    bytes_of_zeros = lines * kind.bytes_for(blocks)
    zero_point = zero_point_at(node, inputs.zero_point, kind, _grid_of(line, block, bytes_of_zeros), blocks)
    quantisation = Quantisation(kind, shape, zero_code=1 << (kind.bits - 1), pitch=pitch)
    return quantisation_of(quantisation, scale, zero_point)


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


def _grid_of(line: int, block: int, elements: int) -> GridOf:
    """Which parameter belongs to which code of lines in blocks, if there are so many `elements` of them."""

    def grid_of(shape: tuple[int, ...]) -> Grid | str:
        if prod(shape) != elements:
            return f"of shape {list(shape)} has not the {elements} elements that blocks of {block} ask for"
        return Grid(line, 1, block)

    return grid_of
