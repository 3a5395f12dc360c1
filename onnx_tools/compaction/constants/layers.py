"""Known numbers out of layers: where weights or scales are zero, and where all that comes in is known."""

from __future__ import annotations

import numpy as np

from onnx_tools.compaction.constants.moves import moved
from onnx_tools.compaction.constants.products import Product, product_of, sums, takes_in
from onnx_tools.compaction.constants.values import Array, Known, KnownValues, Mask, spread
from onnx_tools.compaction.mapping.factors import Factor, factor_on
from onnx_tools.compaction.zero_entries import nonzero_along
from onnx_tools.graph_parts import Node


def multiplied(values: KnownValues, node: Node) -> None:
    """Convolutions and matrix products: a result whose weights are zero, or that takes in known numbers only."""
    product = product_of(node, values.channels.shapes)
    factor = None if product is None else factor_on(values.channels.of(node.outputs[0]), product.axis)
    if product is None or factor is None or len(factor.axes) != 1:
        return
    known = _zero_rows(values, product, factor)
    numbers: Array | None = np.zeros(len(factor.ids))
    data = values.along(node.inputs[product.data], product.along)
    if data is not None and data[1].known.any():
        sure = data[1].sure if product.exact else data[1].zero
        others = takes_in(product, values.evaluator, ~sure)
        if others is not None and len(others) == len(known) and not (others | known).all():
            known = known | ~others
            numbers = sums(product, values.evaluator, np.where(sure, data[1].numbers, 0))
    bias = _bias(values, product, factor) if known.any() else None
    if bias is not None and numbers is not None:
        values.give(node.outputs[0], factor, Known((numbers + bias.astype(np.float64)).astype(bias.dtype), known))


def _zero_rows(values: KnownValues, product: Product, factor: Factor) -> Mask:
    """Results whose weights are zero. A weight that is computed is looked at as it is: not all of it may be stored."""
    zero = values.zero_made[factor.ids]
    weight = product.node.inputs[product.weight]
    if weight is None or weight.tensor is not None or not zero.any():
        return zero
    source = values.evaluator.blocks(weight)
    nonzero = None if source is None else nonzero_along(source, [(product.rows,)])[0]
    return np.zeros_like(zero) if nonzero is None or nonzero.shape != zero.shape else ~nonzero


def _bias(values: KnownValues, product: Product, factor: Factor) -> Array | None:
    """What is added to each result, in the type of the results; None if that can't be told."""
    if product.bias < 0:
        dtype = values.channels.shapes.float_type(product.node.outputs[0])
        return None if dtype is None else np.zeros(factor.ids.shape, dtype)
    bias = values.evaluator.constant(product.node.inputs[product.bias])
    if bias is None:
        return None
    is_row = product.node.op_type != "Gemm"
    found = spread(bias, 1, Factor((0,), factor.ids)) if is_row else spread(bias, 2, factor)
    return None if found is None else (found * product.bias_scale).astype(bias.dtype)


def looked_up(values: KnownValues, node: Node) -> None:
    """Gather: columns of a stored table that are zero, or what is picked from computed values."""
    (table, indices), dtype = node.inputs[:2], values.channels.shapes.float_type(node.outputs[0])
    if table is not None and not table.constant and indices is not None and indices.constant:
        moved(values, node)
    elif table is not None and table.tensor is not None and dtype is not None:
        for factor in values.channels.of(node.outputs[0]):
            known = Known(np.zeros(factor.ids.shape, dtype), values.zero_made[factor.ids])
            values.give(node.outputs[0], factor, known)


_STORED = {"BatchNormalization": 4, "InstanceNormalization": 2}
"""How many numbers there are for each channel."""


def normalised(values: KnownValues, node: Node) -> None:
    """BatchNormalization, InstanceNormalization: a channel that is known, or scaled by zero."""
    before, after = values.along(node.inputs[0], 1), values.along(node.outputs[0], 1)
    stored = [values.evaluator.constant(value) for value in node.inputs[1:]]
    dtype = values.channels.shapes.float_type(node.outputs[0])
    if after is None or dtype is None or node.int_attribute("training_mode", 0):
        return
    shape = after[0].ids.shape
    given = [each for each in stored if each is not None and each.shape == shape]
    if (
        len(given) != len(stored)
        or len(given) != _STORED[node.op_type]
        or (before is not None and before[1].known.shape != shape)
    ):
        return
    known = given[0] == 0
    numbers = np.zeros(shape, dtype)
    if before is not None:
        numbers, known = np.where(before[1].known, before[1].numbers, 0).astype(dtype), known | before[1].known
    result = given[1] if node.op_type == "InstanceNormalization" else _of_batch(node, numbers, given)
    values.give(node.outputs[0], after[0], Known(result.astype(dtype), known))


def _of_batch(node: Node, numbers: Array, stored: list[Array]) -> Array:
    """BatchNormalization of these numbers; the reference implementation is wrong before opset 14."""
    scale, shift, mean, variance = (array.astype(np.float64) for array in stored)
    epsilon = node.attributes.get("epsilon")
    with np.errstate(all="ignore"):
        deviation = np.sqrt(variance + (1e-5 if epsilon is None else epsilon.f))
        result: Array = (numbers - mean) / deviation * scale + shift
    return result
