"""Channels whose values are one known number everywhere, followed from where they are made.

A layer whose weights for a channel are all zero gives its bias there; a BatchNormalization that scales by zero gives
its shift. That number is followed through all that works channel by channel, to those who read it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from onnx_tools.compaction.constants.elementwise import by_one_scale, element_by_element
from onnx_tools.compaction.constants.evaluating import Evaluator
from onnx_tools.compaction.constants.layers import looked_up, multiplied, normalised
from onnx_tools.compaction.constants.moves import MOVING, POOLING, concatenated, moved, pooled
from onnx_tools.compaction.constants.states import unrolled
from onnx_tools.compaction.constants.values import KnownValues, Mask
from onnx_tools.compaction.mapping.channel_map import ChannelMap
from onnx_tools.compaction.mapping.rules.elementwise import OF_ONE, OF_SEVERAL
from onnx_tools.graph_parts import Node

_FOLLOWING: dict[str, Callable[[KnownValues, Node], None]] = {
    **dict.fromkeys((*OF_ONE.split(), *OF_SEVERAL.split(), "Add", "Sub", "Sum"), element_by_element),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), by_one_scale),
    **dict.fromkeys(MOVING, moved),
    **dict.fromkeys(POOLING, pooled),
    "Concat": concatenated,
}
"""What follows from what is known of their inputs, by operator of ONNX itself."""

_BEGINNING: dict[str, Callable[[KnownValues, Node], None]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "MatMul", "Gemm"), multiplied),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), normalised),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), unrolled),
    "Gather": looked_up,
    "Mul": element_by_element,
}
"""What may be known though nothing is known of their inputs."""


def find_constants(channels: ChannelMap, evaluator: Evaluator, zero_made: Mask) -> KnownValues:
    """What is known of all values. `zero_made`: for each channel, whether all stored data that makes it is zero.

    Numbers that nodes make of known ones are what onnx's reference implementation makes of them; a node that it can't
    run, or whose result is infinite or NaN, leads nowhere.
    """
    values = KnownValues(channels, evaluator, zero_made)
    for node in channels.index.nodes:
        begins = _BEGINNING.get(node.op_type)
        follow = begins or _FOLLOWING.get(node.op_type)
        if follow is None or node.constant or node.local or node.domain or node.ambiguous or not node.inputs:
            continue
        if begins is not None or any(values.anything(value) for value in node.inputs):
            with contextlib.suppress(
                IndexError, ValueError
            ):  # too few inputs, axes beyond the rank: no runtime takes it
                follow(values, node)
    return values
