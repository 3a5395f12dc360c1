"""Arrays the caller gives for results: `out` and `mask_out`. They must fit exactly; nothing is converted on the way."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from oxiprune_gpu.device_arrays import device_name
from oxiprune_gpu.errors import InvalidOption, ShapeMismatch, UnsupportedArray
from oxiprune_gpu.tensor import Borrowed, see_array


def mask_target(mask_out: Any, weight: Borrowed) -> Any:
    """`mask_out` as the array that the mask of `weight` is written to.

    Raises:
        ShapeMismatch: it has another shape than the weight.
        InvalidOption: it is not bool, not C-contiguous, read-only, lies elsewhere than the weight, or shares memory
            with it.
    """
    array = _fitting(mask_out, weight, np.dtype(np.bool_), "mask_out")
    if _may_overlap(array, weight.data):
        raise InvalidOption(
            f"mask_out of tensor '{weight.name}' shares memory with the weight: give an array of its own"
        )
    return array


def weight_target(out: Any, weight: Borrowed) -> Any:
    """`out` as the array that the pruned `weight` is written to; it may be the weight itself. Errors as above."""
    array = _fitting(out, weight, weight.dtype, "out")
    if _may_overlap(array, weight.data) and not is_same_memory(array, weight.data):
        raise InvalidOption(
            f"out of tensor '{weight.name}' shares memory with a part of the weight: give another array"
        )
    return array


def check_apart(name: str, arrays: Mapping[str, Any]) -> None:
    """Raise `InvalidOption` when two of several arrays, by what they are called, share memory. None is no array."""
    given = [(what, array) for what, array in arrays.items() if array is not None]
    for (what, array), (other_what, other) in combinations(given, 2):
        if device_name(array) == device_name(other) and _may_overlap(array, other):
            raise InvalidOption(
                f"{what} and {other_what} of tensor '{name}' share memory: give each an array of its own"
            )


def is_same_memory(array: Any, other: Any) -> bool:
    """Whether two arrays on one device are the same memory, element by element."""
    return _place_of(array) == _place_of(other)


def _fitting(target: Any, weight: Borrowed, dtype: np.dtype[Any], what: str) -> Any:
    label = f"{what} of tensor '{weight.name}'"
    if isinstance(target, list | tuple | float | int):
        raise InvalidOption(f"{label} must be an array, not {type(target).__name__}")
    try:
        array, found, writable = see_array(target, what)
    except UnsupportedArray as error:
        raise InvalidOption(f"{label} is no array: {error}") from None
    if isinstance(array, np.ndarray) != isinstance(weight.data, np.ndarray) or device_name(array) != device_name(
        weight.data
    ):
        raise InvalidOption(
            f"{label} lies on {device_name(array)}, the weight on {device_name(weight.data)}: bring them together"
        )
    if found != dtype:
        raise InvalidOption(f"{label} has dtype {found}: it must be {dtype}")
    if array.shape != weight.data.shape:
        raise ShapeMismatch(f"{label} has shape {list(array.shape)}, the weight {list(weight.data.shape)}")
    if not array.flags.c_contiguous:
        raise InvalidOption(f"{label} is not C-contiguous: give a contiguous array and copy it where it belongs")
    if not isinstance(array, np.ndarray) and array.data.ptr % array.dtype.itemsize:
        raise InvalidOption(f"{label} is not aligned: its elements lie across their natural boundaries")
    if not writable:
        raise InvalidOption(f"{label} is read-only: give an array that can be written, or leave {what}= away")
    return array


def _may_overlap(array: Any, other: Any) -> bool:
    if isinstance(array, np.ndarray):
        return np.may_share_memory(array, other)
    first, second = _extent(array), _extent(other)
    return first[0] < second[1] and second[0] < first[1]


def _extent(array: Any) -> tuple[int, int]:
    """Addresses of the first byte of an array on a GPU and of the one after its last."""
    low = high = int(array.data.ptr)
    for stride, length in zip(array.strides, array.shape, strict=True):
        low += min(0, stride * (length - 1))
        high += max(0, stride * (length - 1))
    return low, high + array.itemsize


def _place_of(array: Any) -> tuple[object, ...]:
    """Where each element lies: equal for arrays that are the same memory, element by element."""
    address = array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
    return address, array.shape, array.strides
