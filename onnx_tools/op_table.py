"""The op table: which input of which operator is a weight, and along which axes its units lie.

To teach oxiprune an operator, add a row here and a text model to the tests. Kinds of rows: `WEIGHT_SLOTS` and
`ATTRIBUTE_SLOTS` (pruned), `OTHER_SLOTS` (known not to be a weight) and `UNCOVERED_SLOTS` (weights that can't be pruned
yet); operators that a weight may pass on its way have theirs in `layout.PASS_THROUGH`. Indices count inputs from 0.
"""

from __future__ import annotations

from collections.abc import Iterable

from onnx_tools.einsum import is_contracted, operand_axes, operand_runs
from onnx_tools.graph_parts import Node
from onnx_tools.operators import (
    CONTRIB,
    EMBEDDING,
    FIRST_AXIS,
    LINEAR_MODEL,
    PACKED_ROWS,
    TABLE,
    AttributeSlot,
    Axes,
    OtherSlot,
    Quantised,
    WeightSlot,
)

_MOST_TERMS = 8
"""Operands of an Einsum that are looked at."""


def _einsum_axes(node: Node, index: int, rank: int) -> Axes:
    return operand_axes(node.text_attribute("equation"), index, rank)


def _einsum_runs(node: Node, index: int, rank: int) -> tuple[range | None, range | None]:
    return operand_runs(node.text_attribute("equation"), index, rank)


def _contracted(node: Node, index: int, rank: int | None) -> bool:
    return is_contracted(node.text_attribute("equation"), index)


def _table_axes(node: Node, index: int, rank: int) -> Axes:
    """Of a table of two axes, one is looked up and the other holds the channels."""
    axis = node.int_attribute("axis", 0)
    return (1 - axis % 2 if rank == 2 and -2 <= axis < 2 else None), None


def _block_table_axes(node: Node, index: int, rank: int) -> Axes:
    axis = node.int_attribute("gather_axis", 0)
    return (1 - axis % 2 if rank == 2 and -2 <= axis < 2 else None), None


def _is_table(node: Node, index: int, rank: int | None) -> bool:
    return rank is None or rank == 2


def _expert_axes(node: Node, index: int, rank: int) -> Axes:
    """(experts, output, input) as documented since onnxruntime 1.23; (experts, input, output) if only the bias fits."""
    weight, bias = node.input_shape(index), node.input_shape(index + 1)
    if rank != 3:
        return None, None
    if weight is not None and bias is not None and len(weight) == 3 and len(bias) == 2:
        return (2, 1) if bias[1] == weight[2] != weight[1] else (1, 2)
    return 1, 2


_FUSED_PRODUCTS = (
    *(
        WeightSlot(op_type, index, out, summed, CONTRIB, swapped_by=f"trans{side}", rotated_by=f"transBatch{side}")
        for op_type in ("FusedMatMul", "FusedMatMulActivation", "TransposeMatMul")
        for index, side, out, summed in ((0, "A", -2, -1), (1, "B", -1, -2))
    ),
    *(
        WeightSlot(op_type, index, out, summed, CONTRIB, swapped_by=f"trans{side}")
        for op_type in ("FusedGemm", "GemmFloat8")
        for index, side, out, summed in ((0, "A", 0, 1), (1, "B", 1, 0))
    ),
    WeightSlot("GemmFastGelu", 1, output=-1, reduction=-2, domain=CONTRIB),
)
"""Weights of com.microsoft's MatMul and Gemm. transBatch moves axis 0 behind the batch axes, before trans swaps."""

_FUSED_CONVOLUTIONS = (
    *(
        WeightSlot(op_type, 1, output=0, reduction=1, domain=CONTRIB, groups="group")
        for op_type in ("FusedConv", "NhwcConv", "NhwcFusedConv")
    ),
    WeightSlot("ConvTransposeWithDynamicPads", 1, output=1, reduction=0, domain=CONTRIB, groups="group"),
)
"""Kernels of com.microsoft's convolutions: (M, C / group, ...) for the channels-last ones too."""

_PROJECTIONS = (
    *(
        WeightSlot(op_type, 1, output=1, reduction=0, domain=CONTRIB)
        for op_type in ("Attention", "PackedAttention", "DecoderMaskedSelfAttention", "LongformerAttention")
    ),
    WeightSlot("LongformerAttention", 4, output=1, reduction=0, domain=CONTRIB),
    *(WeightSlot("DecoderAttention", index, output=1, reduction=0, domain=CONTRIB) for index in (2, 3)),
    *(WeightSlot("AttnLSTM", index, 1, 2, domain=CONTRIB, groups=FIRST_AXIS) for index in (1, 2)),
    *(WeightSlot("AttnLSTM", index, 2, 1, domain=CONTRIB, groups=FIRST_AXIS) for index in (8, 9, 13)),
    *(WeightSlot("MoE", index, 1, 2, domain=CONTRIB, groups=FIRST_AXIS, axes_of=_expert_axes) for index in (2, 4, 6)),
)
"""Weights that com.microsoft's attention holds itself, Q, K and V side by side: (input_hidden, 3 * hidden)."""

_CONTRIB_TABLES = (
    *(WeightSlot("EmbedLayerNormalization", index, 1, None, CONTRIB, kind=EMBEDDING) for index in (2, 3, 4)),
    WeightSlot("TorchEmbedding", 0, 1, None, CONTRIB, kind=EMBEDDING),
)

_QUANTISED = (
    *(
        WeightSlot("QLinearConv", 3, output=0, reduction=1, domain=domain, groups="group", quantised=Quantised(4, 5))
        for domain in ("", CONTRIB)
    ),
    WeightSlot("QLinearMatMul", 0, output=-2, reduction=-1, quantised=Quantised(1, 2)),
    WeightSlot("QLinearMatMul", 3, output=-1, reduction=-2, quantised=Quantised(4, 5)),
    WeightSlot("MatMulInteger", 0, output=-2, reduction=-1, quantised=Quantised(None, 2)),
    WeightSlot("MatMulInteger", 1, output=-1, reduction=-2, quantised=Quantised(None, 3)),
    WeightSlot("ConvInteger", 1, output=0, reduction=1, groups="group", quantised=Quantised(None, 3)),
    WeightSlot("MatMulIntegerToFloat", 1, output=-1, reduction=-2, domain=CONTRIB, quantised=Quantised(3, 5)),
    WeightSlot("DynamicQuantizeMatMul", 1, output=-1, reduction=-2, domain=CONTRIB, quantised=Quantised(2, 3)),
    WeightSlot("QGemm", 0, output=0, reduction=1, domain=CONTRIB, swapped_by="transA", quantised=Quantised(1, 2)),
    WeightSlot("QGemm", 3, output=1, reduction=0, domain=CONTRIB, swapped_by="transB", quantised=Quantised(4, 5)),
    WeightSlot("QAttention", 1, output=1, reduction=0, domain=CONTRIB, quantised=Quantised(4, 7)),
    *(
        WeightSlot("QEmbedLayerNormalization", i, 1, None, CONTRIB, kind=EMBEDDING, quantised=Quantised(i + 6, i + 11))
        for i in (2, 3, 4)
    ),
    WeightSlot(
        "GatherBlockQuantized",
        0,
        output=1,
        reduction=None,
        domain=CONTRIB,
        axes_of=_block_table_axes,
        kind=EMBEDDING,
        quantised=Quantised(2, 3, TABLE),
    ),
    WeightSlot("MatMulNBits", 1, output=0, reduction=1, domain=CONTRIB, quantised=Quantised(2, 3, PACKED_ROWS)),
    *(
        WeightSlot(
            "DynamicQuantizeLSTM",
            index,
            output=2,
            reduction=1,
            domain=CONTRIB,
            groups=FIRST_AXIS,
            quantised=Quantised(6 + 2 * index, 7 + 2 * index),
        )
        for index in (1, 2)
    ),
)

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
    WeightSlot("DeformConv", 1, output=0, reduction=1, groups="group"),
    *(
        WeightSlot(
            "Einsum", index, output=-1, reduction=-2, axes_of=_einsum_axes, runs_of=_einsum_runs, when=_contracted
        )
        for index in range(_MOST_TERMS)
    ),
    WeightSlot("Gather", 0, output=1, reduction=None, axes_of=_table_axes, when=_is_table, kind=EMBEDDING),
    *_FUSED_PRODUCTS,
    *_FUSED_CONVOLUTIONS,
    *_PROJECTIONS,
    *_CONTRIB_TABLES,
    *_QUANTISED,
)
"""Sources: the operators' pages of the ONNX specification; of onnxruntime's, docs/ContribOperators.md (1.32)."""

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
    OtherSlot("QEmbedLayerNormalization", (5, 6), "normalisation", CONTRIB),
    OtherSlot("QEmbedLayerNormalization", tuple(range(8, 13)), "scale", CONTRIB),
    OtherSlot("QEmbedLayerNormalization", tuple(range(13, 18)), "zero point", CONTRIB),
    OtherSlot("GatherBlockQuantized", (2,), "scale", CONTRIB),
    OtherSlot("GatherBlockQuantized", (3,), "zero point", CONTRIB),
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
    OtherSlot("QLinearConv", (1, 4, 6), "scale", CONTRIB),
    OtherSlot("QLinearConv", (2, 5, 7), "zero point", CONTRIB),
    OtherSlot("QLinearConv", (8,), "bias", CONTRIB),
    OtherSlot("MatMulIntegerToFloat", (2, 3), "scale", CONTRIB),
    OtherSlot("MatMulIntegerToFloat", (4, 5), "zero point", CONTRIB),
    OtherSlot("MatMulIntegerToFloat", (6,), "bias", CONTRIB),
    OtherSlot("DynamicQuantizeMatMul", (2,), "scale", CONTRIB),
    OtherSlot("DynamicQuantizeMatMul", (3,), "zero point", CONTRIB),
    OtherSlot("DynamicQuantizeMatMul", (4,), "bias", CONTRIB),
    OtherSlot("DynamicQuantizeLSTM", (3,), "bias", CONTRIB),
    OtherSlot("DynamicQuantizeLSTM", (4,), "sequence lengths", CONTRIB),
    OtherSlot("DynamicQuantizeLSTM", (5, 6), "initial state", CONTRIB),
    OtherSlot("DynamicQuantizeLSTM", (7,), "peepholes", CONTRIB),
    OtherSlot("DynamicQuantizeLSTM", (8, 10), "scale", CONTRIB),
    OtherSlot("DynamicQuantizeLSTM", (9, 11), "zero point", CONTRIB),
    OtherSlot("MatMulNBits", (2,), "scale", CONTRIB),
    OtherSlot("MatMulNBits", (3,), "zero point", CONTRIB),
    OtherSlot("MatMulNBits", (5,), "bias", CONTRIB),
    OtherSlot("QGemm", (1, 4, 7), "scale", CONTRIB),
    OtherSlot("QGemm", (2, 5, 8), "zero point", CONTRIB),
    OtherSlot("QGemm", (6,), "bias", CONTRIB),
    *(
        OtherSlot(op_type, (2,), "bias", CONTRIB)
        for op_type in (
            "FusedConv",
            "NhwcConv",
            "NhwcFusedConv",
            "FusedGemm",
            "GemmFloat8",
            "GemmFastGelu",
            "Attention",
            "PackedAttention",
            "DecoderMaskedSelfAttention",
            "CausalConvWithState",
        )
    ),
    *(
        OtherSlot(op_type, (1,), "bias", CONTRIB)
        for op_type in ("BiasAdd", "BiasDropout", "BiasGelu", "BiasSplitGelu", "BitmaskBiasDropout", "FastGelu")
    ),
    OtherSlot("SkipGroupNorm", (1, 2), "normalisation", CONTRIB),
    OtherSlot("SkipGroupNorm", (4,), "bias", CONTRIB),
    OtherSlot("GatedRMSNorm", (1,), "normalisation", CONTRIB),
    OtherSlot("RMSNormRotary", (1,), "normalisation", CONTRIB),
    OtherSlot("RMSNormRotary", (3, 4), "rotary table", CONTRIB),
    OtherSlot("SparseAttention", (9, 10), "rotary table", CONTRIB),
    OtherSlot("PagedAttention", (8, 9), "rotary table", CONTRIB),
    OtherSlot("PagedAttention", (12, 13), "normalisation", CONTRIB),
    OtherSlot("PackedMultiHeadAttention", (3,), "bias", CONTRIB),
    OtherSlot("DecoderMaskedMultiHeadAttention", (10,), "bias", CONTRIB),
    OtherSlot("RelativePositionBias", (0,), "table", CONTRIB),
    OtherSlot("LongformerAttention", (2, 5), "bias", CONTRIB),
    OtherSlot("DecoderAttention", (4,), "bias", CONTRIB),
    OtherSlot("ConvTransposeWithDynamicPads", (3,), "bias", CONTRIB),
    OtherSlot("AttnLSTM", (3,), "bias", CONTRIB),
    OtherSlot("MoE", (3, 5, 7), "bias", CONTRIB),
    OtherSlot("QAttention", (2,), "bias", CONTRIB),
    OtherSlot("QAttention", (3, 4), "scale", CONTRIB),
    OtherSlot("QAttention", (6, 7), "zero point", CONTRIB),
    OtherSlot("MultiHeadAttention", (3,), "bias", CONTRIB),
    *(
        OtherSlot(op_type, (0, 1, 2), "query, key or value", domain)
        for op_type, domain in (
            ("MultiHeadAttention", CONTRIB),
            ("PackedMultiHeadAttention", CONTRIB),
            ("DecoderMaskedMultiHeadAttention", CONTRIB),
            ("GroupQueryAttention", CONTRIB),
            ("SparseAttention", CONTRIB),
            ("PagedAttention", CONTRIB),
            ("Attention", ""),
        )
    ),
    OtherSlot("Attention", (3,), "mask"),
    OtherSlot("RotaryEmbedding", (1, 2), "rotary table"),
    *(OtherSlot("CausalConvWithState", (1,), "depthwise kernel", domain) for domain in ("", CONTRIB)),
    OtherSlot("CausalConvWithState", (2,), "bias"),
    OtherSlot("If", (), "condition"),
    OtherSlot("Loop", (), "state that the body changes"),
    OtherSlot("Scan", (), "state that the body changes, or entries one by one,"),
    OtherSlot("SequenceMap", (), "entries one by one"),
    OtherSlot("Gather", (0,), "table"),
    OtherSlot("Einsum", (), "operand that is summed with no other"),
    OtherSlot("GroupQueryAttention", (7, 8), "rotary table", CONTRIB),
    OtherSlot("RotaryEmbedding", (2, 3), "rotary table", CONTRIB),
)

UNCOVERED_SLOTS = (
    OtherSlot("MatMulBnb4", (1,), "quantised weight", CONTRIB),
    OtherSlot("MatMulIntegerToFloat", (0,), "quantised weight", CONTRIB),
    OtherSlot("QMoE", (2, 5, 8), "quantised weight", CONTRIB),
    OtherSlot("MatMulPacked", (1,), "quantised weight", CONTRIB),
    OtherSlot("MoEPacked", (2, 3, 4), "quantised weight", CONTRIB),
    OtherSlot("GatherPacked", (0,), "quantised embedding", CONTRIB),
    OtherSlot("RouterGateUpProj", (1,), "weight", CONTRIB),
)


def _regressor_outputs(node: Node) -> int:
    return node.int_attribute("targets", 1)


def _classifier_outputs(node: Node) -> int:
    """One set of coefficients a class, or an intercept."""
    names = ("intercepts", "classlabels_ints", "classlabels_strings")
    found = [node.attributes[name] for name in names if name in node.attributes]
    return next((n for n in (len(a.floats) + len(a.ints) + len(a.strings) for a in found) if n), 1)


ATTRIBUTE_SLOTS = (
    AttributeSlot("LinearClassifier", "coefficients", _classifier_outputs, "ai.onnx.ml", LINEAR_MODEL),
    AttributeSlot("LinearRegressor", "coefficients", _regressor_outputs, "ai.onnx.ml", LINEAR_MODEL),
)

HARMLESS = frozenset({("", "Shape", 0), ("", "Size", 0), ("", "CastLike", 1)})
"""(domain, op type, input): reads the shape or the type, never the values."""

LOOKED_UP = frozenset(slot.op_type for slot in WEIGHT_SLOTS if slot.kind == EMBEDDING)
"""Operators that look entries of an embedding up."""

_WEIGHTS = {(slot.domain, slot.op_type, slot.index): slot for slot in WEIGHT_SLOTS}


def _table(rows: Iterable[OtherSlot]) -> dict[tuple[str, str, int | None], OtherSlot]:
    return {(row.domain, row.op_type, index): row for row in rows for index in row.indices or (None,)}


_OTHERS = _table(OTHER_SLOTS)
_UNCOVERED = _table(UNCOVERED_SLOTS)


def weight_slot(node: Node, index: int, rank: int | None = None) -> WeightSlot | None:
    """The row for input `index` of `node` if that is a weight; `rank`: how many axes it has there, if that is known."""
    row = _WEIGHTS.get((node.domain, node.op_type, index))
    return None if row is None or (row.when is not None and not row.when(node, index, rank)) else row


def attribute_slot(node: Node, attribute: str) -> AttributeSlot | None:
    """The row for a list of floats that `node` holds itself if that is a weight."""
    wanted = (node.domain, node.op_type, attribute)
    found = (row for row in ATTRIBUTE_SLOTS if (row.domain, row.op_type, row.attribute) == wanted)
    return None if node.local else next(found, None)


def other_slot(node: Node, index: int) -> OtherSlot | None:
    """The row for input `index` of `node` if that is known not to be a weight."""
    return _row(_OTHERS, node, index)


def uncovered_slot(node: Node, index: int) -> OtherSlot | None:
    """The row for input `index` of `node` if that is a weight which can't be pruned yet."""
    return _row(_UNCOVERED, node, index)


def _row(table: dict[tuple[str, str, int | None], OtherSlot], node: Node, index: int) -> OtherSlot | None:
    key = (node.domain, node.op_type)
    return table.get((*key, index)) or table.get((*key, None))
