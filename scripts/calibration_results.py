"""What pruning by data keeps: accuracy against sparsity of the models with labels, with and without repair."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from calibration_subjects import Subject, subjects
from numpy.typing import NDArray

from onnx_tools import DataMethod, prune_file
from onnx_tools.quality.measured import Measured, interval
from onnx_tools.report_parts import versions
from oxiprune_gpu import PruningConfig

OUTPUT = Path("docs/calibration.json")
SPARSITIES = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
METHODS: dict[str, tuple[str | None, bool, str] | None] = {
    "magnitude": None,
    "Wanda": ("wanda", False, "once"),
    "SparseGPT": ("sparsegpt", False, "once"),
    "magnitude + repair": (None, True, "layers"),
    "Wanda + repair": ("wanda", True, "layers"),
    "SparseGPT + repair": ("sparsegpt", True, "layers"),
    "magnitude + repair, at once": (None, True, "once"),
    "Wanda, in layers": ("wanda", False, "layers"),
    "SparseGPT, in layers": ("sparsegpt", False, "layers"),
}
"""What chooses, whether the rest is repaired, and in which order layers are worked on; None looks at no data."""


def points() -> Iterator[tuple[str, PruningConfig]]:
    """What is pruned, by its name."""
    yield from ((f"{sparsity:.0%}", PruningConfig(sparsity)) for sparsity in SPARSITIES)
    yield "2:4", PruningConfig(granularity="2:4")


def measured(subject: Subject, cases: NDArray[np.float64]) -> dict[str, Any]:
    """A value with its 95 % interval: Wilson's for accuracy, a seeded bootstrap over cases for F1."""
    if subject.measure == "accuracy":
        found = Measured(float(cases.mean()), cases)
        low, high = interval(found) or (found.value, found.value)
        return {"value": found.value, "low": low, "high": high}
    draws = np.random.default_rng(0).integers(0, cases.shape[1], (1000, cases.shape[1]))
    values = cases[0][draws].sum(axis=1) / np.maximum(cases[1][draws].sum(axis=1), 1)
    low, high = np.quantile(values, (0.025, 0.975)).tolist()
    return {"value": float(cases[0].sum() / max(cases[1].sum(), 1)), "low": low, "high": high}


def curves(subject: Subject, folder: Path) -> dict[str, Any]:
    """All methods at all points."""
    found: dict[str, Any] = {"dense": measured(subject, subject.cases(subject.model))}
    for method, words in METHODS.items():
        for point, config in points():
            how: Any = config
            if words is not None:
                choice, repair, order = words
                data = DataMethod(subject.calibrating, choice, repair, order)
                how = data.new_values(subject.model, config)
            output = folder / "pruned.onnx"
            report = prune_file(subject.model, output, config=how, force=True)
            result = measured(subject, subject.cases(output))
            zeros, total = report.totals.zeros_after, report.totals.parameters
            found.setdefault(method, {})[point] = {**result, "sparsity": zeros / total}
            print(subject.name, method, point, f"{result['value']:.4f}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="one model; what is known of others stays")
    options = parser.parse_args()
    for subject in subjects():
        if options.only and subject.name not in options.only:
            continue
        with tempfile.TemporaryDirectory(prefix="oxiprune-results-") as folder:
            found = curves(subject, Path(folder))
        count = {"calibrating": len(next(iter(subject.calibrating.values()))), "scoring": len(subject.answers)}
        known = json.loads(OUTPUT.read_text(encoding="utf-8")) if OUTPUT.exists() else {"models": {}}
        known["models"][subject.name] = {"measure": subject.measure, **count, "curves": found}
        known["versions"] = {name: getattr(versions(), name) for name in ("oxiprune", "numpy", "onnx")}
        OUTPUT.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
