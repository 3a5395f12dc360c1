"""What is said of a machine: what stands in the way of its GPU, and the command that mends it."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from oxiprune_gpu import diagnosis
from oxiprune_gpu.backends import gpu_facts
from oxiprune_gpu.diagnosis import CUDA_12, CUDA_13, GpuFacts, diagnose

H100 = diagnosis.Device(0, "NVIDIA H100", "9.0", 80 << 30)
WELL = {
    **{"driver": 13000, "driver_devices": 1, "wheels": ("cupy-cuda13x 14.2.0",), "cupy": "14.2.0", "runtime": 13000},
    **{"nvrtc": "13.0", "devices": (H100,)},
}


def facts(**changes: object) -> GpuFacts:
    return GpuFacts(**{**WELL, **changes})


def test_all_is_well():
    found = diagnose(facts())
    assert found.findings == ()
    assert found.gpu_works


CASES = {
    "no driver, no CuPy": (GpuFacts(), False, "no NVIDIA driver was found", ""),
    "CuPy alone": (facts(driver=0, driver_devices=0, devices=()), False, "no NVIDIA driver was found", ""),
    "a driver, no CuPy, CUDA 12": (GpuFacts(12080, 1), False, "CuPy is not installed", CUDA_12),
    "a driver, no CuPy, CUDA 13": (GpuFacts(13000, 1), False, "CuPy is not installed", CUDA_13),
    "an old driver": (GpuFacts(11040, 1), True, "the driver serves CUDA 11.4 at most", "driver 525"),
    "a driver without devices": (GpuFacts(12080, 0), False, "the NVIDIA driver shows no device", "CUDA_VISIBLE"),
    "CuPy too new for the driver": (
        facts(driver=12080, devices=(), no_devices="cudaErrorInsufficientDriver"),
        True,
        "CuPy is made for CUDA 13, the driver serves CUDA 12.8 at most",
        f"install driver 580 or newer; or pip uninstall cupy-cuda13x, then {CUDA_12}",
    ),
    "two CuPys": (
        facts(wheels=("cupy-cuda12x 14.0", "cupy-cuda13x 14.2")),
        True,
        "several CuPy packages are installed over each other: cupy-cuda12x 14.0, cupy-cuda13x 14.2",
        f"pip uninstall cupy-cuda12x cupy-cuda13x, then {CUDA_13}",
    ),
    "CuPy that can't be imported": (
        facts(cupy="", no_cupy="ImportError: numpy", devices=(), nvrtc=""),
        True,
        "CuPy is installed (cupy-cuda13x 14.2.0) and can't be imported: ImportError: numpy",
        f"pip uninstall cupy-cuda13x, then {CUDA_13}",
    ),
    "no NVRTC": (
        facts(nvrtc="", no_nvrtc="RuntimeError: libnvrtc.so.13"),
        True,
        "NVRTC, the compiler of kernels, was not found: RuntimeError: libnvrtc.so.13",
        CUDA_13,
    ),
    "no headers": (facts(runtime=12090, no_headers="CompileException: cuda_fp16.h"), True, "CUDA headers", CUDA_12),
    "a GPU before Volta": (
        facts(driver=12080, runtime=12090, devices=(diagnosis.Device(0, "Tesla P100", "6.0", 16 << 30),)),
        True,
        "GPU 0 (Tesla P100) has compute capability 6.0: the kernels need 7.0 (Volta) or newer",
        "--backend cpu",
    ),
    "no device": (facts(devices=(), no_devices="no CUDA-capable device"), True, "no CUDA-capable device", "nvidia-smi"),
}


@pytest.mark.parametrize("case", CASES)
def test_findings(case):
    what, broken, text, remedy = CASES[case]
    found = diagnose(what)
    matching = [finding for finding in found.findings if text in finding.text]
    assert [remedy in finding.remedy for finding in matching] == [True]
    assert any(finding.broken for finding in found.findings) == broken
    assert not found.gpu_works


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """As much of CuPy as is asked for facts, with one device."""
    fake = ModuleType("cupy")
    fake.__version__ = "14.2.0"
    fake.ones = np.ones
    properties = {"name": b"NVIDIA H100", "major": 9, "minor": 0, "totalGlobalMem": 80 << 30}
    runtime = SimpleNamespace(
        getDeviceCount=lambda: 1, getDeviceProperties=lambda number: properties, runtimeGetVersion=lambda: 13000
    )
    fake.cuda = SimpleNamespace(runtime=runtime, nvrtc=SimpleNamespace(getVersion=lambda: (13, 0)))
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(gpu_facts, "_driver", lambda: (13000, 1))
    monkeypatch.setattr(gpu_facts, "installed_version", lambda name: "14.2.0" if name == "cupy-cuda13x" else "")
    return fake


def fails(error: Exception):
    def ask(*arguments: object, **options: object) -> None:
        raise error

    return ask


def test_facts(cupy):
    assert gpu_facts.gpu_facts() == facts()


def test_facts_of_a_machine_without_nvrtc(cupy):
    cupy.cuda.nvrtc.getVersion = fails(RuntimeError("Failure finding\n ==== libnvrtc.so.13"))
    found = gpu_facts.gpu_facts()
    assert (found.nvrtc, found.no_nvrtc) == ("", "RuntimeError: Failure finding libnvrtc.so.13")
    assert (found.devices, found.no_headers) == ((H100,), "")


def test_facts_of_a_machine_without_headers(cupy):
    cupy.ones = fails(Exception("cuda_fp16.h"))
    assert gpu_facts.gpu_facts().no_headers == "Exception: cuda_fp16.h"


def test_facts_of_a_machine_without_devices(cupy):
    cupy.cuda.runtime.getDeviceCount = fails(RuntimeError("cudaErrorNoDevice"))
    found = gpu_facts.gpu_facts()
    assert (found.devices, found.no_devices) == ((), "RuntimeError: cudaErrorNoDevice")


def test_facts_of_this_machine():
    assert isinstance(gpu_facts.gpu_facts(), GpuFacts)
