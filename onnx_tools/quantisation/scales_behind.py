"""The scale of a weight whose operator gives integers: what stands behind the operator applies it.

onnxruntime writes `MatMulInteger -> Cast -> Mul`, the other input of the Mul being `Mul(scale of the activations,
scale of the weight)`; and of a table `Gather -> DequantizeLinear`. Nothing else is recognised.
"""

from __future__ import annotations

from math import prod

from onnx_tools.graph_parts import Node, StoredTensor
from onnx_tools.operators import CONTRIB
from onnx_tools.quantisation.parameters import input_value, stored_input


def scale_behind(node: Node) -> StoredTensor | None:
    """The stored scale that the output of `node` is multiplied with; None where that is not plain to see."""
    cast = _only_reader(node, "Cast")
    mul = _only_reader(cast, "Mul") if cast is not None else None
    if cast is None or mul is None or len(mul.inputs) != 2:
        return None
    other = 1 if input_value(mul, 0) is cast.outputs[0] else 0
    if (stored := stored_input(mul, other)) is not None:
        return stored
    value = input_value(mul, other)
    scales = value.producer if value is not None else None
    if scales is None or scales.op_type != "Mul" or scales.domain or scales.local or len(scales.inputs) != 2:
        return None
    found = [tensor for i in (0, 1) if (tensor := stored_input(scales, i)) is not None]
    found = [tensor for tensor in found if len(found) == 1 or prod(tensor.shape) > 1]  # activations have one scale
    return found[0] if len(found) == 1 else None


def dequantiser_behind(node: Node) -> Node | None:
    """The DequantizeLinear that alone reads the output of `node`."""
    return _only_reader(node, "DequantizeLinear", ("", CONTRIB))


def _only_reader(node: Node, op_type: str, domains: tuple[str, ...] = ("",)) -> Node | None:
    """The only node that reads what `node` gives, if it is of that type."""
    output = node.outputs[0] if node.outputs else None
    if output is None or output.duplicated or len(output.readers) != 1 or output.output_of:
        return None
    reader = output.readers[0].node
    return reader if reader.op_type == op_type and reader.domain in domains and not reader.local else None


def entries_of(scale: StoredTensor, last_axes: int) -> tuple[int, ...] | None:
    """The shape of a scale that is broadcast over the output, as one axis, `last_axes` from its end; () for one scale.

    None if it goes along another axis.
    """
    if prod(scale.shape) == 1:
        return ()
    place = len(scale.shape) - 1 - last_axes
    return (prod(scale.shape),) if place >= 0 and scale.shape[place] == prod(scale.shape) else None
