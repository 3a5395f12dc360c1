"""The demo: prunes the bundled network with the `oxiprune` command and measures its accuracy before and after.

Then a fifth of the held-out images calibrates, and all ways are scored on the others.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

MODEL = Path("demo/digits_cnn.onnx")
DATA = Path("demo/digits_eval.npz")
LABELS = Path("demo/digits_labels.npy")
OUTPUT = Path("demo-output")
SHOWN = ("unstructured", 0.5)  # the run whose output is shown, not only its line in the table
RUNS = [
    ("unstructured", 0.3),
    SHOWN,
    ("unstructured", 0.6),
    ("unstructured", 0.7),
    ("unstructured", 0.8),
    ("row", 0.1),
]
CALIBRATING = OUTPUT / "digits_calibration.npz"
FRACTION = 0.2
LOOKING = ["--calibration", CALIBRATING.as_posix()]
ELEMENTS, CHANNELS = ["--sparsity", "0.8"], ["--sparsity", "0.5", "--granularity", "channel", "--compact"]
WAYS = {
    "80 % of elements, magnitude": ELEMENTS,
    "80 % of elements, magnitude, repaired": [*ELEMENTS, "--repair", *LOOKING],
    "80 % of elements, wanda, repaired": [*ELEMENTS, "--metric", "wanda", "--repair", *LOOKING],
    "80 % of elements, sparsegpt": [*ELEMENTS, "--metric", "sparsegpt", *LOOKING],
    "80 % of elements, sparsegpt, repaired": [*ELEMENTS, "--metric", "sparsegpt", "--repair", *LOOKING],
    "50 % of channels, magnitude": CHANNELS,
    "50 % of channels, magnitude, repaired": [*CHANNELS, "--repair", *LOOKING],
}

console = Console(highlight=False)


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


def prune(granularity: str, sparsity: float) -> tuple[Path, dict[str, Any]]:
    """One pruned model, checked by the command itself, and the totals of its report."""
    name = f"digits_{granularity}_{round(sparsity * 100)}"
    pruned, report = OUTPUT / f"{name}.onnx", OUTPUT / f"{name}.json"
    rule = ["--sparsity", f"{sparsity}"]
    if granularity != "unstructured":
        rule += ["--granularity", granularity, "--metric", "l2"]
    checks = ["--verify", "--data", DATA.as_posix(), "--report", report.as_posix(), "--compressed-sizes"]
    quiet = [] if (granularity, sparsity) == SHOWN else ["--quiet"]
    oxiprune("prune", MODEL.as_posix(), "-o", pruned.as_posix(), *rule, *checks, "--force", *quiet)
    return pruned, json.loads(report.read_text(encoding="utf-8"))["totals"]


def count_right(model: Path, which: Any = slice(None)) -> tuple[int, int]:
    """How many of the held-out images the model names rightly, and how many there are."""
    labels = np.load(LABELS)[which]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": np.load(DATA)["image"][which]})
    return int((logits.argmax(axis=1) == labels).sum()), len(labels)


def calibrated() -> Table:
    """What looking at the inputs gains: some of the images calibrate, the others are scored."""
    images = np.load(DATA)["image"]
    order = np.random.default_rng(0).permutation(len(images))
    calibrating, scoring = np.split(order, [round(FRACTION * len(order))])
    np.savez(CALIBRATING, image=images[calibrating])
    table = Table(caption=f"{len(calibrating)} of the held-out images calibrate, the other {len(scoring)} are scored.")
    for name in ("what falls", "accuracy", "images", "bytes"):
        table.add_column(name, justify="left" if name == "what falls" else "right")
    for number, (name, words) in enumerate({"nothing": [], **WAYS}.items()):
        model = OUTPUT / f"digits_way_{number}.onnx" if words else MODEL
        if words:
            oxiprune("prune", MODEL.as_posix(), "-o", model.as_posix(), *words, "--force", "--quiet")
        right, count = count_right(model, scoring)
        table.add_row(name, f"{right / count:.4f}", f"{right} of {count}", f"{model.stat().st_size:,}")
    return table


def row(name: str, sparsity: str, zeros: float, right: tuple[int, int], size: int) -> tuple[str, ...]:
    """One line of the table."""
    return name, sparsity, f"{zeros:.4f}", f"{right[0] / right[1]:.4f}", f"{right[0]} of {right[1]}", f"{size:,}"


def main() -> None:
    """Runs the command at several sparsities and ends with a table of what each one cost."""
    OUTPUT.mkdir(exist_ok=True)
    oxiprune("inspect", MODEL.as_posix())
    rows = []
    for granularity, sparsity in RUNS:
        pruned, totals = prune(granularity, sparsity)
        if not rows:
            rows.append(row("before", "", totals["sparsity_before"], count_right(MODEL), totals["compressed_before"]))
        after = totals["sparsity_after"], count_right(pruned), totals["compressed_after"]
        rows.append(row(granularity, f"{sparsity:.0%}", *after))
    table = Table(caption="zeros: fraction of the pruned weights. zstd-3: bytes of the file when compressed.")
    table.add_column("granularity")
    for name in ("sparsity", "zeros", "accuracy", "held-out images", "zstd-3"):
        table.add_column(name, justify="right")
    for cells in rows:
        table.add_row(*cells)
    more = calibrated()
    console.print()
    console.print(table)
    console.print(more)
    console.print(f"The pruned models and their reports (JSON) are in {OUTPUT}. The command is .venv/bin/oxiprune.")


if __name__ == "__main__":
    main()
