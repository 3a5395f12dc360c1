"""How long does pruning a 1.5 GB model with external data take, beside copying its files? And the global scope?

The model is that of memory.py: twelve MatMul weights, 375 M float32 parameters. Whole commands: `oxiprune prune MODEL
-o OUT` with 50 % of each weight, 2:4, and 50 % of all weights together; `cp` of both files, with and without writing
them to the disk (`sync`), which the command does before it puts its files in place.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import common
import memory
from commands import Command, Runs, column, oxiprune, plain, rounds_of
from common import Result, Target

OPTIONS = common.arguments(__doc__.splitlines()[0]) if __doc__ else argparse.ArgumentParser()
WAYS = {
    "50 %": ["--sparsity", "0.5"],
    "2:4": ["--granularity", "2:4"],
    "50 %, global": ["--sparsity", "0.5", "--allocation", "global"],
}
COPY, FLUSHED = "cp", "cp and sync"
MOST_TIME, MOST_MIB, MOST_GLOBAL = Target(3), Target(memory.LIMIT_MIB), Target(1.5)


def main() -> None:
    OPTIONS.add_argument("--folder", type=Path, help="where the model is generated, and deleted again")
    options = OPTIONS.parse_args()
    common.use_threads(options.threads)
    elements = 1_000_000 if options.quick else memory.LARGEST
    rounds = options.rounds or (1 if options.quick else 5)
    result = Result("external", {"rounds": rounds})
    with tempfile.TemporaryDirectory(prefix="oxiprune-bench-", dir=options.folder) as name:
        if shutil.disk_usage(name).free < 40 * elements:
            OPTIONS.error(f"{name}: {40 * elements / 1e9:.1f} GB of disk are needed")
        model = memory.generate(Path(name), elements, external=True)
        result.settings["bytes"] = sum(file.stat().st_size for file in model.parent.iterdir())
        out = model.with_name("out.onnx")
        runs = rounds_of(commands(model, out), rounds, {}, [out, *(Path(f"{out}{end}") for end in (".data", ".copy"))])
    result.raw["runs"] = plain(runs)
    report(runs, result)
    common.finish(result, options)


def commands(model: Path, out: Path) -> dict[str, Command]:
    """What is measured, by name. Every way writes OUT.onnx and OUT.onnx.data, or a copy of that name."""
    data, copied = model.with_name("weights.bin"), f"{out}.copy"
    copies = f"cp '{model}' '{copied}' && cp '{data}' '{out}.data'"
    ours = {name: ["prune", str(model), "-o", str(out), "--quiet", *words] for name, words in WAYS.items()}
    return {
        COPY: (["sh", "-c", copies], 0),
        FLUSHED: (["sh", "-c", f"{copies} && sync '{copied}' '{out}.data'"], 0),
        **{name: ([*oxiprune(), *words], 0) for name, words in ours.items()},
    }


def report(runs: Runs, result: Result) -> None:
    cpu, wall, rss = ({name: column(runs[name], field) for name in runs} for field in ("cpu", "wall", "rss_mib"))
    for name in runs:
        result.figures.append(common.seconds(f"{name}: seconds", wall[name]))
    for name in WAYS:
        result.figures.append(common.ratio(f"{name} / {COPY}, wall", wall[name], wall[COPY], MOST_TIME))
        result.figures.append(common.ratio(f"{name} / {FLUSHED}, wall", wall[name], wall[FLUSHED], MOST_TIME))
    for name in WAYS:
        result.figures.append(common.seconds(f"{name}: processor seconds", cpu[name]))
    for kind, seconds in (("wall", wall), ("processor seconds", cpu)):
        result.figures.append(
            common.ratio(f"global / of each weight, {kind}", seconds["50 %, global"], seconds["50 %"], MOST_GLOBAL)
        )
    for name in WAYS:
        result.figures.append(most_memory(name, rss[name]))


def most_memory(name: str, mib: list[float | None]) -> common.Figure:
    return common.Figure(f"{name}: peak memory", max(value or 0.0 for value in mib), "MiB", target=MOST_MIB)


if __name__ == "__main__":
    main()
