"""Weights as they come in and go out: what comes in as an array goes out as such an array."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.device_arrays import aligned, bytes_of, import_device_array, on_cuda_device, order_after
from oxiprune_gpu.errors import InvalidOption, ReadOnlyTarget, ShapeMismatch, UnsupportedArray, UnsupportedDtype

Array = NDArray[Any]
Export = Callable[[Any], Any]

DTYPES = tuple(np.dtype(kind) for kind in (np.float32, np.float16, ml_dtypes.bfloat16, np.float64))
"""The dtypes a weight may have."""


class WeightTensor:
    """A weight with a name.

    Args:
        name: shown in errors and reports.
        data: numpy array, or anything with `__dlpack__` or `__array__` (torch, JAX, ...); float32, float16,
            bfloat16 (ml_dtypes) or float64; any layout. It is not copied.
        shape: when given, `data` is seen in this shape.

    Raises:
        ShapeMismatch: `shape` does not have as many elements as `data`.
        InvalidOption: the name is no text.
    """

    __slots__ = ("data", "name")

    def __init__(self, name: str, data: Any, shape: Sequence[int] | None = None) -> None:
        if not isinstance(name, str):
            raise InvalidOption(
                f"the name of a weight must be text, not {type(name).__name__}: WeightTensor(name, data)"
            )
        self.name = name
        self.data = data if shape is None else _reshaped(name, data, tuple(shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the data."""
        return tuple(np.shape(self.data))

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> Any:
        """Dtype of the data, as its own library names it."""
        return self.data.dtype

    def __repr__(self) -> str:
        return f"WeightTensor({self.name!r}, shape={list(self.shape)})"


Tensor = WeightTensor | Any
"""What the verbs take: a `WeightTensor`, or an array of any kind (which is called 'array' in errors)."""


@dataclass(frozen=True, slots=True)
class Borrowed:
    """A weight of any kind, seen as a numpy array, or as a CuPy array if it lies on a GPU.

    `dtype` is that of its elements: on a GPU, `data` holds the bits of bfloat16.
    """

    name: str
    data: Any
    dtype: np.dtype[Any]
    export: Export
    named: bool
    writable: bool
    origin: Any

    def contiguous(self) -> Any:
        """The data as its backend takes it, C-contiguous: itself where it is, else a copy."""
        return self.data if self.is_in_place() else self.copied()

    def is_in_place(self) -> bool:
        """Whether the backend can work on the data where it lies."""
        return self.data.flags.c_contiguous and (isinstance(self.data, np.ndarray) or self._is_aligned())

    def copied(self) -> Any:
        """A C-contiguous copy of the data."""
        if isinstance(self.data, np.ndarray) or self._is_aligned():
            return self.data.copy(order="C")
        return aligned(self.data, self.name)

    def write_back(self, work: Any) -> None:
        """Give the data the values of `work`, which is `contiguous()` or a changed copy of it."""
        if work is self.data:
            return
        if isinstance(self.data, np.ndarray) or self._is_aligned():
            self.data[...] = work
        else:
            bytes_of(self.data)[...] = bytes_of(work)

    def _is_aligned(self) -> bool:
        """Whether no element lies across its natural boundary: then a GPU can read it."""
        return bool(self.data.data.ptr % self.data.dtype.itemsize == 0)

    def writable_data(self) -> Any:
        """The data, for writing in place.

        Raises:
            ReadOnlyTarget: it can't be written.
        """
        if isinstance(self.origin, list | tuple | float | int):
            raise ReadOnlyTarget(self.name, f"it is a {type(self.origin).__name__}, no array")
        if not self.writable or not getattr(self.data.flags, "writeable", True):
            raise ReadOnlyTarget(self.name)
        if _overlaps_itself(self.data):
            raise ReadOnlyTarget(self.name, "several of its elements share one place in memory")
        return self.data

    def announce_write(self) -> None:
        """See `announce_write`."""
        announce_write(self.origin, self.data)

    def give_back(self, pruned: Any) -> Any:
        """A result in the form the weight came in: named, and of the same kind of array."""
        data = self.export(pruned)
        return WeightTensor(self.name, data) if self.named else data


def announce_write(origin: Any, data: Any) -> None:
    """Tell the library of `origin` that it was written as `data`: autograd then refuses results of the old values.

    On a GPU, its stream waits until the work is done.
    """
    if not isinstance(data, np.ndarray):
        order_after(origin)
    count_write(origin)


def count_write(origin: Any) -> None:
    """Tell autograd that `origin` was written."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(origin, torch.Tensor) and not origin.is_inference():
        torch.autograd.graph.increment_version(origin)


def borrow(tensor: Tensor, name: str = "array") -> Borrowed:
    """See a weight of any kind as a numpy or CuPy array, without a copy where its library allows.

    Raises:
        UnsupportedArray: it is no array, or lies on a device that no backend serves.
        GpuUnavailable: it lies on a GPU, and CuPy can't be imported.
        UnsupportedDtype: it is not float16, bfloat16, float32 or float64.
    """
    named = isinstance(tensor, WeightTensor)
    if named:
        name, tensor = tensor.name, tensor.data
    data, dtype, export, writable = _import(tensor, name)
    if dtype not in DTYPES:
        raise UnsupportedDtype(name, dtype)
    return Borrowed(name, data, dtype, export, named, writable, tensor)


def to_numpy(data: Any, name: str) -> Array:
    """See an array of any library, dtype and layout as a numpy array, without a copy where its library allows.

    Raises `UnsupportedArray`.
    """
    return _import_host(data, name)[0]


def see_array(data: Any, name: str) -> tuple[Any, np.dtype[Any], bool]:
    """See an array of any library as a numpy or CuPy array.

    Returns the array, the dtype of its elements, and whether it can be written. Raises `UnsupportedArray`.
    """
    array, dtype, _, reaches = _import(data, name)
    return array, dtype, reaches and bool(getattr(array.flags, "writeable", True))


def tensors_with_names(tensors: Iterable[Tensor] | Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Several weights, each with the name it has in errors unless it is a `WeightTensor`.

    Raises `InvalidOption` for a single one.
    """
    if isinstance(tensors, Mapping):
        yield from tensors.items()
        return
    if isinstance(tensors, WeightTensor) or hasattr(tensors, "__array__") or hasattr(tensors, "__dlpack__"):
        raise InvalidOption("one tensor was given where several are wanted: put it in a list, or in a dict by name")
    if not hasattr(tensors, "__iter__"):
        hint = "of a torch module give dict(module.named_parameters())"
        raise InvalidOption(f"{type(tensors).__name__} is no list or dict of tensors; {hint}")
    for index, tensor in enumerate(tensors):
        yield f"tensors[{index}]", tensor


def _overlaps_itself(array: Array) -> bool:
    """Whether elements may share memory: walking the axes from the smallest stride, each must step over the last."""
    if array.flags.c_contiguous or not array.size:
        return False
    extent = array.itemsize
    axes = sorted(
        (abs(stride), length) for stride, length in zip(array.strides, array.shape, strict=True) if length > 1
    )
    for stride, length in axes:
        if stride < extent:
            return True
        extent += stride * (length - 1)
    return False


def _reshaped(name: str, data: Any, shape: tuple[int, ...]) -> Any:
    have = math.prod(np.shape(data))
    if math.prod(shape) != have or any(length < 0 for length in shape):
        raise ShapeMismatch(f"shape {list(shape)} of tensor '{name}' does not fit its {have} elements")
    return data.reshape(shape) if hasattr(data, "reshape") else np.asarray(data).reshape(shape)


def _import(data: Any, name: str) -> tuple[Any, np.dtype[Any], Export, bool]:
    """See `data` as an array.

    Returns a numpy or CuPy array, the dtype of its elements, how results go back to the kind of `data`, and whether
    writing to the array reaches `data`.
    """
    if type(data) is not np.ndarray and on_cuda_device(data):
        return import_device_array(data, name)
    array, export, writable = _import_host(data, name)
    return array, array.dtype, export, writable


def _import_host(data: Any, name: str) -> tuple[Array, Export, bool]:
    if type(data) is np.ndarray:
        return data, _as_is, True
    if isinstance(data, np.ma.MaskedArray):
        raise UnsupportedArray(name, "it is a masked array; give its data, or fill it")
    if isinstance(data, np.ndarray):
        return np.asarray(data), _as_is, True
    try:
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(data, torch.Tensor):
            return _import_torch(data)
        if hasattr(data, "__dlpack__"):
            return np.from_dlpack(data), _exporter_of(data), True
        if hasattr(data, "__array__") or isinstance(data, list | tuple | float | int):
            return np.asarray(data), _as_is, False
    except (RuntimeError, BufferError, TypeError, ValueError) as error:
        raise UnsupportedArray(name, str(error)) from error
    raise UnsupportedArray(name, f"{type(data).__name__} has neither __dlpack__ nor __array__")


def _as_is(array: Array) -> Array:
    return array


def _import_torch(tensor: Any) -> tuple[Array, Export, bool]:
    """DLPack refuses what needs a gradient, and numpy's DLPack refuses bfloat16: it travels as int16."""
    torch = sys.modules["torch"]
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return np.from_dlpack(tensor.view(torch.int16)).view(ml_dtypes.bfloat16), _to_torch, True
    return np.from_dlpack(tensor), _to_torch, True


def _to_torch(array: Array) -> Any:
    torch = sys.modules["torch"]
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _exporter_of(data: Any) -> Export:
    """`from_dlpack` of the library `data` belongs to, found through the array API standard; else numpy stays."""
    namespace = getattr(data, "__array_namespace__", None)
    return namespace().from_dlpack if namespace is not None else _as_is
