"""What `oxiprune doctor` shows: versions, GPUs, a self-test of the kernels, and what mends what is missing."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from onnx_tools.renderers.text import printable
from onnx_tools.terminal import complain, results
from oxiprune_gpu import __version__
from oxiprune_gpu.diagnosis import Diagnosis, Outcome, cuda_version_text, diagnose, installed_version, self_test

_PACKAGES = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu")
_CPU = "Arrays are pruned on the CPU, by numpy."
_GPU = "Arrays that lie on a GPU are pruned there; `oxiprune prune` uses it where that pays (--backend)."
_BROKEN = "There is a GPU, and it can't be relied on."


def doctor(*, quiet: bool, as_json: bool) -> int:
    """Look, test and tell; return the exit code: 1 when there is a GPU that does not work."""
    diagnosis = diagnose()
    silent = quiet or as_json
    if not silent:
        _print(*_machine(diagnosis))
    outcomes = []
    for number, outcome in _tests(diagnosis):
        outcomes.append((number, outcome))
        if not silent:
            _print(_tested(outcome))
    broken = [outcome for _, outcome in outcomes if not outcome.ok]
    ok = not broken and not any(finding.broken for finding in diagnosis.findings)
    if as_json:
        _print(json.dumps(_plain(diagnosis, outcomes, ok), indent=2))
    elif not quiet:
        _print(*_verdict(diagnosis, len(broken), len(outcomes), ok))
    if not ok and silent:
        _complain(diagnosis, broken)
    return 0 if ok else 1


def _tests(diagnosis: Diagnosis) -> Iterator[tuple[int, Outcome]]:
    """Every outcome with the number of its GPU, as soon as it is known; none where no kernel can be started."""
    for device in diagnosis.facts.devices if diagnosis.gpu_works else ():
        for outcome in _one_at_least(self_test(device.number)):
            yield device.number, outcome


def _one_at_least(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """The outcomes; what keeps the test from beginning is one too."""
    try:
        yield from outcomes
    except Exception as error:  # whatever CuPy or a driver raises
        yield Outcome("all", "", "", " ".join(f"{type(error).__name__}: {error}".split()))


def versions(diagnosis: Diagnosis) -> dict[str, str]:
    """What is installed, by name; what is missing is left out."""
    facts = diagnosis.facts
    cuda = {"CUDA runtime": facts.runtime, "CUDA of the driver": facts.driver}
    found = {
        "oxiprune": __version__,
        "Python": platform.python_version(),
        **{name: installed_version(name) for name in _PACKAGES},
        "CuPy": facts.cupy,
        **{name: cuda_version_text(number) if number else "" for name, number in cuda.items()},
        "NVRTC": facts.nvrtc,
    }
    return {name: version for name, version in found.items() if version}


def _machine(diagnosis: Diagnosis) -> Iterator[str]:
    yield from (f"{name:<20}{version}" for name, version in versions(diagnosis).items())
    for device in diagnosis.facts.devices:
        memory = f"{device.memory_bytes / (1 << 30):.1f} GiB"
        yield f"GPU {device.number:<16}{device.name}, compute capability {device.compute_capability}, {memory}"
    if diagnosis.gpu_works:
        yield ""
        yield "Every kernel against numpy, bit for bit (the first time each is compiled):"


def _tested(outcome: Outcome) -> str:
    return f"  {outcome.family:<18}{outcome.dtype:<10}{outcome.metric:<10}{outcome.problem or 'ok'}"


def _verdict(diagnosis: Diagnosis, broken: int, tests: int, ok: bool) -> Iterator[str]:
    yield ""
    for finding in diagnosis.findings:
        yield f"{finding.text[0].upper()}{finding.text[1:]}."
        if finding.remedy:
            yield f"  {finding.remedy}"
    if broken:
        yield f"{broken} of {tests} tests failed: please report the lines above."
    yield (_GPU if diagnosis.gpu_works else _CPU) if ok else _BROKEN


def _complain(diagnosis: Diagnosis, broken: list[Outcome]) -> None:
    for finding in diagnosis.findings:
        if finding.broken:
            complain("error", f"{finding.text}; {finding.remedy}")
    for outcome in broken:
        complain("error", f"{outcome.family}, {outcome.dtype}, {outcome.metric}: {outcome.problem}")


def _plain(diagnosis: Diagnosis, outcomes: list[tuple[int, Outcome]], ok: bool) -> dict[str, Any]:
    return {
        "ok": ok,
        "uses": "GPU" if ok and diagnosis.gpu_works else "CPU",
        "versions": versions(diagnosis),
        "devices": [asdict(device) for device in diagnosis.facts.devices],
        "findings": [asdict(finding) for finding in diagnosis.findings],
        "self_test": [{"device": number, "ok": outcome.ok, **asdict(outcome)} for number, outcome in outcomes],
    }


def _print(*lines: str) -> None:
    with results():
        sys.stdout.write("".join(f"{line if line.startswith('{') else printable(line)}\n" for line in lines))
