"""Is there a GPU, is it used, and if not, what mends that? The command `oxiprune doctor` shows what is found here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from oxiprune_gpu.backends import backend_on_gpu
from oxiprune_gpu.backends.choice import OLDEST_CAPABILITY
from oxiprune_gpu.backends.gpu_facts import Device, GpuFacts, gpu_facts, installed_version
from oxiprune_gpu.backends.self_test import Outcome, run
from oxiprune_gpu.device_arrays import import_cupy

CUDA_12 = "pip install 'oxiprune-gpu[gpu]'"
CUDA_13 = "pip install 'oxiprune-gpu[gpu-cuda13]'"

_DRIVER_FOR = {12: "525", 13: "580"}
"""CUDA -> the oldest driver that serves every release of it, from the release notes of CUDA (minor version
compatibility)."""


@dataclass(frozen=True)
class Finding:
    """Something that keeps the GPU from being used. `broken`: there is a GPU, or CuPy for one, and it does not work."""

    text: str
    remedy: str = ""
    broken: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """What there is, and what stands in the way."""

    facts: GpuFacts
    findings: tuple[Finding, ...]

    @property
    def gpu_works(self) -> bool:
        """Whether kernels can be compiled and started; what they compute is the self-test's question."""
        return bool(self.facts.devices) and not any(finding.broken for finding in self.findings)


def diagnose(facts: GpuFacts | None = None) -> Diagnosis:
    """Look at this machine, or judge what was found on another."""
    facts = gpu_facts() if facts is None else facts
    return Diagnosis(facts, tuple(_findings(facts)))


def self_test(device: int) -> Iterator[Outcome]:
    """Compare every kernel with numpy, on one GPU; see `oxiprune_gpu.backends.self_test`."""
    cupy = import_cupy()
    with cupy.cuda.Device(device):
        yield from run(backend_on_gpu(), cupy)


def _findings(facts: GpuFacts) -> Iterator[Finding]:
    if len(facts.wheels) > 1:
        names = [wheel.split()[0] for wheel in facts.wheels]
        remedy = f"pip uninstall {' '.join(names)}, then {_fitting(facts.driver)}"
        text = f"several CuPy packages are installed over each other: {', '.join(facts.wheels)}"
        yield Finding(text, remedy, facts.driver_devices > 0)
    if not facts.driver:
        yield Finding("no NVIDIA driver was found")
    elif facts.driver < 12000:
        yield Finding(
            f"the driver serves CUDA {cuda_version_text(facts.driver)} at most",
            f"install driver {_DRIVER_FOR[12]} or newer",
            bool(facts.driver_devices),
        )
    elif not facts.driver_devices:
        yield Finding("the NVIDIA driver shows no device", "look at nvidia-smi and CUDA_VISIBLE_DEVICES")
    yield from _cupy_findings(facts)
    for device in facts.devices:
        major, _, minor = device.compute_capability.partition(".")
        if int(major) * 10 + int(minor) < OLDEST_CAPABILITY:
            yield Finding(
                f"GPU {device.number} ({device.name}) has compute capability {device.compute_capability}: the kernels "
                f"need {OLDEST_CAPABILITY // 10}.{OLDEST_CAPABILITY % 10} (Volta) or newer",
                "prune on the CPU (--backend cpu), or hide this GPU by CUDA_VISIBLE_DEVICES",
                True,
            )


def _cupy_findings(facts: GpuFacts) -> Iterator[Finding]:
    remedy = _fitting(facts.driver)
    if not facts.cupy:
        if facts.wheels:
            text = f"CuPy is installed ({', '.join(facts.wheels)}) and can't be imported: {facts.no_cupy}"
            yield Finding(text, f"pip uninstall {facts.wheels[0].split()[0]}, then {remedy}", facts.driver_devices > 0)
        else:
            yield Finding("CuPy is not installed", remedy)
        return
    if facts.runtime // 1000 > facts.driver // 1000 >= 12:
        major = facts.runtime // 1000
        text = f"CuPy is made for CUDA {major}, the driver serves CUDA {cuda_version_text(facts.driver)} at most"
        wanted = f"install driver {_DRIVER_FOR.get(major, f'for CUDA {major}')} or newer"
        own = facts.wheels[0].split()[0] if facts.wheels else "cupy"
        yield Finding(text, f"{wanted}; or pip uninstall {own}, then {remedy}", facts.driver_devices > 0)
    elif facts.driver_devices and not facts.devices:
        yield Finding(f"CuPy finds no device: {facts.no_devices}", "look at nvidia-smi and CUDA_VISIBLE_DEVICES", True)
    own_extra = _extra(facts.runtime // 1000) or remedy
    if facts.no_nvrtc:
        yield Finding(
            f"NVRTC, the compiler of kernels, was not found: {facts.no_nvrtc}", own_extra, bool(facts.devices)
        )
    if facts.no_headers:
        yield Finding(f"CuPy can't compile with the CUDA headers: {facts.no_headers}", own_extra, bool(facts.devices))


def _fitting(driver: int) -> str:
    """The command that installs what the driver can serve."""
    if not driver:
        return f"with a driver for CUDA 12: {CUDA_12}; for CUDA 13: {CUDA_13}"
    return CUDA_13 if driver >= 13000 else CUDA_12


def _extra(major: int) -> str:
    return {12: CUDA_12, 13: CUDA_13}.get(major, "")


def cuda_version_text(version: int) -> str:
    """12080 as 12.8."""
    return f"{version // 1000}.{version % 1000 // 10}"


__all__ = [
    "Device",
    "Diagnosis",
    "Finding",
    "GpuFacts",
    "Outcome",
    "cuda_version_text",
    "diagnose",
    "installed_version",
    "self_test",
]
