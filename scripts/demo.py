"""The demo: prunes the bundled network with the `oxiprune` command and measures its accuracy before and after."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

MODEL = Path("demo/digits_cnn.onnx")
DATA = Path("demo/digits_eval.npz")
OUTPUT = Path("demo-output")
RUNS = [
    ("unstructured", 0.3),
    ("unstructured", 0.5),
    ("unstructured", 0.6),
    ("unstructured", 0.7),
    ("unstructured", 0.8),
    ("row", 0.1),
]

console = Console(highlight=False)


@dataclass(frozen=True)
class Row:
    """One line of the table: which model, and what is known about it."""

    granularity: str
    sparsity: str
    zeros: str
    accuracy: float
    shipped: str


def oxiprune(*arguments: str) -> None:
    """Prints the command as a user would type it, runs it, and stops the demo if it fails."""
    command = shutil.which("oxiprune", path=Path(sys.executable).parent)
    if command is None:
        sys.exit("The oxiprune command is not installed beside this Python.")
    console.print(f"\n[bold]$ oxiprune {' '.join(arguments)}[/bold]", soft_wrap=True)
    sys.stdout.flush()
    done = subprocess.run([command, *arguments], check=False)
    if done.returncode != 0:
        sys.exit(f"oxiprune ended with exit code {done.returncode}.")


def accuracy(model: Path) -> float:
    """The fraction of the held-out images that the model names rightly."""
    with np.load(DATA) as data:
        image, labels = data["image"], data["labels"]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": image})
    return float((logits.argmax(axis=1) == labels).mean())


def prune(granularity: str, sparsity: float) -> tuple[Path, dict[str, Any]]:
    """One pruned model, checked by the command itself, and its report."""
    name = f"digits_{granularity}_{round(sparsity * 100)}"
    pruned, report = OUTPUT / f"{name}.onnx", OUTPUT / f"{name}.json"
    choice = [] if granularity == "unstructured" else ["--granularity", granularity]
    options = ["--sparsity", f"{sparsity}", *choice, "--verify", "--data", DATA.as_posix()]
    files = ["-o", pruned.as_posix(), "--report", report.as_posix(), "--force"]
    oxiprune("prune", MODEL.as_posix(), *options, *files, "--compressed-sizes", "--quiet")
    return pruned, json.loads(report.read_text(encoding="utf-8"))


def main() -> None:
    OUTPUT.mkdir(exist_ok=True)
    oxiprune("inspect", MODEL.as_posix())
    before = accuracy(MODEL)
    for granularity, sparsity in RUNS:
        pruned, report = prune(granularity, sparsity)
        print(pruned, accuracy(pruned), before, report["totals"])


if __name__ == "__main__":
    main()
