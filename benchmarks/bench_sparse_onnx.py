"""How many processor seconds and how much memory does 2:4 take on a 390 MB model, and who is right?

Every job is a command of its own: `oxiprune prune --granularity 2:4`, `polygraphy surgeon prune`, `cp`, and scripts
that load, prune and save with onnxsim and numpy (sparse_jobs.py). polygraphy runs once, which takes it minutes,
and its `inspect sparsity` looks at our result once. Before: small models of every layout (sparse_cases.py), and the
masks on the corpus of real models that OXIPRUNE_CORPUS names (sparse_masks.py). Last, 50 % of all weights together.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import common
from commands import ONCE, Runs, beside, column, oxiprune, plain, rounds_of
from common import Result, Target

OPTIONS = common.arguments(__doc__.splitlines()[0]) if __doc__ else argparse.ArgumentParser()
HERE = Path(__file__).parent
GENERATE = [sys.executable, str(HERE / "onnx_jobs.py"), "generate"]
JOBS = [sys.executable, str(HERE / "sparse_jobs.py")]
INSPECT = "polygraphy inspect"
OUR_GLOBAL, THEIR_GLOBAL = "oxiprune, global", "onnxsim, global"
WAYS = {"oxiprune": ["--granularity", "2:4"], OUR_GLOBAL: ["--sparsity", "0.5", "--allocation", "global"]}
EVERY = {"polygraphy": ONCE, INSPECT: ONCE, THEIR_GLOBAL: ONCE, "onnxsim": 2, "numpy": 2}
BESIDE = {
    "polygraphy": ("oxiprune", 150),
    "onnxsim": ("oxiprune", 8),
    "numpy": ("oxiprune", None),
    THEIR_GLOBAL: (OUR_GLOBAL, None),
}
"""The peers, what of ours each stands beside, and how many times its processor seconds the peer must take."""


def main() -> None:
    OPTIONS.add_argument("--only", choices=("model", "cases", "masks"), help="one part of it")
    OPTIONS.add_argument("--folder", type=Path, help="where models are generated, and deleted again")
    options = OPTIONS.parse_args()
    common.use_threads(options.threads)
    rounds = options.rounds or (1 if options.quick else 5)
    result = Result("sparse_onnx", {"rounds": rounds, "granularity": "2:4"})
    with tempfile.TemporaryDirectory(prefix="oxiprune-bench-", dir=options.folder) as folder:
        if options.only in {None, "cases"}:
            tell_cases(part("sparse_cases", Path(folder), result), result)
        if options.only in {None, "masks"}:
            tell_masks(part("sparse_masks", Path(folder), result), result)
        if options.only in {None, "model"}:
            model = Path(folder) / "model.onnx"
            common.run_command([*GENERATE, str(model), *(["--quick"] if options.quick else [])])
            result.settings["model_bytes"] = model.stat().st_size
            bench_model(model, rounds, result)
    common.finish(result, options)


def part(name: str, folder: Path, result: Result) -> list[dict[str, Any]]:
    """The table that another program makes: this one stays small, or its memory would count as that of the commands."""
    table = folder / f"{name}.json"
    common.run_command([sys.executable, str(HERE / f"{name}.py"), str(table)])
    rows: list[dict[str, Any]] = json.loads(table.read_text(encoding="utf-8"))
    result.raw[name] = rows
    return rows


def bench_model(model: Path, rounds: int, result: Result) -> None:
    """Check the results, ours and those of the quick peers before anything is timed."""
    jobs = jobs_for(model, result)
    for name in ("oxiprune", OUR_GLOBAL, "onnxsim", "numpy"):
        if name in jobs:
            common.run_command(jobs[name])
            check(name, model)
    runs = rounds_of({name: (command, 0) for name, command in jobs.items()}, rounds, EVERY, [output_of("cp", model)])
    for name in ("polygraphy", THEIR_GLOBAL):
        if name in jobs:
            check(name, model)
    result.raw["model"] = plain(runs)
    report_model(runs, result)


def jobs_for(model: Path, result: Result) -> dict[str, list[str]]:
    """What is measured, by name; peers that are not here are left out with a word."""
    ours, jobs = output_of("oxiprune", model), {}
    for name, words in WAYS.items():
        jobs[name] = [*oxiprune(), "prune", str(model), "-o", str(output_of(name, model)), *words, "--quiet", "--force"]
    jobs["cp"] = ["cp", str(model), str(output_of("cp", model))]
    if polygraphy := beside("polygraphy"):
        jobs["polygraphy"] = [polygraphy, "surgeon", "prune", str(model), "-o", str(output_of("polygraphy", model))]
        jobs[INSPECT] = [*JOBS, "inspect", str(ours)]
    else:
        result.note("polygraphy is not installed: not compared with it")
    if common.installed("onnxsim"):
        jobs["onnxsim"] = [*JOBS, "onnxsim", str(model), str(output_of("onnxsim", model))]
        jobs[THEIR_GLOBAL] = [*JOBS, "onnxsim-global", str(model), str(output_of(THEIR_GLOBAL, model))]
    else:
        result.note("onnxsim is not installed: not compared with it")
    return {**jobs, "numpy": [*JOBS, "numpy", str(model), str(output_of("numpy", model))]}


def output_of(name: str, model: Path) -> Path:
    return model.with_name(f"{name}.onnx")


def check(name: str, model: Path) -> None:
    """Each is held to its own rule: onnxsim groups the kernel of a Conv together with its input channels."""
    rule = "flat" if name == "onnxsim" else "global" if name in {OUR_GLOBAL, THEIR_GLOBAL} else "reduction"
    common.run_command([*JOBS, "check", str(model), str(output_of(name, model)), rule])


def report_model(runs: Runs, result: Result) -> None:
    cpu, wall, rss = ({name: column(runs[name], field) for name in runs} for field in ("cpu", "wall", "rss_mib"))
    for name in runs:
        result.figures.append(common.seconds(f"{name}: processor seconds", cpu[name]))
    for peer, (ours, limit) in BESIDE.items():
        if peer in runs:
            target = Target(limit, at_least=True) if limit else None
            result.figures.append(
                common.ratio(f"{peer} / {ours}, processor seconds", *paired(cpu[peer], cpu[ours]), target)
            )
    result.figures.append(common.ratio("oxiprune / cp, processor seconds", cpu["oxiprune"], cpu["cp"]))
    result.figures.append(common.ratio("oxiprune / cp, wall", wall["oxiprune"], wall["cp"]))
    for name in runs:
        result.figures.append(common.seconds(f"{name}: peak memory", rss[name], "MiB"))
    for peer in ("polygraphy", "onnxsim"):
        if peer in runs:
            result.figures.append(
                common.ratio(f"oxiprune / {peer}, peak memory", rss["oxiprune"], rss[peer], Target(0.25))
            )


def paired(peer: list[float | None], ours: list[float | None]) -> tuple[list[float | None], list[float | None]]:
    """A peer that ran once, for minutes, stands beside the median of our runs; no round of ours is like its own."""
    known = [value for value in peer if value is not None]
    return (peer, ours) if len(known) > 1 else (peer[:1], [statistics.median(filter(None, ours))])


def tell_cases(rows: list[dict[str, str]], result: Result) -> None:
    """How many of the small models each tool gets right."""
    for name in (name for name in rows[0] if name != "case"):
        good = sum(row.get(name) in {"right", "2:4"} for row in rows)
        target = Target(len(rows), at_least=True) if name == "oxiprune" else None
        result.figures.append(common.Figure(f"{name}: right, of {len(rows)} small models", good, "", target=target))


def tell_masks(rows: list[dict[str, Any]], result: Result) -> None:
    """How many masks of real models are the same as onnxsim's, rule by rule."""
    if not rows:
        result.note("OXIPRUNE_CORPUS does not name the corpus: no masks compared on real models")
    for rule, kind in dict.fromkeys((row["rule"], row["weights"]) for row in rows):
        some = [row for row in rows if (row["rule"], row["weights"]) == (rule, kind)]
        equal, masks = (sum(row[key] for row in some) for key in ("equal", "masks"))
        result.figures.append(common.Figure(f"{rule}, {kind}: masks equal to onnxsim's, of {masks}", equal, ""))


if __name__ == "__main__":
    main()
