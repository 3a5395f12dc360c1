"""Arrays on a GPU, seen as CuPy arrays without a copy. Beside the backends the only place that imports cupy.

CuPy arrays are taken as they are; torch, JAX and others come through DLPack. CuPy asks the producer to let its current
stream wait for the producer's, so what was computed before is seen; `order_after` does the same the other way round,
and `order_before` does it once more for arrays that are kept.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import ml_dtypes
import numpy as np

from oxiprune_gpu.errors import GpuUnavailable, UnsupportedArray

_CUDA_DEVICES = {2, 13}
"""DLPack's numbers for CUDA memory and CUDA managed memory."""

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def on_cuda_device(data: Any) -> bool:
    """Whether an array lies in the memory of an NVIDIA GPU. Imports nothing."""
    if _is_cupy(data):
        return True
    try:
        return hasattr(data, "__dlpack_device__") and int(data.__dlpack_device__()[0]) in _CUDA_DEVICES
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError):
        return False


def import_device_array(data: Any, name: str) -> tuple[Any, np.dtype[Any], Callable[[Any], Any], bool]:
    """See an array on a GPU as a CuPy array.

    Returns:
        (array, dtype, export, writable): `array` shares the memory of `data`; bfloat16 is held as uint16, which `dtype`
        tells; `export` makes a result the kind of array that `data` is; `writable` is False for immutable arrays.

    Raises:
        GpuUnavailable: CuPy can't be imported.
        UnsupportedArray: the array can't be shared.
    """
    cupy = import_cupy()
    if isinstance(data, cupy.ndarray):
        return *_with_dtype(data), _back_to(data.dtype), True
    try:
        if _is_torch(data):
            return *_import_torch(cupy, data), _to_torch, True
        shared = cupy.from_dlpack(data)
    except (RuntimeError, BufferError, TypeError, ValueError) as error:
        raise UnsupportedArray(name, f"{error} (is it of a dtype CuPy does not know?)") from error
    own, back = _exporter_of(data), _back_to(shared.dtype)
    return *_with_dtype(shared), lambda array: own(back(array)), _library(data) not in {"jax", "jaxlib"}


def aligned(array: Any, name: str) -> Any:
    """A CuPy array whose elements a kernel can read where they lie: the same one, or a copy.

    A GPU reads no element across its natural boundary, and CuPy's own copies do not either: bytes are copied.

    Raises:
        UnsupportedArray: its elements lie across their boundaries and are not contiguous.
    """
    if array.data.ptr % array.dtype.itemsize == 0:
        return array
    if not array.flags.c_contiguous:
        raise UnsupportedArray(name, "its elements are neither aligned nor contiguous; make a copy of its bytes")
    return bytes_of(array).copy().view(array.dtype).reshape(array.shape)


def device_name(array: Any) -> str:
    """Where a numpy or CuPy array lies, in words."""
    return "the CPU" if isinstance(array, np.ndarray) else f"GPU {array.device.id}"


def bytes_of(array: Any) -> Any:
    """A C-contiguous CuPy array as its bytes, in the same memory."""
    return array.reshape(-1).view(np.uint8)


def import_cupy() -> Any:
    """CuPy.

    Raises:
        GpuUnavailable: it is not installed, or its libraries are not.
    """
    try:
        import cupy
    except ImportError as error:
        raise GpuUnavailable(f"CuPy can't be imported: {error}") from error
    return cupy


def order_after(data: Any) -> None:
    """Let the stream that the library of `data` works on wait for what CuPy's current stream has been given."""
    if streams := _both_streams(data):
        ours, theirs = streams
        theirs.wait_event(ours.record())


def order_before(data: Any) -> None:
    """Let CuPy's current stream wait for what the stream that the library of `data` works on has been given."""
    if streams := _both_streams(data):
        ours, theirs = streams
        ours.wait_event(theirs.record())


def _both_streams(data: Any) -> tuple[Any, Any] | None:
    """CuPy's current stream and torch's, for a tensor of torch; None where there is nothing to order.

    While a CUDA graph is captured nothing is ordered: who replays it does that.
    """
    if not _is_torch(data):
        return None
    torch, cupy = sys.modules["torch"], import_cupy()
    ours = cupy.cuda.get_current_stream()
    theirs = torch.cuda.current_stream(data.device).cuda_stream
    if ours.ptr == theirs or ours.is_capturing():
        return None
    # Not torch's ExternalStream: it makes a new stream of the null stream, which is CuPy's default.
    return ours, cupy.cuda.ExternalStream(theirs)


def _is_cupy(data: Any) -> bool:
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(data, cupy.ndarray)


def _is_torch(data: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(data, torch.Tensor)


def _library(data: Any) -> str:
    return type(data).__module__.partition(".")[0]


def _with_dtype(array: Any) -> tuple[Any, np.dtype[Any]]:
    """An array, its bits instead where CuPy's own functions may not know its dtype, and the dtype of its elements."""
    if array.dtype.name == "bfloat16":
        return array.view(np.uint16), BFLOAT16
    return array, np.dtype(array.dtype)


def _import_torch(cupy: Any, tensor: Any) -> tuple[Any, np.dtype[Any]]:
    """DLPack refuses what needs a gradient, and CuPy's DLPack may refuse bfloat16: it travels as int16."""
    torch = sys.modules["torch"]
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return cupy.from_dlpack(tensor.view(torch.int16)).view(np.uint16), BFLOAT16
    return _with_dtype(cupy.from_dlpack(tensor))


def _as_is(array: Any) -> Any:
    return array


def _back_to(dtype: Any) -> Callable[[Any], Any]:
    """Bits become elements again; masks stay what they are."""
    return (
        (lambda array: array.view(dtype) if array.dtype == np.uint16 else array) if dtype.name == "bfloat16" else _as_is
    )


def _to_torch(array: Any) -> Any:
    torch = sys.modules["torch"]
    if array.dtype == np.uint16:
        return torch.from_dlpack(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_dlpack(array)


def _to_jax(array: Any) -> Any:
    return import_module("jax.dlpack").from_dlpack(array)


def _exporter_of(data: Any) -> Callable[[Any], Any]:
    """`from_dlpack` of the library `data` belongs to, found through the array API standard; else CuPy's stays."""
    if _library(data) in {"jax", "jaxlib"}:
        return _to_jax
    namespace = getattr(data, "__array_namespace__", None)
    return namespace().from_dlpack if namespace is not None else _as_is
