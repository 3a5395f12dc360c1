"""As much of CuPy as the library touches, over numpy: arrays that are no numpy arrays and refuse to become some.

With it the whole way of an array on a GPU runs without one: how it is borrowed, pruned by kernels compiled for the CPU,
and handed back. Install it with `installed(monkeypatch)`.

Copies that begin on a stream are made as late as they may be: when a kernel is launched, or an event waited for. So a
buffer that is filled again or read too early is seen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.lib.mixins import NDArrayOperatorsMixin

from oxiprune_gpu import backends
from oxiprune_gpu.backends.cuda_backend import CudaBackend
from oxiprune_gpu.backends.kernels import source_of
from tests.cuda_on_cpu.loader import CpuKernels


class Device:
    """A device that notes whether work is being sent to it."""

    entered = 0

    def __init__(self, number: int = 0) -> None:
        self.id = number

    def __enter__(self) -> Device:
        Device.entered += 1
        return self

    def __exit__(self, *error: object) -> None:
        pass


_begun: list[Callable[[], object]] = []
"""Copies that were begun and not waited for."""


def _finish_copies() -> None:
    while _begun:
        _begun.pop(0)()


class Stream:
    """A stream that notes what it waits for. All work is done at once, but for copies; a stream is also its event."""

    current: ClassVar[list[Stream]] = []
    capturing = False

    def __init__(self, ptr: int = 0, **options: bool) -> None:
        self.ptr = ptr

    def __enter__(self) -> Stream:
        Stream.current.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        Stream.current.pop()

    def record(self, stream: Stream | None = None) -> tuple[str, int]:
        return ("event of", self.ptr)

    def wait_event(self, event: object) -> None:
        _waits.append((self.ptr, event))

    def is_capturing(self) -> bool:
        return self.capturing

    def synchronize(self) -> None:
        _finish_copies()


_waits: list[tuple[int, object]] = []
"""Which stream waited for which event."""


def waits() -> list[tuple[int, object]]:
    """Which stream has waited for which event, since this was asked."""
    found = _waits.copy()
    _waits.clear()
    return found


def current_stream() -> Stream:
    return Stream.current[-1] if Stream.current else Stream()


class Runtime:
    """The driver, and what it says of the device."""

    devices = 1
    free_bytes = 1 << 40

    def getDeviceCount(self) -> int:
        return self.devices

    def deviceSynchronize(self) -> None:
        _finish_copies()

    def memGetInfo(self) -> tuple[int, int]:
        return self.free_bytes, 1 << 40


_DISPATCHED = {
    *("abs", "argsort", "array_equal", "asarray", "concatenate", "copyto", "count_nonzero", "cumsum", "diagonal"),
    *("empty_like", "flatnonzero", "full_like", "nonzero", "ones_like", "partition", "tril", "triu", "where"),
    *("shape", "zeros_like", "cholesky", "eigh", "inv", "norm", "qr", "solve"),
}
"""Functions of numpy that CuPy has too, so that numpy hands its arrays over to it."""


class ndarray(NDArrayOperatorsMixin):
    """An array on a device that does not exist."""

    converts_floats: ClassVar[bool] = False
    """Whether floats may be converted, though a GPU flushes denormal numbers then: where that does not matter."""

    def __init__(self, host: Any, number: int = 0) -> None:
        self.host = np.asarray(host)
        self.device = Device(number)

    dtype = property(lambda self: self.host.dtype)
    shape = property(lambda self: self.host.shape)
    strides = property(lambda self: self.host.strides)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    T = property(lambda self: ndarray(self.host.T))
    itemsize = property(lambda self: self.host.itemsize)
    nbytes = property(lambda self: self.host.nbytes)
    data = property(lambda self: SimpleNamespace(ptr=self.host.ctypes.data))
    flags = property(lambda self: SimpleNamespace(c_contiguous=self.host.flags.c_contiguous))
    __cuda_array_interface__ = property(lambda self: {"data": (self.host.ctypes.data, False)})

    def get(self, stream: Any = None, *, out: np.ndarray | None = None, blocking: bool = True) -> np.ndarray:
        target = np.empty_like(self.host) if out is None else out
        assert (target.shape, target.dtype) == (self.shape, self.dtype)
        _begun.append(lambda: np.copyto(target, self.host))
        if blocking:
            _finish_copies()
        return target

    def set(self, source: np.ndarray, stream: Any = None) -> None:
        assert (source.shape, source.dtype) == (self.shape, self.dtype)
        _begun.append(lambda: np.copyto(self.host, source))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        hosts = [each for each in inputs if isinstance(each, np.ndarray)]
        assert not hosts, "CuPy takes no arrays of numpy as operands"
        out = options.pop("out", None)
        if out is not None:
            options["out"] = tuple(map(_host, out))
        found = getattr(ufunc, method)(*map(_host, inputs), **options)
        return ndarray(found) if out is None else out[0]

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: dict[str, Any]) -> Any:
        assert function.__name__ in _DISPATCHED, f"add {function.__name__}, if CuPy has it"
        try:
            found = function(*map(_host, arguments), **{name: _host(value) for name, value in options.items()})
        except np.linalg.LinAlgError:
            found = np.full_like(arguments[0].host, np.nan)
        return tuple(map(_on_device, found)) if isinstance(found, tuple) else _on_device(found)

    def __array__(self, *arguments: object) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def copy(self, order: str = "C") -> ndarray:
        assert self.host.ctypes.data % self.itemsize == 0, "CuPy's copy would fault"
        return ndarray(self.host.copy(order=order))

    def reshape(self, *shape: Any) -> ndarray:
        return ndarray(self.host.reshape(*shape))

    def view(self, dtype: Any) -> ndarray:
        return ndarray(self.host.view(dtype))

    def astype(self, dtype: Any, **options: Any) -> ndarray:
        floats = {self.dtype.kind, np.dtype(dtype).kind} == {"f"} and self.dtype != dtype
        assert self.converts_floats or not floats, "CuPy's conversion flushes denormal numbers"
        return ndarray(self.host.astype(dtype, **options))

    def sum(self, *arguments: Any, **options: Any) -> ndarray:
        return ndarray(self.host.sum(*arguments, **options))

    def tolist(self) -> Any:
        return self.host.tolist()

    def fill(self, value: Any) -> None:
        self.host.fill(value)

    def __getitem__(self, index: Any) -> ndarray:
        return ndarray(self.host[_index(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        assert self.host.ctypes.data % self.itemsize == 0, "CuPy's copy would fault"
        self.host[_index(index)] = _host(value)

    def __len__(self) -> int:
        return len(self.host)

    def __int__(self) -> int:
        return int(self.host)

    def __float__(self) -> float:
        return float(self.host)

    def __bool__(self) -> bool:
        return bool(self.host)

    __hash__ = None  # type: ignore[assignment]


for _name in ("any", "all", "argmax", "cumsum", "mean", "transpose"):
    setattr(
        ndarray,
        _name,
        lambda array, *arguments, name=_name, **options: ndarray(getattr(array.host, name)(*arguments, **options)),
    )
ndarray.__module__ = "cupy"


def _host(value: Any) -> Any:
    return value.host if isinstance(value, ndarray) else value


def _on_device(value: Any) -> Any:
    return ndarray(value) if isinstance(value, np.ndarray | np.generic) else value


def _index(index: Any) -> Any:
    return tuple(map(_host, index)) if isinstance(index, tuple) else _host(index)


def _making(make: Callable[..., np.ndarray]) -> Callable[..., ndarray]:
    return lambda *arguments, **options: ndarray(make(*map(_host, arguments), **options))


class FakeKernels:
    """Kernels compiled for the CPU, for these arrays."""

    def __init__(self) -> None:
        self._inner = CpuKernels(source_of)

    def kernel(self, family: str, name: str, defines: Any) -> Callable[..., None]:
        inner = self._inner.kernel(family, name, defines)

        def launch(grid: Any, block: Any, args: tuple[Any, ...], **options: Any) -> None:
            _finish_copies()
            inner(grid, block, tuple(map(_host, args)), **options)

        return launch


def module() -> ModuleType:
    """The module `cupy`."""
    fake = ModuleType("cupy")
    functions = (
        *("empty", "zeros", "ones", "full", "arange", "concatenate", "empty_like", "zeros_like"),
        *("count_nonzero", "packbits"),
    )
    vars(fake).update({name: _making(getattr(np, name)) for name in functions})
    vars(fake).update(
        ndarray=ndarray,
        asarray=lambda value, dtype=None: (
            value
            if isinstance(value, ndarray) and dtype in (None, value.dtype)
            else ndarray(np.array(_host(value), dtype))
        ),
        ascontiguousarray=lambda value: ndarray(np.ascontiguousarray(_host(value))),
        asnumpy=lambda value: value.get(),
        from_dlpack=lambda value: ndarray(np.from_dlpack(value.on_host)),
        get_default_memory_pool=lambda: SimpleNamespace(free_bytes=lambda: 0),
        cuda=SimpleNamespace(
            get_current_stream=current_stream,
            ExternalStream=Stream,
            Device=Device,
            alloc_pinned_memory=bytearray,
            Stream=Stream,
            Event=Stream,
            runtime=Runtime(),
        ),
    )
    return fake


def installed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Make `import cupy` give the fake, and the verbs prune its arrays."""
    fake = module()
    _begun.clear()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    inner, backend = backends._backend, CudaBackend(fake, FakeKernels(), blocks=5)
    monkeypatch.setattr(backends, "_backend", lambda library: backend if library == "cupy" else inner(library))
    return fake
