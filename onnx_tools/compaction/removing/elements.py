"""The elements of stored tensors of any type: read as arrays of bits, cut, and packed again.

An element is an unsigned integer, or opaque bytes, of its width; those of 2 and 4 bits are unpacked to bytes, lowest
bits first, as onnx.proto says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_tools.errors import InvalidTensor
from onnx_tools.graph_parts import LITERAL, StoredTensor, element_count
from onnx_tools.model_file import bits_of_type
from onnx_tools.values import ValueReader

Elements = NDArray[Any]

_INTEGERS: dict[int, np.dtype[Any]] = {TensorProto.INT32: np.dtype("<i4"), TensorProto.INT64: np.dtype("<i8")}


def read(reader: ValueReader, tensor: StoredTensor) -> Elements:
    """The elements of a tensor in its shape. Raises `InvalidTensor` if they don't fit it."""
    bits = _bits(tensor)
    data = _literal(tensor) if tensor.place == LITERAL else reader.small(tensor.path)
    elements = _unpacked(data, bits, element_count(tensor.shape)) if bits < 8 else data.view(f"V{bits // 8}")
    if elements.size != element_count(tensor.shape):
        raise InvalidTensor(f"tensor {tensor.name!r}: shape {list(tensor.shape[:16])} does not fit its data")
    return elements.reshape(tensor.shape)


def read_integers(reader: ValueReader, tensor: StoredTensor) -> NDArray[Any] | None:
    """The elements of a tensor of int32 or int64 as such; None for other types."""
    dtype = _INTEGERS.get(tensor.data_type)
    return None if dtype is None else read(reader, tensor).view(dtype)


def cut(elements: Elements, masks: Mapping[int, NDArray[np.bool_]]) -> Elements:
    """The elements that stay: along each axis those that are True in its mask."""
    for axis, mask in sorted(masks.items()):
        elements = np.compress(mask, elements, axis)
    return elements


def packed(elements: Elements, data_type: int) -> memoryview:
    """The bytes of elements as they lie in a file."""
    bits = bits_of_type(TensorProto(data_type=data_type)) or 8
    flat = np.ascontiguousarray(elements).reshape(-1).view(np.uint8)
    return (_packed(flat, bits) if bits < 8 else flat).data


def _bits(tensor: StoredTensor) -> int:
    bits = bits_of_type(TensorProto(data_type=tensor.data_type))
    if bits is None:
        raise InvalidTensor(f"tensor {tensor.name!r}: values of data type {tensor.data_type} can't be cut")
    return bits


def _literal(tensor: StoredTensor) -> NDArray[np.uint8]:
    """The bytes of a Constant's list: of float32 or int64."""
    assert tensor.node is not None
    attribute = tensor.node.proto.attribute[tensor.path[-1][1]]
    floats = attribute.name.startswith("value_float")
    one = [attribute.f] if floats else [attribute.i]
    many = attribute.floats if floats else attribute.ints
    values = many if attribute.name.endswith("s") else one
    return np.array(values, "<f4" if floats else "<i8").view(np.uint8)


def _unpacked(data: NDArray[np.uint8], bits: int, count: int) -> NDArray[Any]:
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = (data[:, None] >> shifts) & np.uint8((1 << bits) - 1)
    return codes.reshape(-1)[:count].view("V1")


def _packed(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    each = 8 // bits
    padded = np.concatenate([codes, np.zeros(-len(codes) % each, np.uint8)]).reshape(-1, each)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    found: NDArray[np.uint8] = np.bitwise_or.reduce(padded << shifts, axis=1)
    return found
