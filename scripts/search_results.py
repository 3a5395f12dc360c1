"""How much falls within one point of accuracy: uniform magnitude, `search_file` without data, and with it."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from calibration_subjects import Subject, subjects

from onnx_tools import DataMethod
from onnx_tools.quality.measured import Measured, mean_of
from onnx_tools.report_parts import versions
from onnx_tools.search.options import Search
from onnx_tools.search.search import search_file
from onnx_tools.search_report import SearchReport

OUTPUT = Path("docs/search.json")
MAX_DROP, HELD_OUT, MOST_TRIALS = 0.01, 0.5, 60


@dataclass(frozen=True)
class Accuracy:
    """Right answers of a subject's scoring cases."""

    subject: Subject
    text: str = "top1"

    def measure(self, model: Path) -> Measured:
        """A case each answer."""
        return mean_of(self.subject.cases(model))


def uniform(subject: Subject) -> Search:
    """One sparsity for all weights, by magnitude."""
    return Search(Accuracy(subject), MAX_DROP, allocations=("uniform",), held_out=HELD_OUT, climb=False)


def without_data(subject: Subject) -> Search:
    """All that a search tries by itself."""
    return Search(Accuracy(subject), MAX_DROP, held_out=HELD_OUT, most_trials=MOST_TRIALS)


def repaired(choice: str | None, confidence: float | None = None) -> Callable[[Subject], Search]:
    """Weights chosen by `choice`, or magnitude, and the rest repaired, all by the inputs that the dense model gives."""

    def search(subject: Subject) -> Search:
        return Search(
            Accuracy(subject),
            MAX_DROP,
            allocations=("uniform", "global:lamp"),
            method=DataMethod(subject.calibrating, choice, repair=True, order="once"),
            held_out=HELD_OUT,
            climb=False,
            confidence=confidence,
        )

    return search


WAYS: dict[str, Callable[[Subject], Search]] = {
    "uniform magnitude": uniform,
    "search": without_data,
    "search, repair": repaired(None),
    "search, repair, 95 % sure": repaired(None, 0.95),
    "search, SparseGPT + repair": repaired("sparsegpt"),
}


def found(subject: Subject, search: Search) -> dict[str, Any]:
    """What one search comes to."""
    with tempfile.TemporaryDirectory(prefix="oxiprune-results-") as folder:
        start = time.perf_counter()
        report = search_file(subject.model, Path(folder) / "pruned.onnx", search)
        return {**figures(report), "seconds": time.perf_counter() - start}


def figures(report: SearchReport) -> dict[str, Any]:
    """Of the answer; scores are of the cases searched with, and of those held out."""
    scores = {
        "dense": report.original,
        "dense held out": report.original_held_out,
        "searched": report.confirmed,
        "held out": report.confirmed_held_out,
    }
    kept = {name: asdict(score) for name, score in scores.items() if score is not None}
    best = report.best
    return {"sparsity": best.sparsity, "allocation": best.allocation, "trials": len(report.trials), **kept}


def save(name: str, way: str, result: dict[str, Any]) -> None:
    """Put a result beside those that are there."""
    known = json.loads(OUTPUT.read_text(encoding="utf-8")) if OUTPUT.exists() else {"models": {}}
    ways = {**known["models"].get(name, {}), way: result}
    known["models"][name] = {each: ways[each] for each in WAYS if each in ways}
    known["models"] = dict(sorted(known["models"].items()))
    known["versions"] = {name: getattr(versions(), name) for name in ("oxiprune", "numpy", "onnx")}
    OUTPUT.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="one model; what is known of others stays")
    parser.add_argument("--way", action="append", choices=list(WAYS), help="one way; what is known of others stays")
    parser.add_argument("--trials", type=int, default=MOST_TRIALS, help="at most so many in a search")
    options = parser.parse_args()
    for subject in subjects():
        if subject.measure != "accuracy" or (options.only and subject.name not in options.only):
            continue
        for way in options.way or WAYS:
            search = WAYS[way](subject)
            result = found(subject, replace(search, most_trials=min(search.most_trials, options.trials)))
            save(subject.name, way, result)
            print(subject.name, way, f"{result['sparsity']:.4f}", f"{result['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
