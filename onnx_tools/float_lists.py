"""Weights that are no tensor in the file: the list of floats that an attribute holds.

They are seen as the `TensorProto` of one axis that they could be, so that what works on tensors works on them.
"""

from __future__ import annotations

import onnx
from onnx import AttributeProto, TensorProto

NAMES = frozenset({"value_floats", "coefficients"})
"""Attributes that can hold weights: of Constant, and of ONNX-ML's linear models."""


def is_float_list(attribute: AttributeProto) -> bool:
    """Whether it is a list of floats that can be a weight."""
    return attribute.name in NAMES and len(attribute.floats) > 0


def as_tensor(attribute: AttributeProto) -> TensorProto:
    """The list as a tensor, named like the attribute."""
    count = len(attribute.floats)
    return TensorProto(name=attribute.name, dims=[count], data_type=TensorProto.FLOAT, float_data=attribute.floats)


def with_values(attribute: AttributeProto, tensor: TensorProto) -> AttributeProto:
    """A copy of the attribute that holds the values of `tensor`, which `as_tensor` made."""
    changed = onnx.AttributeProto()
    changed.CopyFrom(attribute)
    changed.floats[:] = tensor.float_data
    return changed


def shell(attribute: AttributeProto) -> bytes:
    """The attribute without its list, serialised."""
    empty = onnx.AttributeProto()
    empty.CopyFrom(attribute)
    empty.ClearField("floats")
    return bytes(empty.SerializeToString(deterministic=True))
