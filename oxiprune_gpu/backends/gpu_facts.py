"""What this machine offers the CUDA backend: driver, CuPy, NVRTC, headers, devices. Nothing here raises.

The driver is asked without CuPy first, so that a machine without CuPy can be told which one fits.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_CUPY_WHEELS = ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x")
_MOST_SAID = 300
"""Characters of a library's complaint that are repeated."""


@dataclass(frozen=True)
class Device:
    """One GPU."""

    number: int
    name: str
    compute_capability: str
    memory_bytes: int


@dataclass(frozen=True)
class GpuFacts:
    """What was found. Versions are numbers as CUDA gives them (12080 for 12.8), 0 where there is nothing to ask.

    `no_...` says why something is missing; it is empty where it is there. `no_headers` is empty too where nothing could
    be tried.
    """

    driver: int = 0
    driver_devices: int = 0
    wheels: tuple[str, ...] = ()
    cupy: str = ""
    no_cupy: str = ""
    runtime: int = 0
    nvrtc: str = ""
    no_nvrtc: str = ""
    no_headers: str = ""
    devices: tuple[Device, ...] = ()
    no_devices: str = ""


def gpu_facts() -> GpuFacts:
    """Look at the machine."""
    driver, count = _driver()
    wheels = tuple(f"{name} {version}" for name in _CUPY_WHEELS if (version := installed_version(name)))
    cupy, no_cupy = _tried(_imported_cupy)
    if cupy is None:
        return GpuFacts(driver, count, wheels, no_cupy=no_cupy)
    nvrtc, no_nvrtc = _tried(lambda: "{}.{}".format(*cupy.cuda.nvrtc.getVersion()))
    devices, no_devices = _tried(lambda: _devices(cupy))
    runtime, _ = _tried(cupy.cuda.runtime.runtimeGetVersion)
    no_headers = _tried(lambda: _compile_with_headers(cupy))[1] if devices and nvrtc else ""
    return GpuFacts(
        *(driver, count, wheels, str(cupy.__version__), "", runtime or 0, nvrtc or "", no_nvrtc, no_headers),
        *(devices or (), no_devices or ("" if devices else "the driver shows no device")),
    )


def installed_version(package: str) -> str:
    """Version of an installed distribution, which is not imported; nothing when it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _tried(ask: Callable[[], Any]) -> tuple[Any, str]:
    """What `ask` returns, or None and what it said."""
    try:
        with warnings.catch_warnings():  # CuPy warns of what is told here in its own words
            warnings.simplefilter("ignore")
            return ask(), ""
    except Exception as error:  # CuPy, its loaders and the driver raise kinds of their own
        said = " ".join(str(error).replace("=", " ").split())
        return None, f"{type(error).__name__}: {said[:_MOST_SAID]}"


def _imported_cupy() -> Any:
    import cupy

    return cupy


def _devices(cupy: Any) -> tuple[Device, ...]:
    runtime = cupy.cuda.runtime
    found = []
    for number in range(runtime.getDeviceCount()):
        properties = runtime.getDeviceProperties(number)
        name = properties["name"]
        capability = f"{properties['major']}.{properties['minor']}"
        text = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
        found.append(Device(number, text, capability, int(properties["totalGlobalMem"])))
    return tuple(found)


def _compile_with_headers(cupy: Any) -> None:
    """CuPy's own kernels include the CUDA headers, ours do not; filling an array takes one of CuPy's."""
    if int(cupy.ones(3, dtype="float16").sum()) != 3:
        raise RuntimeError("CuPy adds up 3 ones to something else")


def _driver() -> tuple[int, int]:
    """The newest CUDA that the driver serves, and how many devices it shows; zeros without a driver."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        version, count = ctypes.c_int(), ctypes.c_int()
        library.cuDriverGetVersion(ctypes.byref(version))
        if library.cuInit(0) == 0:
            library.cuDeviceGetCount(ctypes.byref(count))
    except (OSError, AttributeError):
        return 0, 0
    return version.value, count.value
