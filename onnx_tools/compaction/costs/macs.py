"""How often an operator multiplies and adds: its multiply-accumulates (MACs) as products of sizes.

One MAC is one product added to a sum, of two numbers that are computed or stored. Each operator's count is that of its
definition in ONNX (or in onnxruntime's contrib operators) done naively: every element of the output times the products
that are summed in it. Padding counts, as if its zeros were multiplied; causal masks save nothing; biases, scales and
other operators count nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from onnx_tools.compaction.mapping.factors import Dims
from onnx_tools.graph_parts import Node, Value
from onnx_tools.op_table import attribute_slot, uncovered_slot, weight_slot
from onnx_tools.operators import CONTRIB, EMBEDDING

DimsOf = Callable[[Value | None], Dims | None]


class Length(NamedTuple):
    """The size of `axis` of `value`."""

    value: Value
    axis: int


class Term(NamedTuple):
    """A product of sizes. `weights`: the inputs that are multiplied so often, if they are stored."""

    lengths: tuple[Length, ...]
    weights: tuple[int, ...] = ()


Formula = Callable[[Node, DimsOf], list[Term] | None]
"""The terms whose sum is a node's MACs; None where a shape that it needs is not known."""

_Lengths = tuple[Length, ...] | None


def input_of(node: Node, index: int) -> Value | None:
    """An input, None where it is not given."""
    return node.inputs[index] if index < len(node.inputs) else None


def _whole(value: Value | None, dims: Dims | None, first: int = 0) -> _Lengths:
    """All sizes of a value from axis `first` on."""
    if value is None or dims is None:
        return None
    return tuple(Length(value, axis) for axis in range(first, len(dims)))


def _times(*parts: _Lengths, weights: tuple[int, ...] = ()) -> list[Term] | None:
    """One product of several."""
    if any(part is None for part in parts):
        return None
    return [Term(tuple(length for part in parts for length in part or ()), weights)]


def _along(value: Value | None, dims: Dims | None, axis: int) -> _Lengths:
    fits = value is not None and dims is not None and -len(dims) <= axis < len(dims)
    return (Length(value, axis % len(dims)),) if fits and value is not None and dims else None


def _output(node: Node, dims: DimsOf) -> _Lengths:
    value = node.outputs[0] if node.outputs else None
    return _whole(value, dims(value))


def _convolution(weight: int, data: int = 0, *, transposed: bool = False) -> Formula:
    """Each output (transposed: input) element times a kernel (M, C / group, ...) of one output (input) channel."""

    def formula(node: Node, dims: DimsOf) -> list[Term] | None:
        kernel = input_of(node, weight)
        value = input_of(node, data)
        elements = _whole(value, dims(value)) if transposed else _output(node, dims)
        return _times(elements, _whole(kernel, dims(kernel), 1), weights=(weight,))

    return formula


def _product(*weights: int, swapped_by: str = "") -> Formula:
    """Each output element times what is summed: the last axis of input 0, the one before if it is transposed."""

    def formula(node: Node, dims: DimsOf) -> list[Term] | None:
        value = input_of(node, 0)
        axis = -2 if swapped_by and node.int_attribute(swapped_by, 0) else -1
        return _times(_output(node, dims), _along(value, dims(value), axis), weights=weights)

    return formula


def _einsum(node: Node, dims: DimsOf) -> list[Term] | None:
    """Each output element times all letters that it has not."""
    left, arrow, right = "".join(node.text_attribute("equation").split()).partition("->")
    terms = left.split(",")
    if len(terms) < 2 or len(terms) != len(node.inputs):
        return [] if len(terms) < 2 else None
    output = right if arrow else "".join(letter for letter in left if letter.isalpha() and left.count(letter) == 1)
    summed: dict[str, _Lengths] = {}
    for term, value in zip(terms, node.inputs, strict=True):
        before, _, after = term.partition("...")
        places = [*enumerate(before), *((index - len(after), letter) for index, letter in enumerate(after))]
        for axis, letter in places:
            if letter not in output and summed.get(letter) is None:
                summed[letter] = _along(value, dims(value), axis)
    return _times(_output(node, dims), *summed.values(), weights=tuple(range(len(terms))))


def _recurrent(node: Node, dims: DimsOf) -> list[Term] | None:
    """Every step of every sequence times the weights W and R (ONNX's LSTM, GRU, RNN)."""
    value = input_of(node, 0)
    steps = (_along(value, dims(value), 0), _along(value, dims(value), 1))
    terms: list[Term] = []
    for index in (1, 2):
        weight = input_of(node, index)
        term = _times(*steps, _whole(weight, dims(weight)), weights=(index,))
        if term is None:
            return None
        terms += term
    return terms


def _attention(node: Node, dims: DimsOf) -> list[Term] | None:
    """Queries (..., hidden) times the keys' length, for the scores and, as large, for the sums of the values."""
    keys = input_of(node, 1)
    term = _times(_output(node, dims), _along(keys, dims(keys), -2))
    return None if term is None else term * 2


def _projected_attention(node: Node, dims: DimsOf) -> list[Term] | None:
    """Every position times the weights (inputs, hidden of Q, K and V), then attention over its own length."""
    value, weight = input_of(node, 0), input_of(node, 1)
    known = dims(value)
    steps = (_along(value, known, 0), _along(value, known, 1))
    projected = _times(*steps, _whole(weight, dims(weight)), weights=(1,))
    attended = _times(_output(node, dims), steps[1])
    return None if projected is None or attended is None else projected + attended * 2


def _rows(domain: str, names: str, formula: Formula) -> Iterable[tuple[tuple[str, str], Formula]]:
    return (((domain, name), formula) for name in names.split())


PRODUCTS: dict[tuple[str, str], Formula] = dict(
    [
        *_rows("", "Conv DeformConv ConvInteger CausalConvWithState", _convolution(1)),
        *_rows("", "ConvTranspose", _convolution(1, transposed=True)),
        *_rows("", "QLinearConv", _convolution(3)),
        *_rows("", "MatMul MatMulInteger", _product(0, 1)),
        *_rows("", "QLinearMatMul", _product(0, 3)),
        *_rows("", "Gemm", _product(0, 1, swapped_by="transA")),
        *_rows("", "Einsum", _einsum),
        *_rows("", "LSTM GRU RNN", _recurrent),
        *_rows("", "Attention", _attention),
        *_rows(CONTRIB, "FusedConv NhwcConv NhwcFusedConv CausalConvWithState", _convolution(1)),
        *_rows(CONTRIB, "ConvTransposeWithDynamicPads", _convolution(1, transposed=True)),
        *_rows(CONTRIB, "QLinearConv", _convolution(3)),
        *_rows(CONTRIB, "FusedMatMul FusedMatMulActivation TransposeMatMul", _product(0, 1, swapped_by="transA")),
        *_rows(CONTRIB, "FusedGemm GemmFloat8", _product(0, 1, swapped_by="transA")),
        *_rows(CONTRIB, "QGemm", _product(0, 3, swapped_by="transA")),
        *_rows(
            CONTRIB,
            "GemmFastGelu DynamicQuantizeMatMul MatMulIntegerToFloat MatMulNBits MatMulBnb4",
            _product(1),
        ),
        *_rows(CONTRIB, "DynamicQuantizeLSTM", _recurrent),
        *_rows(CONTRIB, "Attention QAttention", _projected_attention),
        *_rows(CONTRIB, "MultiHeadAttention GroupQueryAttention", _attention),
    ]
)
"""By (domain, op type). An operator without a row multiplies nothing that counts, or `multiplies_unknown`."""

_DOMAINS = ("", "ai.onnx.ml", CONTRIB)
"""Operators of others may do anything with a stored tensor."""


def terms_of(node: Node, dims: DimsOf) -> list[Term] | None:
    """The terms whose sum is a node's MACs; None where that is not known."""
    if multiplies_known(node):
        return PRODUCTS[node.domain, node.op_type](node, dims)
    return None if multiplies_unknown(node) else []


def multiplies_known(node: Node) -> bool:
    """Whether there is a formula for a node."""
    return not node.local and (node.domain, node.op_type) in PRODUCTS


def multiplies_unknown(node: Node) -> bool:
    """Whether a node has weights, but no formula: a known operator's, or stored tensors that look like some."""
    if node.local or multiplies_known(node):
        return False
    stored = [at for at, value in enumerate(node.inputs) if value is not None and value.constant]
    if node.domain not in _DOMAINS:
        return any(len(node.input_shape(at) or ()) > 1 for at in stored)
    listed = (attribute_slot(node, name) for name in node.attributes)
    return any(_is_weight(node, at) for at in stored) or any(slot is not None for slot in listed)


def _is_weight(node: Node, index: int) -> bool:
    slot, uncovered = weight_slot(node, index), uncovered_slot(node, index)
    looked_up = slot is None or slot.kind == EMBEDDING
    return not looked_up or (uncovered is not None and uncovered.what.endswith("weight"))
