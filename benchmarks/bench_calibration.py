"""How good are models that are pruned by what their inputs were, and what does it take, beside onnxsim and torch?

Beside onnxsim's Wanda and SparseGPT, with the same data: on the 390 MB model of onnx_jobs.py (calibration_jobs.py), and
the accuracy of the labelled models of the corpus that OXIPRUNE_CORPUS names (calibration_corpus.py). Beside torch on
matrices, masks compared first (calibration_torch.py). What collecting sums takes. On a GPU, beside what cuBLAS and
cuSOLVER need for the same work (calibration_gpu.py).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
from commands import ONCE, Command, Runs, answer, column, plain, program, rounds_of
from common import Figure, Result, Target

OPTIONS = common.arguments(__doc__.splitlines()[0]) if __doc__ else argparse.ArgumentParser()
METHODS, TOOLS = ("wanda", "sparsegpt"), ("oxiprune", "onnxsim")
SPARSITY = "0.5"
MEMORY = 1 << 30
"""Bytes that collecting sums may take."""


def main() -> None:
    OPTIONS.add_argument("--only", choices=tuple(PARTS), help="one part of it")
    OPTIONS.add_argument("--folder", type=Path, help="where models are generated, and deleted again")
    options = OPTIONS.parse_args()
    rounds = options.rounds or (1 if options.quick else 5)
    name = "calibration_gpu" if options.only == "gpu" else "calibration"  # made elsewhere, and replaces nothing
    result = Result(name, {"rounds": rounds, "sparsity": SPARSITY, "memory": MEMORY})
    for title, part in PARTS.items():
        if options.only in {None, title}:
            common.use_threads(options.threads)
            with tempfile.TemporaryDirectory(prefix="oxiprune-bench-", dir=options.folder) as folder:
                part(Path(folder), rounds, options.quick, result)
    common.finish(result, options)


def bench_wanda(folder: Path, rounds: int, quick: bool, result: Result) -> None:
    """Half of 97.5 M parameters."""
    model, jobs = generated(folder, quick), pruning("wanda", folder, result)
    common.run_command(jobs["oxiprune"][0])
    common.run_command(program("calibration_jobs", "check", model, given(folder), pruned(folder), SPARSITY))
    compare("390 MB, wanda", rounds_of(jobs, rounds, {"onnxsim": ONCE}), folder, result)


def bench_sparsegpt(folder: Path, rounds: int, quick: bool, result: Result) -> None:
    """Half of four layers, 4.2 M parameters; the 390 MB model by ours alone, once."""
    model, jobs = generated(folder, quick), pruning("sparsegpt", folder, result)
    tell_costs("390 MB, sparsegpt", rounds_of({"oxiprune": jobs["oxiprune"]}, 1, {"oxiprune": ONCE}), result)
    common.run_command(program("calibration_jobs", "layers", model, *(["--quick"] if quick else [])))
    compare("17 MB, sparsegpt", rounds_of(jobs, rounds, {}), folder, result)


def compare(what: str, runs: Runs, folder: Path, result: Result) -> None:
    """What the tools took, and how far the outputs of what they made move on other data."""
    tell_costs(what, runs, result)
    after = [pruned(folder, tool) for tool in runs]
    moved = answer(program("calibration_jobs", "drift", folder / "model.onnx", folder / "score.npz", *after))
    tell_drift(what, dict(zip(runs, moved, strict=True)), result)


def generated(folder: Path, quick: bool) -> Path:
    """The 390 MB model; beside it the data that calibrates it, and other data."""
    model, small = folder / "model.onnx", ["--quick"] if quick else []
    common.run_command(program("onnx_jobs", "generate", model, *small))
    common.run_command(program("calibration_jobs", "data", folder, *small))
    return model


def given(folder: Path) -> Path:
    return folder / "calibrate.npz"


def pruned(folder: Path, tool: str = "oxiprune") -> Path:
    return folder / f"{tool}.onnx"


def pruning(method: str, folder: Path, result: Result) -> dict[str, Command]:
    """The command with which each tool prunes the model; all look at the inputs of the dense model."""
    ways = {"oxiprune": f"{method}+once", "onnxsim": method}
    model, data = folder / "model.onnx", given(folder)
    return {
        tool: (program("calibration_jobs", tool, ways[tool], model, data, pruned(folder, tool), SPARSITY), 0)
        for tool in tools(result)
    }


def tools(result: Result) -> list[str]:
    """Those that are installed, ours first."""
    if not common.installed("onnxsim"):
        result.note("onnxsim is not installed: not compared with it")
    return [tool for tool in TOOLS if tool == "oxiprune" or common.installed(tool)]


def tell_costs(what: str, runs: Runs, result: Result) -> None:
    """What each tool took, and onnxsim in units of ours."""
    result.raw[what] = plain(runs)
    fields = {"cpu": ("processor seconds", "s", 5), "rss_mib": ("peak memory", "MiB", 4)}
    for key, (name, unit, least) in fields.items():
        taken = {tool: column(used, key) for tool, used in runs.items()}
        result.figures += [common.seconds(f"{what}: {tool}, {name}", taken[tool], unit) for tool in taken]
        if "onnxsim" in taken:
            target = Target(least, at_least=True)
            both = taken["onnxsim"], taken["oxiprune"]
            result.figures.append(common.ratio(f"{what}: onnxsim / oxiprune, {name}", *both, target))


def tell_drift(what: str, moved: dict[str, float], result: Result) -> None:
    """How far the outputs move, relative to their size."""
    result.figures += [Figure(f"{what}: {tool}, outputs move by", 100 * far, "%") for tool, far in moved.items()]
    if "onnxsim" in moved:
        part = moved["oxiprune"] / moved["onnxsim"]
        result.figures.append(Figure(f"{what}: oxiprune / onnxsim, outputs move by", part, target=Target(1)))


def bench_corpus(folder: Path, rounds: int, quick: bool, result: Result) -> None:
    """Accuracy of real models at the same sparsity."""
    if len(tools(result)) < len(TOOLS):
        return
    rows = table(result, "calibration_corpus", folder, *METHODS, *(["--quick"] if quick else []))
    if not rows:
        result.note("OXIPRUNE_CORPUS does not name the corpus: no accuracy is compared")
    for method in METHODS if rows else ():
        some = [row for row in rows if row["method"] == method]
        for way in [key for key in some[0] if key.startswith("oxiprune")]:
            gains = [100 * (row[way]["accuracy"] - row["onnxsim"]["accuracy"]) for row in some]
            same_zeros = "own" not in way
            what, target = f"{method}: accuracy, {way} - onnxsim", Target(0, at_least=True) if same_zeros else None
            mean = Figure(f"{what}, mean of {len(gains)}", statistics.mean(gains), "points", target=target)
            ends = [Figure(f"{what}, {end.__name__}", end(gains), "points") for end in (min, max)]
            result.figures += [mean, *ends]
        apart = max(100 * abs(row["oxiprune"]["sparsity"] - row["onnxsim"]["sparsity"]) for row in some)
        result.figures.append(Figure(f"{method}: sparsity of oxiprune and onnxsim apart, at most", apart, "points"))


def bench_torch(folder: Path, rounds: int, quick: bool, result: Result) -> None:
    """Matrices, on one thread and on two."""
    if not common.installed("torch"):
        result.note("torch is not installed: not compared with it")
        return
    for threads in (1, 2):
        common.use_threads(threads)
        rows = table(result, "calibration_torch", folder, rounds, *(["--quick"] if quick else []), label=str(threads))
        for row in rows:
            what = f"{row['method']} {row['rule']}, {'x'.join(map(str, row['shape']))}"
            if threads == 1:
                share = 1e6 * row["differing"] / row["elements"]
                result.figures.append(Figure(f"{what}: masks differ from torch's, of a million", share, ""))
            both = row["seconds"]["torch"], row["seconds"]["oxiprune"]
            target = Target(1, at_least=True)
            result.figures.append(common.ratio(f"{what}, {threads} threads: torch / oxiprune", *both, target))


def bench_collect(folder: Path, rounds: int, quick: bool, result: Result) -> None:
    """Sums over the inputs of the 390 MB model, in the memory that is allowed, beside its runs alone."""
    model = generated(folder, quick)
    collect = program("calibration_jobs", "collect", model, given(folder), MEMORY)
    jobs = {
        "onnxruntime alone": (program("calibration_jobs", "run", model, given(folder)), 0),
        "squares": (collect, 0),
        "Hessians": ([*collect, "hessian"], 0),
    }
    runs = rounds_of(jobs, rounds, {})
    result.raw["collect"] = plain(runs)
    alone = column(runs["onnxruntime alone"], "rss_mib")
    for name, used in runs.items():
        result.figures.append(common.seconds(f"390 MB, {name}: processor seconds", column(used, "cpu")))
        more = [each - by for each, by in zip(column(used, "rss_mib"), alone, strict=True) if each and by]
        figure = Figure(f"390 MB, {name}: memory above onnxruntime's", max(more), "MiB", target=Target(MEMORY >> 20))
        result.figures += [figure] if name != "onnxruntime alone" else []


def bench_gpu(folder: Path, rounds: int, quick: bool, result: Result) -> None:
    """Matrices on a GPU, in units of what its libraries need."""
    if not common.installed("cupy"):
        result.note("CuPy is not installed: nothing is measured on a GPU")
        return
    for row in table(result, "calibration_gpu", folder, rounds, *(["--quick"] if quick else [])):
        both = row["seconds"]["oxiprune"], row["seconds"]["floor"]
        result.figures.append(common.ratio(f"GPU, {row['what']}: oxiprune / floor", *both, Target(1.2)))


def table(result: Result, name: str, folder: Path, *words: object, label: str = "") -> list[dict[str, Any]]:
    """The table that a program makes."""
    path = folder / f"{name}.json"
    common.run_command(program(name, path, *words))
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    result.raw[f"{name} {label}".strip()] = rows
    return rows


PARTS: dict[str, Callable[[Path, int, bool, Result], None]] = {
    "wanda": bench_wanda,
    "sparsegpt": bench_sparsegpt,
    "corpus": bench_corpus,
    "torch": bench_torch,
    "collect": bench_collect,
    "gpu": bench_gpu,
}


if __name__ == "__main__":
    main()
