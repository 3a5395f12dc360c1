"""Which operators let their weight's inputs be seen: a row for each, with how its axes and its inputs are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from onnx_tools import op_table
from onnx_tools.calibration.rows import Dequantised, LetterRows, ProductRows, Unfold
from onnx_tools.calibration.states import HiddenRows, InputRows
from onnx_tools.calibration.view import MatrixView, matrix_view
from onnx_tools.calibration.windows import ConvRows, ConvTransposeRows, Kernel
from onnx_tools.graph_parts import Node, Value
from onnx_tools.layout import Layout
from onnx_tools.operators import CONTRIB
from onnx_tools.readings import Reading, op_name

HIDDEN = -1
"""In `Seen.inputs`: not an input of the node, but its first output."""


class Seen(NamedTuple):
    """A weight as one node reads it. `inputs`: the inputs of the node that `unfold` is to be given, in its order."""

    view: MatrixView
    unfold: Unfold
    inputs: tuple[int, ...]


class Inputs(NamedTuple):
    """The input of an operator that its weight is multiplied with, and where its scale and zero point are, if any."""

    value: int
    scale: int | None = None
    zero_point: int | None = None


class _Asked(NamedTuple):
    """What a row is asked: a node, which input is the weight, its layout and sizes, and which is the other.

    A size that is not known is 0: that of a part of the stored tensor, which only the output axis may be.
    """

    node: Node
    weight: int
    layout: Layout
    sizes: tuple[int, ...]
    other: int


class _Row(NamedTuple):
    see: Callable[[_Asked], Seen | str]
    inputs: dict[int, Inputs]
    quantised: bool = False


def seen_at(reading: Reading) -> Seen | str:
    """How a weight and its inputs are seen where it is read, or the reason why they are not."""
    node, slot, layout = reading.node, reading.slot, reading.layout
    assert node is not None
    assert slot is not None
    assert layout is not None
    row = _ROWS.get((node.domain, node.op_type))
    inputs = row.inputs.get(slot.index) if row is not None else None
    if row is None or inputs is None:
        return f"what {op_name(node)} multiplies it with is not seen from outside"
    if layout.axes is None:
        return layout.why
    sizes = tuple(axis.size or 0 for axis in layout.axes)
    seen = row.see(_Asked(node, slot.index, layout, sizes, inputs.value))
    return seen if isinstance(seen, str) or not row.quantised else _dequantised(seen, inputs, node)


def _dequantised(seen: Seen, inputs: Inputs, node: Node) -> Seen:
    """The same for an operator that reads codes; a missing place, which no node has, stands for what is not given."""
    none = len(node.inputs)
    places = (none if place is None else place for place in (inputs.scale, inputs.zero_point))
    axis = 1 if isinstance(seen.unfold, ConvRows) else -2 if inputs.value == 0 else -1
    return Seen(seen.view, Dequantised(seen.unfold, axis), (inputs.value, *places))


def scale_in_front(value: Value | None) -> Value | None:
    """The scale of codes that DynamicQuantizeLinear gives."""
    node = value.producer if value is not None else None
    dynamic = node is not None and not node.local and (node.domain, node.op_type) == ("", "DynamicQuantizeLinear")
    return node.outputs[1] if node is not None and dynamic and len(node.outputs) > 1 else None


def _product(asked: _Asked) -> Seen | str:
    """A product of matrices with batches, as of numpy.matmul; which of its axes are which says the op table."""
    node, rank = asked.node, len(asked.sizes)
    slot = op_table.weight_slot(node, asked.weight, rank)
    assert slot is not None
    output, reduction = slot.axes(node, rank)
    if reduction is None:
        return "it has no axis that is summed"
    batch = [axis for axis in range(rank) if axis not in (output, reduction)]
    outputs = [] if output is None else [output]
    view = matrix_view(asked.layout, [axis for axis in batch if asked.sizes[axis] > 1], outputs, [reduction])
    if isinstance(view, str):
        return view
    other = _axes_of_other(node, asked.other)
    return Seen(view, ProductRows(*other, tuple(asked.sizes[axis] for axis in batch)), (asked.other,))


def _axes_of_other(node: Node, index: int) -> tuple[int, int]:
    """The output and the reduction axis of the operand that is no weight here, from the end, or axis 0."""
    slot = op_table.weight_slot(node, index)
    if slot is None:
        return -2, -1
    rank = 4 if slot.output < 0 else 2
    output, reduction = (axis or 0 for axis in slot.axes(node, rank))
    rotated = rank == 4
    return (0 if rotated and output == 0 else output - rank), (0 if rotated and reduction == 0 else reduction - rank)


def _rows(asked: _Asked) -> Seen | str:
    """A matrix that multiplies the last axis of an input, whichever of its own axes is which."""
    seen = _product(asked)
    return seen if isinstance(seen, str) else seen._replace(unfold=ProductRows())


def _einsum(asked: _Asked) -> Seen | str:
    text = "".join(asked.node.text_attribute("equation").split())
    left, arrow, output = text.partition("->")
    terms = left.split(",")
    if len(terms) != 2 or not arrow or "." in text or any(len(set(term)) < len(term) for term in (*terms, output)):
        return f"the equation of Einsum '{asked.node.label}' is not one of two operands with letters only"
    term, other = terms[asked.weight], terms[asked.other]
    if len(term) != len(asked.sizes):
        return f"the equation of Einsum '{asked.node.label}' does not fit the tensor"
    kinds = {letter: (letter in other, letter in output) for letter in term}
    groups, outputs, features = (
        [letter for letter in term if kinds[letter] == kind] for kind in ((True, True), (False, True), (True, False))
    )
    if (False, False) in kinds.values() or any(letter not in output and letter not in term for letter in other):
        return f"Einsum '{asked.node.label}' sums an operand by itself"
    view = matrix_view(asked.layout, *([term.index(each) for each in found] for found in (groups, outputs, features)))
    if isinstance(view, str):
        return view
    sizes = tuple(asked.sizes[term.index(letter)] for letter in groups + features)
    return Seen(view, LetterRows(other, "".join(groups), "".join(features), sizes), (asked.other,))


def _convolution(asked: _Asked) -> Seen | str:
    """(M, C / group, ...): outputs lie in groups along axis 0, features are positions and channels."""
    kernel = _kernel(asked)
    if isinstance(kernel, str):
        return kernel
    split = _in_groups(asked.layout, kernel.groups)
    view = split if isinstance(split, str) else matrix_view(split, [0], [1], [*range(3, len(asked.sizes) + 1), 2])
    return view if isinstance(view, str) else Seen(view, ConvRows(kernel), (asked.other,))


def _transposed_convolution(asked: _Asked) -> Seen | str:
    """(C, M / group, ...): features lie in groups along axis 0."""
    node, kernel = asked.node, _kernel(asked)
    if isinstance(kernel, str):
        return kernel
    split = _in_groups(asked.layout, kernel.groups)
    view = split if isinstance(split, str) else matrix_view(split, [0], [2], [*range(3, len(asked.sizes) + 1), 1])
    if isinstance(view, str):
        return view
    added, shape = node.ints_attribute("output_padding"), node.ints_attribute("output_shape") or ()
    rank = len(kernel.sizes)
    if len(added or kernel.sizes) != rank or len(shape) not in (0, rank, rank + 2):
        return f"the attributes of {node.op_type} '{node.label}' do not fit its kernel"
    return Seen(view, ConvTransposeRows(kernel, added or (0,) * rank, shape[-rank:] if shape else ()), (asked.other,))


def _kernel(asked: _Asked) -> Kernel | str:
    if len(asked.sizes) < 3:
        return f"the kernel of {asked.node.op_type} '{asked.node.label}' has no spatial axis"
    last = asked.node.op_type.startswith("Nhwc") or asked.node.int_attribute("channels_last", 0) != 0
    return Kernel.of(asked.node, asked.sizes[2:], channels_last=last)


def _in_groups(layout: Layout, groups: int) -> Layout | str:
    """The layout with its first axis as (groups, rest)."""
    size = layout.shape[0] if layout.shape else None
    if groups < 1 or not size or size % groups:
        return f"{size} channels do not divide into {groups} groups"
    return layout.split(0, groups)


def _recurrent(asked: _Asked) -> Seen | str:
    """(directions, gates, features), or with the last two exchanged."""
    node = asked.node
    slot = op_table.weight_slot(node, asked.weight, len(asked.sizes))
    if slot is None or len(asked.sizes) != 3:
        return f"{node.op_type} '{node.label}' wants weights of 3 axes"
    if asked.other == HIDDEN and node.op_type == "GRU" and not node.int_attribute("linear_before_reset", 0):
        return "GRU applies its reset gate to the hidden state before it is multiplied (linear_before_reset is 0)"
    view = matrix_view(asked.layout, [0], [slot.output], [slot.reduction or 0])
    if isinstance(view, str):
        return view
    first, directions = node.int_attribute("layout", 0) != 0, asked.sizes[0]
    if asked.other != HIDDEN:
        return Seen(view, InputRows(directions, first), (asked.other, _LENGTHS[node.op_type]))
    backward = (False, True) if directions == 2 else (node.text_attribute("direction") == "reverse",) * directions
    lengths = _LENGTHS[node.op_type]
    return Seen(view, HiddenRows(backward, first), (HIDDEN, lengths + 1, lengths))


_LENGTHS = {"LSTM": 4, "GRU": 4, "RNN": 4, "DynamicQuantizeLSTM": 4}
"""Where the lengths of the sequences are given; the initial hidden state is the input behind."""

_BOTH = {0: Inputs(1), 1: Inputs(0)}
_SECOND = {1: Inputs(0)}
_QLINEAR = {0: Inputs(3, 4, 5), 3: Inputs(0, 1, 2)}
_RECURRENT = _Row(_recurrent, {1: Inputs(0), 2: Inputs(HIDDEN)})

_ROWS: dict[tuple[str, str], _Row] = {
    ("", "MatMul"): _Row(_product, _BOTH),
    ("", "Gemm"): _Row(_product, _BOTH),
    **{
        (CONTRIB, op_type): _Row(_product, _BOTH)
        for op_type in ("FusedMatMul", "FusedMatMulActivation", "TransposeMatMul", "FusedGemm")
    },
    **{
        (CONTRIB, op_type): _Row(_rows, _SECOND)
        for op_type in ("GemmFastGelu", "DynamicQuantizeMatMul", "MatMulNBits", "Attention", "PackedAttention")
    },
    **{(CONTRIB, op_type): _Row(_rows, _SECOND) for op_type in ("DecoderMaskedSelfAttention", "LongformerAttention")},
    (CONTRIB, "QAttention"): _Row(_rows, {1: Inputs(0, 3, 6)}, quantised=True),
    ("", "QLinearMatMul"): _Row(_product, _QLINEAR, quantised=True),
    (CONTRIB, "QGemm"): _Row(_product, _QLINEAR, quantised=True),
    ("", "MatMulInteger"): _Row(_product, {0: Inputs(1, None, 3), 1: Inputs(0, None, 2)}, quantised=True),
    (CONTRIB, "MatMulIntegerToFloat"): _Row(_product, {1: Inputs(0, 2, 4)}, quantised=True),
    ("", "Einsum"): _Row(_einsum, _BOTH),
    ("", "Conv"): _Row(_convolution, _SECOND),
    **{(CONTRIB, op_type): _Row(_convolution, _SECOND) for op_type in ("FusedConv", "NhwcConv", "NhwcFusedConv")},
    **{(domain, "QLinearConv"): _Row(_convolution, {3: Inputs(0, 1, 2)}, quantised=True) for domain in ("", CONTRIB)},
    ("", "ConvInteger"): _Row(_convolution, {1: Inputs(0, None, 2)}, quantised=True),
    ("", "ConvTranspose"): _Row(_transposed_convolution, _SECOND),
    **{("", op_type): _RECURRENT for op_type in ("LSTM", "GRU", "RNN")},
    (CONTRIB, "DynamicQuantizeLSTM"): _RECURRENT,
}
"""Sources: the operators' pages of the ONNX specification; of onnxruntime's, docs/ContribOperators.md (1.32)."""
