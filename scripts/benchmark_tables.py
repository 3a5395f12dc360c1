"""Tables in Markdown of what the benchmarks have left in benchmarks/results."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

BENCHMARKS = Path("benchmarks/results")
NO_GPU = """On a GPU nothing has been measured yet: the kernels have been run on the CPU, under sanitizers, and compiled
for every architecture, and the tests run the benchmark itself over them; no more. So these figures are open, for
float32 out of cache, at 2^28 and 2^30 elements unless it says otherwise; the floor is the bytes that must move, at the
speed of a copy:

| what | target |
| :-- | :-- |
| element by element, in place, with a mask of bools or bits | <= 1.15 floors (read, read, write, mask) |
| the same for float16 and bfloat16 | <= 1.2 floors |
| constant, 90 % zeros, sorted, few values | <= 1.3 times normal data |
| 2:4 in place, weights known to hold no NaN | <= 1.08 floors (read, write) |
| half of the rows, of the columns, by L2, 16,384 x 16,384 | <= 1.1 floors (read, half a write), <= 1.15 (read, write) |
| 300 tensors that compete, 2^30 elements | <= 1.2 floors, fewer than 12 launches |
| 300 tensors of 4,096, each for itself, prepared once | <= 100 us a run, <= 40 us as a graph |
| the best of torch's and CuPy's ways to the same result | >= 3 times our time |

`scripts/gpu-check` on a machine with an NVIDIA GPU, CuPy and torch makes them (`scripts/gpu-check bench` nothing else)
and leaves them in `benchmarks/results`; `scripts/make-results` then puts them here in place of this table. The number
of launches is no figure of a device: it has been counted on the CPU, and is met."""

NO_PATTERNS = "Not run yet: `benchmarks/bench_sparse_onnx.py` leaves the table here."

CASES = """Models with one weight each, pruned to 2:4 by `oxiprune prune --granularity 2:4`, `polygraphy surgeon prune`
and onnxsim's `apply_magnitude_pruning(n=2, m=4)`, judged by an oracle on what the operator reads, along its reduction
axis (`benchmarks/sparse_cases.py`). *right*: of each four the two lowest fell and nothing else changed. The last column
is what `polygraphy inspect sparsity` says of our result."""

NO_PEERS = "Not run yet: `benchmarks/bench_calibration.py` leaves the table here."

PEERS = """The same models and calibration data given to onnxsim's Wanda and SparseGPT and to ours, without training
(`benchmarks/calibration_corpus.py`): accuracy on cases that did not calibrate, and in brackets how many of all weights
that MatMul, Gemm and Conv read are zero. "oxiprune" prunes the weights that onnxsim prunes, by the inputs of the dense
model; "+repair" the same with least squares and bias correction, layer by layer; "own weights" are those that
`oxiprune prune` selects by default, of which there may be fewer."""

MASKS = """The masks of onnxsim and ours on the weights of the corpus that both prune (`benchmarks/sparse_masks.py`).
For 2:4 onnxsim groups channels x kernel of a Conv; its 50 % is of each output row, ours of each tensor; "global" ranks
the same weights in both."""


def newest_results(folder: Path) -> dict[str, dict[str, Any]]:
    """The newest result of each benchmark, by its name."""
    newest: dict[str, dict[str, Any]] = {}
    for path in folder.glob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        if "figures" in found and found["date"] >= newest.get(found["benchmark"], found)["date"]:
            newest[found["benchmark"]] = found
    return newest


def speed(newest: dict[str, dict[str, Any]]) -> str:
    """What the newest result of each benchmark says, target by target; GPUs' results come last."""
    sections = [speed_table(newest[name]) for name in sorted(newest, key=lambda name: (name == "gpu", name))]
    return "\n\n".join(sections if "gpu" in newest else [*sections, NO_GPU])


def speed_table(result: dict[str, Any]) -> str:
    """The figures of one benchmark that have a target."""
    machine = result["machine"]
    where = (
        result["settings"].get("gpu")
        or f"{machine['cpu']}, {result['settings'].get('threads', machine['cores'])} threads"
    )
    lines = [f"`benchmarks/bench_{result['benchmark'].removesuffix('_gpu')}.py`, {result['date'][:10]}, {where}:", ""]
    lines += ["| what | measured | target | |", "| :-- | --: | --: | :-- |"]
    for figure in result["figures"]:
        if "target" in figure:
            value = f"{figure['value']:.3g} {figure['unit']}"
            lines.append(
                f"| {figure['what']} | {value} | {figure['target']} | {'met' if figure['met'] else 'missed'} |"
            )
    return "\n".join(lines)


def pattern_tables(newest: dict[str, dict[str, Any]]) -> str:
    """Who is right at 2:4, and whose masks are equal."""
    raw = newest.get("sparse_onnx", {}).get("raw", {})
    tables = [(CASES, raw.get("sparse_cases")), (MASKS, masks_by_rule(raw.get("sparse_masks", [])))]
    return "\n\n".join(f"{text}\n\n{markdown(rows)}" for text, rows in tables if rows) or NO_PATTERNS


def peers_table(newest: dict[str, dict[str, Any]]) -> str:
    """Accuracy after each tool's Wanda and SparseGPT, model by model."""
    rows = newest.get("calibration", {}).get("raw", {}).get("calibration_corpus")
    if not rows:
        return NO_PEERS
    return f"{PEERS}\n\n{markdown([peers_row(row) for row in rows])}"


def peers_row(row: dict[str, Any]) -> dict[str, str]:
    """One model, pruned in one way by each tool."""
    found = {"model": row["model"], "cases": f"{row['cases']:,}", "method": row["method"], "rule": row["rule"]}
    found["dense"] = f"{row['dense']:.3f}"
    for tool, scored in row.items():
        if isinstance(scored, dict):
            found[tool] = f"{scored['accuracy']:.3f} ({100 * scored['of all weights']:.0f} %)"
    return found


def masks_by_rule(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The masks of all models together, for each rule and kind of weight."""
    found = []
    for rule, kind in dict.fromkeys((row["rule"], row["weights"]) for row in rows):
        some = [row for row in rows if (row["rule"], row["weights"]) == (rule, kind)]
        masks, equal, elements, differing = (
            sum(row[key] for row in some) for key in ("masks", "equal", "elements", "differing")
        )
        differ = f"{differing:,} of {elements:,}"
        found.append(
            {"rule": rule, "weights": kind, "equal masks": f"{equal} of {masks}", "elements that differ": differ}
        )
    return found


def markdown(rows: list[dict[str, str]]) -> str:
    """Rows that are dicts as a table; what a row lacks is empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = ([row.get(name, "") for name in names] for row in rows)
    return "\n".join(line(row) for row in (names, [":--"] * len(names), *cells))


def line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
