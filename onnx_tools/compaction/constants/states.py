"""Hidden units that are zero at every step: LSTM, GRU and RNN with nothing in any of their gates.

With the activations of ONNX's defaults a unit that gets zeros only has tanh(0) = 0 to remember, or a share of that.
"""

from __future__ import annotations

import numpy as np

from onnx_tools.compaction.constants.values import Known, KnownValues, Mask
from onnx_tools.compaction.mapping.factors import Factor, factor_on
from onnx_tools.graph_parts import Node

_STATES = (5, 6)
_BIAS = 3


def unrolled(values: KnownValues, node: Node) -> None:
    """A unit whose weights, biases and first states are all zero."""
    if "activations" in node.attributes:
        return
    for output, axis in zip(node.outputs, (3, 2, 2), strict=False):
        factor = factor_on(values.channels.of(output), axis)
        dtype = values.channels.shapes.float_type(output)
        if factor is not None and factor.axes == (axis,) and dtype is not None:
            zero = values.zero_made[factor.ids] & _starts_with_zero(values, node, factor)
            values.give(output, factor, Known(np.zeros(zero.shape, dtype), zero))


def _starts_with_zero(values: KnownValues, node: Node, factor: Factor) -> Mask:
    """Units whose biases, (directions, 2 * gates * units), and states, (..., units), are zero or not given."""
    units = len(factor.ids)
    zero = np.ones(units, bool)
    for index in (_BIAS, *_STATES):
        if not node.has_input(index):
            continue
        array = values.evaluator.constant(node.inputs[index])
        if array is None or not array.shape or array.shape[-1] % units:
            return np.zeros(units, bool)
        zero &= (array.reshape(-1, units) == 0).all(0)
    return zero
