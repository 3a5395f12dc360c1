"""The op table: which input of which operator is a weight, and along which axes its units lie.

To teach oxiprune an operator, add a row here and a text model to the tests. Three kinds of rows: `WEIGHT_SLOTS`
(pruned), `OTHER_SLOTS` (known not to be a weight) and `UNCOVERED_SLOTS` (weights that can't be pruned yet); operators
that a weight may pass on its way have theirs in `layout.PASS_THROUGH`. Indices count inputs from 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from onnx_tools.graph_index import Node

CONTRIB = "com.microsoft"


@dataclass(frozen=True)
class UnitAxis:
    """Units of a stored tensor: slices along `axis` of its elements in row-major order, seen with `view_shape`.

    `groups` cuts axis 0 of the view in that many equal parts, each with its own units (axis > 0 then). Unit (g, c) of
    a grouped Conv's input channels is `w.reshape(view_shape)[g * O // groups : (g + 1) * O // groups, c]`.
    """

    view_shape: tuple[int, ...]
    axis: int
    groups: int = 1

    @property
    def units(self) -> int:
        """How many units there are."""
        return self.groups * self.view_shape[self.axis]

    def partition(self) -> tuple[int, ...]:
        """Equal for two axes that cut the tensor into the same units, whatever their view shapes."""
        before, size, after = self.view_shape[: self.axis], self.view_shape[self.axis], self.view_shape[self.axis + 1 :]
        if self.groups > 1:
            return (self.groups, before[0], prod(before[1:]), size, prod(after))
        return (1, 1, prod(before), size, prod(after)) if size > 1 else (1, 1, 1, 1, prod(self.view_shape))


@dataclass(frozen=True)
class WeightSlot:
    """Input `index` of an operator holds a weight.

    `output`, `reduction`: its axes of output channels and of the sum, negative from the end. `swapped_by`: the
    attribute that exchanges them (Gemm's transB). `groups`: the attribute that says into how many groups axis 0 is
    cut, or `FIRST_AXIS` where each entry of axis 0 stands alone (the directions of an LSTM).
    """

    op_type: str
    index: int
    output: int
    reduction: int
    domain: str = ""
    swapped_by: str = ""
    groups: str = ""

    def axes(self, node: Node, rank: int) -> tuple[int | None, int | None]:
        """(output axis, reduction axis) of a weight with `rank` axes; None where it has no such axis.

        A vector (MatMul of one) has nothing but the axis that is summed.
        """
        pair = (self.output, self.reduction)
        if self.swapped_by and node.int_attribute(self.swapped_by, 0):
            pair = (self.reduction, self.output)
        if rank == 1:
            return None, 0
        output, reduction = (axis if -rank <= axis < rank else None for axis in pair)
        return (None if output is None else output % rank), (None if reduction is None else reduction % rank)

    def group_count(self, node: Node, first_axis: int | None) -> int | None:
        """Groups of axis 0, which has `first_axis` entries; None where that is not known."""
        if self.groups == FIRST_AXIS:
            return first_axis
        return node.int_attribute(self.groups, 1) if self.groups else 1

    def is_depthwise(self, node: Node, shape: tuple[int | None, ...]) -> bool:
        """Whether each group of a grouped convolution reads a single channel."""
        groups = self.group_count(node, None)
        if groups is None or groups <= 1 or len(shape) < 2:
            return False
        return shape[self.reduction] == (groups if self.reduction == 0 else 1)


@dataclass(frozen=True)
class OtherSlot:
    """Inputs `indices` of an operator, and `what` they are. No indices: every input."""

    op_type: str
    indices: tuple[int, ...]
    what: str
    domain: str = ""


FIRST_AXIS = "axis 0"

WEIGHT_SLOTS = (
    WeightSlot("MatMul", 0, output=-2, reduction=-1),
    WeightSlot("MatMul", 1, output=-1, reduction=-2),
    WeightSlot("Gemm", 0, output=0, reduction=1, swapped_by="transA"),
    WeightSlot("Gemm", 1, output=1, reduction=0, swapped_by="transB"),
    WeightSlot("Conv", 1, output=0, reduction=1, groups="group"),
    WeightSlot("ConvTranspose", 1, output=1, reduction=0, groups="group"),
    *(
        WeightSlot(op_type, index, output=1, reduction=2, groups=FIRST_AXIS)
        for op_type in ("LSTM", "GRU", "RNN")
        for index in (1, 2)
    ),
)

OTHER_SLOTS = (
    OtherSlot("Conv", (2,), "bias"),
    OtherSlot("ConvTranspose", (2,), "bias"),
    OtherSlot("DeformConv", (3,), "bias"),
    OtherSlot("Gemm", (2,), "bias"),
    *(OtherSlot(op_type, (3,), "bias") for op_type in ("LSTM", "GRU", "RNN")),
    *(OtherSlot(op_type, (4,), "sequence lengths") for op_type in ("LSTM", "GRU", "RNN")),
    *(OtherSlot(op_type, (5,), "initial state") for op_type in ("LSTM", "GRU", "RNN")),
    OtherSlot("LSTM", (6,), "initial state"),
    OtherSlot("LSTM", (7,), "peepholes"),
    OtherSlot("BatchNormalization", (1, 2, 3, 4), "normalisation"),
    OtherSlot("LayerNormalization", (1, 2), "normalisation"),
    OtherSlot("InstanceNormalization", (1, 2), "normalisation"),
    OtherSlot("GroupNormalization", (1, 2), "normalisation"),
    OtherSlot("RMSNormalization", (1,), "normalisation"),
    *(OtherSlot("SimplifiedLayerNormalization", (1,), "normalisation", domain) for domain in ("", CONTRIB)),
    *(OtherSlot("SkipLayerNormalization", (2, 3), "normalisation", domain) for domain in ("", CONTRIB)),
    *(OtherSlot("SkipSimplifiedLayerNormalization", (2,), "normalisation", domain) for domain in ("", CONTRIB)),
    OtherSlot("LayerNormalization", (1, 2), "normalisation", CONTRIB),
    OtherSlot("GroupNorm", (1, 2), "normalisation", CONTRIB),
    OtherSlot("SkipLayerNormalization", (4,), "bias", CONTRIB),
    OtherSlot("EmbedLayerNormalization", (5, 6), "normalisation", CONTRIB),
    OtherSlot("PRelu", (1,), "slope"),
    OtherSlot("QuantizeLinear", (1,), "scale"),
    OtherSlot("QuantizeLinear", (2,), "zero point"),
    OtherSlot("DequantizeLinear", (1,), "scale"),
    OtherSlot("DequantizeLinear", (2,), "zero point"),
    OtherSlot("QuantizeLinear", (1,), "scale", CONTRIB),
    OtherSlot("QuantizeLinear", (2,), "zero point", CONTRIB),
    OtherSlot("DequantizeLinear", (1,), "scale", CONTRIB),
    OtherSlot("DequantizeLinear", (2,), "zero point", CONTRIB),
    OtherSlot("QLinearConv", (1, 4, 6), "scale"),
    OtherSlot("QLinearConv", (2, 5, 7), "zero point"),
    OtherSlot("QLinearConv", (8,), "bias"),
    OtherSlot("QLinearMatMul", (1, 4, 6), "scale"),
    OtherSlot("QLinearMatMul", (2, 5, 7), "zero point"),
    OtherSlot("MatMulInteger", (2, 3), "zero point"),
    OtherSlot("ConvInteger", (2, 3), "zero point"),
    OtherSlot("MatMulNBits", (2,), "scale", CONTRIB),
    OtherSlot("MatMulNBits", (3,), "zero point", CONTRIB),
    OtherSlot("MatMulNBits", (5,), "bias", CONTRIB),
    OtherSlot("QGemm", (1, 4, 7), "scale", CONTRIB),
    OtherSlot("QGemm", (2, 5, 8), "zero point", CONTRIB),
    OtherSlot("QGemm", (6,), "bias", CONTRIB),
    OtherSlot("FusedConv", (2,), "bias", CONTRIB),
    OtherSlot("FusedGemm", (2,), "bias", CONTRIB),
    OtherSlot("Attention", (2,), "bias", CONTRIB),
    OtherSlot("QAttention", (2,), "bias", CONTRIB),
    OtherSlot("QAttention", (3, 4), "scale", CONTRIB),
    OtherSlot("QAttention", (6, 7), "zero point", CONTRIB),
    OtherSlot("MultiHeadAttention", (3,), "bias", CONTRIB),
    OtherSlot("GroupQueryAttention", (7, 8), "rotary table", CONTRIB),
    OtherSlot("RotaryEmbedding", (2, 3), "rotary table", CONTRIB),
)

UNCOVERED_SLOTS = (
    OtherSlot("QLinearConv", (3,), "quantised weight"),
    OtherSlot("QLinearMatMul", (0, 3), "quantised weight"),
    OtherSlot("MatMulInteger", (0, 1), "quantised weight"),
    OtherSlot("ConvInteger", (1,), "quantised weight"),
    OtherSlot("DeformConv", (1,), "weight"),
    OtherSlot("Gather", (0,), "embedding or table"),
    OtherSlot("Einsum", (), "weight"),
    OtherSlot("MatMulNBits", (1,), "quantised weight", CONTRIB),
    OtherSlot("MatMulBnb4", (1,), "quantised weight", CONTRIB),
    OtherSlot("MatMulIntegerToFloat", (0, 1), "quantised weight", CONTRIB),
    OtherSlot("DynamicQuantizeMatMul", (1,), "quantised weight", CONTRIB),
    OtherSlot("DynamicQuantizeLSTM", (1, 2), "quantised weight", CONTRIB),
    OtherSlot("QGemm", (0, 3), "quantised weight", CONTRIB),
    OtherSlot("QAttention", (1,), "quantised weight", CONTRIB),
    OtherSlot("GatherBlockQuantized", (0,), "quantised embedding", CONTRIB),
    OtherSlot("Attention", (1,), "weight", CONTRIB),
    OtherSlot("MultiHeadAttention", (0, 1, 2), "weight", CONTRIB),
    OtherSlot("GroupQueryAttention", (0, 1, 2), "weight", CONTRIB),
    OtherSlot("FusedMatMul", (0, 1), "weight", CONTRIB),
    OtherSlot("FusedConv", (1,), "weight", CONTRIB),
    OtherSlot("FusedGemm", (0, 1), "weight", CONTRIB),
    OtherSlot("NhwcConv", (1,), "weight", CONTRIB),
    OtherSlot("ConvTransposeWithDynamicPads", (1,), "weight", CONTRIB),
    OtherSlot("EmbedLayerNormalization", (2, 3, 4), "embedding", CONTRIB),
    OtherSlot("MoE", (2, 4, 6), "weight", CONTRIB),
    OtherSlot("QMoE", (2, 5, 8), "quantised weight", CONTRIB),
    OtherSlot("If", (), "data passed into a subgraph"),
    OtherSlot("Loop", (), "data passed into a subgraph"),
    OtherSlot("Scan", (), "data passed into a subgraph"),
    OtherSlot("SequenceMap", (), "data passed into a subgraph"),
)

HARMLESS = frozenset({("", "Shape", 0), ("", "Size", 0), ("", "CastLike", 1)})
"""(domain, op type, input): reads the shape or the type, never the values."""

_WEIGHTS = {(slot.domain, slot.op_type, slot.index): slot for slot in WEIGHT_SLOTS}


def _table(rows: Iterable[OtherSlot]) -> dict[tuple[str, str, int | None], OtherSlot]:
    return {(row.domain, row.op_type, index): row for row in rows for index in row.indices or (None,)}


_OTHERS = _table(OTHER_SLOTS)
_UNCOVERED = _table(UNCOVERED_SLOTS)


def weight_slot(node: Node, index: int) -> WeightSlot | None:
    """The row for input `index` of `node` if that is a weight."""
    return _WEIGHTS.get((node.domain, node.op_type, index))


def other_slot(node: Node, index: int) -> OtherSlot | None:
    """The row for input `index` of `node` if that is known not to be a weight."""
    return _OTHERS.get((node.domain, node.op_type, index))


def uncovered_slot(node: Node, index: int) -> OtherSlot | None:
    """The row for input `index` of `node` if that is a weight which can't be pruned yet."""
    key = (node.domain, node.op_type)
    return _UNCOVERED.get((*key, index)) or _UNCOVERED.get((*key, None))
