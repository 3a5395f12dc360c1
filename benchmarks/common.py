"""What every benchmark shares: timing candidates side by side, and keeping the figures with the machine in them.

Candidates run interleaved: every round runs each of them once, and a ratio is taken inside its round, so whatever slows
the machine for a while slows both sides of it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

_PACKAGES = ("numpy", "onnx", "onnxruntime", "onnxsim", "polygraphy", "torch", "torch-pruning", "typer")


@dataclass(frozen=True)
class Candidate:
    """Something to time. `prepare` runs before it, untimed; `every`: it takes part in every n-th round only.

    `repeats`: a round counts the median of so many runs. What is short needs it: the first run after another candidate
    finds the caches, the allocator and the peer's threads in the other's state.
    """

    name: str
    run: Callable[[], object]
    prepare: Callable[[], object] | None = None
    every: int = 1
    repeats: int = 1


@dataclass(frozen=True)
class Usage:
    """What a command took: seconds on the clock, seconds of processors, peak resident memory."""

    wall: float
    cpu: float
    rss_mib: float


@dataclass(frozen=True)
class Target:
    """A limit for a ratio: at most, or at least."""

    limit: float
    at_least: bool = False

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g}"

    def met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True)
class Figure:
    """One line of a result. `best`: the same from the two fastest runs; `spread`: quartiles over the rounds."""

    what: str
    value: float
    unit: str = "x"
    best: float | None = None
    spread: tuple[float, float] | None = None
    target: Target | None = None

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        return f"{self.target}: {'met' if self.target.met(self.value) else 'MISSED'}"


@dataclass
class Result:
    """All figures of a benchmark, the raw seconds they come from, and what was skipped."""

    name: str
    settings: dict[str, Any]
    figures: list[Figure] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)
        print(f"note: {text}", flush=True)


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds: does it run? Keeps no figures.")
    parser.add_argument("--threads", type=int, default=2, help="threads for us and for the peers (default: 2)")
    parser.add_argument("--rounds", type=int, help="rounds of the interleaved runs")
    parser.add_argument("--machine", help="name of the machine in the result's file name")
    parser.add_argument("--results", type=Path, help="folder for the result (default: benchmarks/results)")
    return parser


def use_threads(threads: int) -> None:
    """Before torch is imported: it and we, also in commands that are started, use so many threads."""
    for name in ("OXIPRUNE_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)


def installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def interleaved(candidates: Sequence[Candidate], rounds: int) -> dict[str, list[float | None]]:
    """Seconds of each candidate in each round; None where it did not take part. A first round warms up, unkept."""
    seconds: dict[str, list[float | None]] = {candidate.name: [] for candidate in candidates}
    for number in range(-1, rounds):
        for candidate in candidates:
            taking_part = number < 0 or number % candidate.every == 0
            took = _timed(candidate) if taking_part and (number >= 0 or candidate.every == 1) else None
            if number >= 0:
                seconds[candidate.name].append(took)
    return seconds


def _timed(candidate: Candidate) -> float:
    return statistics.median(_timed_once(candidate) for _ in range(candidate.repeats))


def _timed_once(candidate: Candidate) -> float:
    if candidate.prepare is not None:
        candidate.prepare()
    start = time.perf_counter()
    candidate.run()
    return time.perf_counter() - start


def ratio(
    what: str, of: Sequence[float | None], to: Sequence[float | None], target: Target | None = None, unit: str = "x"
) -> Figure:
    """`of` in units of `to`: the median of the ratios inside the rounds, and the ratio of the two minima."""
    pairs = [(a, b) for a, b in zip(of, to, strict=True) if a is not None and b is not None]
    ratios = [a / b for a, b in pairs]
    quartiles = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    best = min(a for a, _ in pairs) / min(b for _, b in pairs)
    return Figure(what, statistics.median(ratios), unit, best, (quartiles[0], quartiles[2]), target)


def seconds(what: str, of: Iterable[float | None], unit: str = "s") -> Figure:
    """The median of some times, and the lowest."""
    known = [value for value in of if value is not None]
    return Figure(what, statistics.median(known), unit, min(known))


def run_command(command: Sequence[str], *, expect: int = 0) -> Usage:
    """Run a command and measure it; raise if it ends otherwise than expected.

    On Linux a command's peak memory is never below that of the process that starts it: callers stay small. Bytecode is
    cached, as it is for every installed package: a checkout must not compile itself anew in each run.
    """
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env
    )
    errors = process.stderr.read() if process.stderr else b""
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.stderr:
        process.stderr.close()
    if process.returncode != expect:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {errors.decode(errors='replace')}")
    peak = used.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    return Usage(wall, used.ru_utime + used.ru_stime, peak)


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES if _version(name)},
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1)
    except (OSError, ValueError):
        return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The state of the code, where it lies in a git repository and git is there."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=RESULTS.parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def finish(result: Result, options: argparse.Namespace) -> None:
    """Print the table; write the result beside the others, unless it was a quick run without a folder for it."""
    if options.quick:  # targets are for the full size
        result.figures = [replace(figure, target=None) for figure in result.figures]
    print_table(result.figures)
    if options.quick and options.results is None:
        return
    folder = options.results or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    described, now = machine(), datetime.now(UTC)
    name = options.machine or f"{described['cpu']} {described['cores']}c"
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    content = {
        "benchmark": result.name,
        "date": now.isoformat(timespec="seconds"),
        "machine": described,
        "commit": _commit(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "settings": {**result.settings, "quick": options.quick, "threads": options.threads},
        "figures": [_plain(figure) for figure in result.figures],
        "notes": result.notes,
        "raw": result.raw,
    }
    path = folder / f"{result.name}-{slug}-{now:%Y-%m-%d}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path.name}")


def _plain(figure: Figure) -> dict[str, Any]:
    entry = {key: value for key, value in asdict(figure).items() if value is not None}
    if figure.target is not None:
        entry["target"] = str(figure.target)
        entry["met"] = figure.target.met(figure.value)
    return entry


def print_table(figures: Sequence[Figure]) -> None:
    """Plain columns: what, median, best, quartiles, target."""
    rows = [("", "median", "best", "quartiles", "target")]
    rows += [
        (
            figure.what,
            f"{figure.value:.3g} {figure.unit}",
            "" if figure.best is None else f"{figure.best:.3g}",
            "" if figure.spread is None else f"{figure.spread[0]:.3g} - {figure.spread[1]:.3g}",
            figure.verdict,
        )
        for figure in figures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
