"""Known numbers through operators that work element by element: the node is run on them."""

from __future__ import annotations

import numpy as np

from onnx_tools.compaction.constants.values import Array, Known, KnownValues, Mask, nothing, spread
from onnx_tools.compaction.mapping.factors import Factor
from onnx_tools.graph_parts import Node, Value

_ONE = ((), (1,))
"""Shapes of a number for all elements; some operators take nothing else as one."""


def element_by_element(values: KnownValues, node: Node) -> None:
    """A result is known where all operands are. Zero times anything is zero."""
    dims = values.channels.shapes.of(node.outputs[0])
    for factor in values.channels.of(node.outputs[0]) if dims is not None else ():
        operands = [None if each is None else _operand(values, each, len(dims or ()), factor) for each in node.inputs]
        given = [each for each in operands if each is not None]
        zeros = np.logical_or.reduce([each.zero for each in given]) if node.op_type == "Mul" else None
        result = _run(values, node, operands)
        if result is None and zeros is not None and (dtype := values.channels.shapes.float_type(node.outputs[0])):
            result = Known(np.zeros(factor.ids.shape, dtype), zeros)
        elif result is not None and zeros is not None:
            result = Known(np.where(zeros, 0, result.numbers).astype(result.numbers.dtype), result.known | zeros)
        if result is not None:
            values.give(node.outputs[0], factor, result)


def by_one_scale(values: KnownValues, node: Node) -> None:
    """QuantizeLinear, DequantizeLinear: the same, if one scale is for all."""
    if all(value is None or values.channels.shapes.of(value) in _ONE for value in node.inputs[1:]):
        element_by_element(values, node)


def _run(values: KnownValues, node: Node, operands: list[Known | None]) -> Known | None:
    """What the node gives where all its operands are known."""
    known = np.logical_and.reduce([each.known for each in operands if each is not None])
    if not known.any() or (node.op_type == "Dropout" and node.has_input(2)):
        return None
    given = [_fed(values, *each, known) for each in zip(node.inputs, operands, strict=True)]
    numbers = values.evaluator.run(node, given)
    if numbers is None or numbers.shape != (int(known.sum()),):
        return None
    found = np.zeros(known.shape, numbers.dtype)
    found[known] = numbers
    return Known(found, known)


def _fed(values: KnownValues, value: Value | None, operand: Known | None, known: Mask) -> Array | None:
    """What the node is given of an operand: the numbers that are `known`, or the one that is for all elements."""
    if value is None or operand is None:
        return None
    one = value.constant and values.channels.shapes.of(value) in _ONE
    return operand.numbers[known][:1].reshape(()) if one else operand.numbers[known]


def _operand(values: KnownValues, value: Value, rank: int, factor: Factor) -> Known:
    """What is known of an input at the entries of a factor of the result, which has `rank` axes."""
    if value.constant:
        array = values.evaluator.constant(value)
        found = None if array is None else spread(array, rank, factor)
        return nothing(factor.ids.shape) if found is None else Known(found, np.ones(found.shape, bool))
    dims = values.channels.shapes.of(value)
    for own in values.channels.of(value) if dims is not None else ():
        known = values.of(value, own)
        axes = [axis + rank - len(dims or ()) for axis in own.axes]
        sizes = dict(zip(factor.axes, factor.ids.shape, strict=True))
        shape = tuple(size if axis in axes else 1 for axis, size in sizes.items())
        if known.known.any() and own.ids.shape == tuple(sizes.get(axis) for axis in axes):
            both = (array.reshape(shape) for array in (known.numbers, known.known))
            return Known(*(np.broadcast_to(array, factor.ids.shape) for array in both))
    return nothing(factor.ids.shape)
