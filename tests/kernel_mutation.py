"""Puts faults into the CUDA kernels, one at a time, and runs tests until one fails. scripts/mutate-kernels runs it."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from tests.kernel_mutants import MUTANTS, Mutant

KERNELS = Path(__file__).parents[1] / "oxiprune_gpu" / "backends" / "kernels"

ENOUGH = 0.95
"""Share of the faults that must be caught."""

MOST_SECONDS = 400
"""Of the tests for one fault; a kernel that does not end is one that is caught."""

SELECTION = ("tests/oxiprune_gpu/test_cuda_kernels.py",)
CONTRACT = ("tests/oxiprune_gpu/test_backend_contract.py", "-k", "cuda-on-cpu and not statistics")
UNITS = ("tests/oxiprune_gpu/test_cuda_units.py", "tests/oxiprune_gpu/test_cuda_kernels.py")
PLANS = "tests/oxiprune_gpu/test_plans_of_units.py"
GROUPS = ("tests/oxiprune_gpu/test_cuda_groups.py", "tests/oxiprune_gpu/test_cuda_kernels.py")

TESTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "units.cu": (UNITS,),
    "sums.cuh": (UNITS,),
    "elements.cu": (UNITS,),
    "groups.cu": (GROUPS,),
    "losses.cu": (CONTRACT[:1],),
}
"""Arguments of one run of pytest after another, for a file; SELECTION, then CONTRACT for those not named."""


class Fate(NamedTuple):
    """What became of a mutant: `caught` by a test, or not; or the mutant itself is `wrong`."""

    mutant: Mutant
    caught: bool
    wrong: str
    by: str
    seconds: float


def wrong_texts() -> Iterator[str]:
    """Mutants that do not fit the kernels any more."""
    for mutant in MUTANTS:
        count = (KERNELS / mutant.file).read_text(encoding="utf-8").count(mutant.old)
        if count != 1:
            yield f"{mutant.name}: its text stands {count} times in {mutant.file}"
    names = [mutant.name for mutant in MUTANTS]
    yield from (f"{name}: more than one mutant is called so" for name in set(names) if names.count(name) > 1)


def fate_of(mutant: Mutant) -> Fate:
    """Run the tests of one mutant until one fails."""
    start, by, wrong = time.monotonic(), "", ""
    with tempfile.TemporaryDirectory(prefix="oxiprune-mutant-") as folder:
        share_built_kernels(Path(folder))
        for command in commands(mutant):
            code, output = run(command, mutant.name, folder)
            if "does not compile" in output:
                wrong = "it does not compile:\n" + output[-3000:]
            elif code not in (0, 1) and "FAILED" not in output and "Sanitizer" not in output and code >= 0:
                wrong = f"pytest ended with {code}:\n{output[-3000:]}"
            if code or wrong:
                by = first_failure(output, code)
                break
    return Fate(mutant, bool(by) and not wrong, wrong, by, time.monotonic() - start)


def commands(mutant: Mutant) -> list[list[str]]:
    """Runs of tests, the one most likely to fail first."""
    if mutant.races:
        return [["scripts/sanitize-kernels", "thread", *SELECTION, "-x", "-k", mutant.tests]]
    plain = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=line", "-p", "no:cacheprovider"]
    if mutant.tests:
        return [[*plain, *UNITS, PLANS, "-k", mutant.tests]]
    return [[*plain, *tests] for tests in TESTS.get(mutant.file, (SELECTION, CONTRACT))]


def run(command: list[str], mutant: str, folder: str) -> tuple[int, str]:
    """Exit code and output of a command that sees the mutant instead of the kernels, and builds into a folder."""
    environment = {"OXIPRUNE_SHIM_SEED": "1", **os.environ, "OXIPRUNE_KERNEL_MUTANT": mutant, "TMPDIR": folder}
    try:
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=MOST_SECONDS
        )
    except subprocess.TimeoutExpired:
        return -1, "FAILED it does not end"
    return result.returncode, result.stdout + result.stderr


def share_built_kernels(folder: Path) -> None:
    """Spare a mutant from building what it does not change, and others from keeping what was built for it."""
    built = Path(tempfile.gettempdir()) / f"oxiprune-cuda-on-cpu-{os.getuid()}"
    (folder / built.name).mkdir(mode=0o700)
    for library in built.glob("*.so"):
        os.link(library, folder / built.name / library.name)


def first_failure(output: str, code: int) -> str:
    """The test that failed, or how the process ended."""
    for line in output.splitlines():
        if line.startswith("FAILED"):
            return line.split("::")[-1].split(" - ")[0].removeprefix("FAILED ")
        if line.startswith("WARNING: ThreadSanitizer"):
            return line.removeprefix("WARNING: ").split(" (")[0]
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def report(fate: Fate) -> None:
    """A row of the table."""
    how = "WRONG" if fate.wrong else "caught" if fate.caught else "SURVIVED"
    print(f"{how:8}  {fate.seconds:5.1f} s  {fate.mutant.file:12}  {fate.mutant.name:40}  {fate.by}", flush=True)
    if fate.wrong:
        print(fate.wrong, flush=True)


def main() -> int:
    """Try all mutants, or those whose name holds the text given; 0 when enough are caught."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("text", nargs="?", default="", help="only mutants whose name or file holds it")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at the same time")
    options = parser.parse_args()
    if wrong := list(wrong_texts()):
        print(*wrong, sep="\n")
        return 1
    chosen = [mutant for mutant in MUTANTS if options.text in mutant.name or options.text in mutant.file]
    fates = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for running in as_completed([pool.submit(fate_of, mutant) for mutant in chosen]):
            report(running.result())
            fates.append(running.result())
    caught = sum(fate.caught for fate in fates)
    print(f"{caught} of {len(fates)} faults caught")
    return not fates or any(fate.wrong for fate in fates) or caught < ENOUGH * len(fates)


if __name__ == "__main__":
    sys.exit(main())
