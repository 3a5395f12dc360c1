"""How small and fast do models get when channels leave, what does that take, and who handles which model?

Beside Torch-Pruning on two networks that are trained here (compaction_torch.py): as few parameters, as good accuracy?
Beside onnxsim's structural pruning: on small models of every kind (compaction_cases.py), on the corpus of real models
that OXIPRUNE_CORPUS names (compaction_corpus.py), and on the 390 MB model of onnx_jobs.py. Last the removal by itself,
beside `cp`, on models of 1,000 nodes with 100 M parameters and of 20,000 nodes (compaction_models.py).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
from commands import ONCE, Runs, answer, column, oxiprune, plain, program, rounds_of
from common import Figure, Result, Target

OPTIONS = common.arguments(__doc__.splitlines()[0]) if __doc__ else argparse.ArgumentParser()
COPY, FLUSHED = "cp", "cp and sync"
TOOLS = ("oxiprune", "Torch-Pruning")
NETWORKS, RATIOS, NORMS = ("demo", "resnet"), (0.125, 0.25, 0.5), (1, 2)
SEEDS, EPOCHS = 8, 16
"""Trainings; 16 epochs give 98 % to 99.6 %."""
STUDENT = {1: 12.706, SEEDS - 1: 2.365}
"""The 97.5 % quantile of Student's t, by degrees of freedom."""
DEEP = {"1,000 nodes": (1_000, 248, 5.0), "20,000 nodes": (20_000, 16, 20.0)}
"""Models by name: nodes, channels, and the seconds that compacting them may take."""


def main() -> None:
    OPTIONS.add_argument("--only", choices=tuple(PARTS), help="one part of it")
    OPTIONS.add_argument("--folder", type=Path, help="where models are generated, and deleted again")
    options = OPTIONS.parse_args()
    common.use_threads(options.threads)
    rounds = options.rounds or (1 if options.quick else 5)
    result = Result("compaction", {"rounds": rounds, "channels": "50 %"})
    for name, part in PARTS.items():
        if options.only in {None, name}:
            with tempfile.TemporaryDirectory(prefix="oxiprune-bench-", dir=options.folder) as folder:
                part(Path(folder), rounds, options.quick, result)
    common.finish(result, options)


def pruned(before: Path, after: Path, ratio: float = 0.5, metric: str = "l2") -> list[str]:
    """Our command: zeros in whole channels, and their removal."""
    how = ["--granularity", "channel", "--sparsity", str(ratio), "--metric", metric, "--compact"]
    return [*oxiprune(), "prune", str(before), "-o", str(after), *how, "--quiet", "--force"]


def bench_networks(folder: Path, rounds: int, quick: bool, result: Result) -> None:
    """Torch-Pruning and ours on the same trained networks, without training afterwards."""
    if not common.installed("torch_pruning"):
        result.note("torch-pruning is not installed: not compared with it")
        return
    seeds = range(2 if quick else SEEDS)
    with ThreadPoolExecutor(2) as pool:
        trainings = list(pool.map(lambda seed: training(folder / str(seed), seed, 1 if quick else EPOCHS), seeds))
    result.raw["networks"] = [row for rows in trainings for row in rows]
    result.figures += accuracies(trainings)
    model, out = folder / "0" / "resnet.onnx", folder / "out.onnx"
    both = {"oxiprune": (pruned(model, out), 0), "Torch-Pruning": (peer(model.with_suffix(".pt"), [(0.5, 2, out)]), 0)}
    tell_costs("resnet", rounds_of(both, rounds, {}, [out]), result)


def peer(module: Path, jobs: Iterable[tuple[float, int, Path]]) -> list[str]:
    """What Torch-Pruning makes of a network: ratio, norm and the file after it."""
    return program("compaction_torch", "prune", module, *(word for job in jobs for word in job))


def training(folder: Path, seed: int, epochs: int) -> list[dict[str, Any]]:
    """Both networks trained from one seed, pruned by both: parameters and accuracies."""
    folder.mkdir()
    common.run_command(program("compaction_torch", "train", folder, seed, epochs))
    return [row for name in NETWORKS for row in network(folder, name, seed)]


def network(folder: Path, name: str, seed: int) -> list[dict[str, Any]]:
    """One network pruned by both in all ways."""
    model, ways = folder / f"{name}.onnx", [(ratio, norm) for ratio in RATIOS for norm in NORMS]
    after = {way: [folder / f"{name}-{way[0]}-l{way[1]}-{tool}.onnx" for tool in TOOLS] for way in ways}
    common.run_command(peer(model.with_suffix(".pt"), [(*way, files[1]) for way, files in after.items()]))
    for (ratio, norm), files in after.items():
        common.run_command(pruned(model, files[0], ratio, f"l{norm}"))
        if not seed:  # the values differ with the seed, the graph doesn't
            common.run_command(program("compaction_jobs", "check", model, files[0]))
    files = [model, *(file for both in after.values() for file in both)]
    before, *scores = answer(program("compaction_jobs", "score", folder / "images.npz", *files))
    return [
        {"seed": seed, "what": f"{name}, {ratio:.4g}, l{norm}", "before": before}
        | dict(zip(TOOLS, scores[2 * at : 2 * at + 2], strict=True))
        for at, (ratio, norm) in enumerate(ways)
    ]


def accuracies(trainings: Sequence[Sequence[Mapping[str, Any]]]) -> list[Figure]:
    """Each way of pruning, then all of them: means over the trainings; the intervals are at 95 %."""
    rows = [row for some in trainings for row in some]
    largest = max(row["oxiprune"]["parameters"] / row["Torch-Pruning"]["parameters"] for row in rows)
    parameters = f"networks: parameters, oxiprune / Torch-Pruning, largest of {len(rows)}"
    found = [Figure(parameters, largest, target=Target(1))]
    for same in zip(*trainings, strict=True):
        what = f"{same[0]['what']}: accuracy"
        means = [100 * statistics.mean(accuracy(row, tool) for row in same) for tool in TOOLS]
        found += [Figure(f"{what} after {tool}", mean, "%") for tool, mean in zip(TOOLS, means, strict=True)]
        found.append(Figure(f"{what}, difference", statistics.mean(map(gap, same)), "points"))
    low, mean, high = interval([statistics.mean(map(gap, some)) for some in trainings])
    what = f"accuracy, oxiprune - Torch-Pruning, {len(trainings)} trainings"
    found.append(Figure(f"{what}: mean", mean, "points"))
    found.append(Figure(f"{what}: lower end of the interval", low, "points"))
    found.append(Figure(f"{what}: upper end of the interval", high, "points", target=Target(0, at_least=True)))
    return found


def accuracy(row: Mapping[str, Any], tool: str) -> float:
    return float(row[tool]["accuracy"])


def gap(row: Mapping[str, Any]) -> float:
    """By how many points ours is more accurate."""
    ours, theirs = (accuracy(row, tool) for tool in TOOLS)
    return 100 * (ours - theirs)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The 95 % interval of a mean, by Student's t, with the mean in it."""
    mean, half = statistics.mean(values), 0.0
    if len(values) > 1:
        half = STUDENT[len(values) - 1] * statistics.stdev(values) / len(values) ** 0.5
    return mean - half, mean, mean + half


def bench_cases(folder: Path, rounds: int, quick: bool, result: Result) -> None:
    """Small models of every kind."""
    rows = table("compaction_cases", folder, result)
    for tool in ("oxiprune", "onnxsim"):
        right = sum(
            row.get(tool, "").endswith("%") or (row.get(tool) == "unchanged" and "stays" in row) for row in rows
        )
        wrong = sum(row.get(tool, "").startswith(("wrong", "fails", "does not")) for row in rows)
        target = Target(len(rows), at_least=True) if tool == "oxiprune" else None
        result.figures.append(Figure(f"{tool}: right, of {len(rows)} small models", right, "", target=target))
        result.figures.append(Figure(f"{tool}: wrong or failed, of {len(rows)} small models", wrong, ""))


def bench_corpus(folder: Path, rounds: int, quick: bool, result: Result) -> None:
    """Real models."""
    rows = table("compaction_corpus", folder, result)
    if not rows:
        result.note("OXIPRUNE_CORPUS does not name the corpus: not compared on real models")
    for tool in ("oxiprune", "onnxsim"):
        smaller = [row for row in rows if row.get(tool, "").endswith("%")]
        result.figures.append(Figure(f"{tool}: smaller and right, of {len(rows)} real models", len(smaller), ""))


def table(name: str, folder: Path, result: Result) -> list[dict[str, str]]:
    """The table that a program of this name makes."""
    path = folder / f"{name}.json"
    common.run_command(program(name, path))
    rows: list[dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    result.raw[name] = rows
    return rows


def bench_model(folder: Path, rounds: int, quick: bool, result: Result) -> None:
    """Half the channels of 97.5 M parameters, beside onnxsim and a copy."""
    model, ours, theirs, copy = (folder / f"{name}.onnx" for name in ("model", "ours", "theirs", "copy"))
    common.run_command(program("onnx_jobs", "generate", model, *(["--quick"] if quick else [])))
    jobs = {"oxiprune": (pruned(model, ours), 0), **copies(model, copy)}
    if common.installed("onnxsim"):
        jobs["onnxsim"] = (program("compaction_jobs", "onnxsim", model, theirs), 0)
    for name, after in (("oxiprune", ours), ("onnxsim", theirs)):
        if name in jobs:
            common.run_command(jobs[name][0])
            common.run_command(program("compaction_jobs", "check", model, after))
    timed = answer(program("compaction_jobs", "latency", 20, model, ours, *([theirs] if "onnxsim" in jobs else [])))
    runs = rounds_of(jobs, rounds, {}, [copy])
    tell_costs("390 MB", runs, result)
    before, after = timed[str(model)], timed[str(ours)]
    result.figures.append(common.seconds("390 MB: latency before", before, "ms"))
    result.figures.append(
        common.ratio("390 MB: latency before / after oxiprune", before, after, Target(1.8, at_least=True))
    )
    if "onnxsim" in jobs:
        result.figures.append(common.ratio("390 MB: latency before / after onnxsim", before, timed[str(theirs)]))
        result.figures.append(common.ratio("390 MB: latency after onnxsim / oxiprune", timed[str(theirs)], after))
    result.raw["latency"] = {Path(name).stem: taken for name, taken in timed.items()}


def bench_deep(folder: Path, rounds: int, quick: bool, result: Result) -> None:
    """The removal alone, of channels that are zero already: grouping, cutting, writing; then with checks too."""
    for name, (nodes, channels, limit) in DEEP.items():
        model, masked, out, copy = (folder / f"{part}.onnx" for part in ("model", "masked", "out", "copy"))
        common.run_command(
            program("compaction_models", model, nodes // (20 if quick else 1), 16 if quick else channels)
        )
        common.run_command([word for word in pruned(model, masked) if word != "--compact"])
        compact = [*oxiprune(), "compact", str(masked), "-o", str(out), "--quiet", "--force"]
        common.run_command(compact)
        common.run_command(program("compaction_jobs", "check", model, out))
        jobs = {
            "compact --no-verify": ([*compact, "--no-verify"], 0),
            "compact": (compact, 0),
            "prune --compact": (pruned(model, out), 0),
            **copies(masked, copy),
        }
        checked = {"compact": ONCE, "prune --compact": ONCE}  # most of that is onnxruntime's, making sessions
        runs = rounds_of(jobs, rounds, checked, [out, copy])
        tell_costs(name, runs, result, Target(limit))


def copies(model: Path, copy: Path) -> dict[str, tuple[list[str], int]]:
    """The plain copies that figures stand beside."""
    copied = f"cp '{model}' '{copy}'"
    return {COPY: (["sh", "-c", copied], 0), FLUSHED: (["sh", "-c", f"{copied} && sync '{copy}'"], 0)}


def tell_costs(what: str, runs: Runs, result: Result, limit: Target | None = None) -> None:
    """What the first command took, which has the limit, and the others beside it; copies by the clock alone."""
    result.raw[what] = plain(runs)
    cpu, wall, rss = ({name: column(runs[name], key) for name in runs} for key in ("cpu", "wall", "rss_mib"))
    ours = next(iter(runs))
    for name in runs:
        taken = common.seconds(f"{what}: {name}, seconds", wall[name])
        result.figures.append(replace(taken, target=limit if name == ours else None))
        if name not in {COPY, FLUSHED}:
            result.figures.append(common.seconds(f"{what}: {name}, processor seconds", cpu[name]))
            result.figures.append(common.seconds(f"{what}: {name}, peak memory", rss[name], "MiB"))
        else:
            result.figures.append(common.ratio(f"{what}: {ours} / {name}, seconds", wall[ours], wall[name]))
    for name in runs.keys() - {ours, COPY, FLUSHED}:
        result.figures.append(common.ratio(f"{what}: {name} / {ours}, processor seconds", cpu[name], cpu[ours]))


PARTS: dict[str, Callable[[Path, int, bool, Result], None]] = {
    "networks": bench_networks,
    "cases": bench_cases,
    "corpus": bench_corpus,
    "model": bench_model,
    "deep": bench_deep,
}


if __name__ == "__main__":
    main()
