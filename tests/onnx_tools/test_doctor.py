"""The command `oxiprune doctor`: what it prints, and its exit codes."""

from __future__ import annotations

import json

import pytest

from onnx_tools import doctor
from oxiprune_gpu.diagnosis import CUDA_12, Device, Diagnosis, Finding, GpuFacts, Outcome
from tests.command import run

FACTS = GpuFacts(
    12080, 1, cupy="14.2.0", runtime=12000, nvrtc="12.9", devices=(Device(0, "Some\x1bGPU", "9.0", 1 << 33),)
)
GOOD = Outcome("units", "float32", "l2")
BAD = Outcome("units", "float16", "l2", "unit scores of (1, 1, 5, 7): 2 of 5 differ")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Make a machine with these findings and outcomes of tests."""

    def make(*findings: Finding, facts: GpuFacts = FACTS, outcomes: tuple[object, ...] = (GOOD,)) -> None:
        def tests(number: int):
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome
                yield outcome

        monkeypatch.setattr(doctor, "diagnose", lambda: Diagnosis(facts, findings))
        monkeypatch.setattr(doctor, "self_test", tests)

    return make


def test_a_gpu_that_works(machine):
    machine()
    result = run("doctor")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert r"GPU 0               Some\x1bGPU, compute capability 9.0, 8.0 GiB" in lines
    assert "CUDA of the driver  12.8" in lines
    assert "  units             float32   l2        ok" in lines
    assert (
        lines[-1] == "Arrays that lie on a GPU are pruned there; `oxiprune prune` uses it where that pays (--backend)."
    )


def test_a_kernel_that_fails(machine):
    machine(outcomes=(GOOD, BAD))
    result = run("doctor")
    assert result.exit_code == 1
    assert "  units             float16   l2        unit scores of (1, 1, 5, 7): 2 of 5 differ" in result.stdout
    assert "1 of 2 tests failed" in result.stdout
    quiet = run("doctor", "--quiet")
    assert (quiet.exit_code, quiet.stdout) == (1, "")
    assert quiet.stderr == f"error: units, float16, l2: {BAD.problem}\n"


def test_a_test_that_can_not_begin(machine):
    machine(outcomes=(RuntimeError("no\ncontext"),))
    result = run("doctor")
    assert result.exit_code == 1
    assert "RuntimeError: no context" in result.stdout


def test_no_gpu(machine):
    machine(Finding("CuPy is not installed", CUDA_12), facts=GpuFacts())
    result = run("doctor")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.endswith(f"\nCuPy is not installed.\n  {CUDA_12}\nArrays are pruned on the CPU, by numpy.\n")
    assert "Every kernel" not in result.stdout


def test_a_gpu_without_its_compiler(machine):
    machine(Finding("NVRTC was not found", CUDA_12, broken=True))
    result = run("doctor")
    assert result.exit_code == 1
    assert result.stdout.endswith("There is a GPU, and it can't be relied on.\n")
    assert "Every kernel" not in result.stdout
    assert run("doctor", "-q").stderr == f"error: NVRTC was not found; {CUDA_12}\n"


def test_json(machine):
    machine(outcomes=(GOOD, BAD))
    result = run("doctor", "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert (told["ok"], told["uses"], told["findings"]) == (False, "CPU", [])
    assert told["versions"]["CuPy"] == "14.2.0"
    assert told["devices"][0]["compute_capability"] == "9.0"
    assert [test["ok"] for test in told["self_test"]] == [True, False]
    assert told["self_test"][1]["problem"] == BAD.problem


def test_this_machine():
    """Whatever it has, the command ends and says which one is used."""
    result = run("doctor", "--json")
    assert json.loads(result.stdout)["uses"] in ("CPU", "GPU")
