"""How many processor seconds does pruning a 390 MB model take, beside cp, torch and onnxsim? And starting up?

Every job is a command of its own: `oxiprune prune`, `cp`, and scripts that load, prune and save with numpy, torch and
onnxsim (see onnx_jobs.py). Then `oxiprune --help`, an error of usage and a small model, beside `import onnx`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import common
from commands import Command, Runs, column, oxiprune, plain, rounds_of
from common import Result, Target

OPTIONS = common.arguments(__doc__.splitlines()[0]) if __doc__ else argparse.ArgumentParser()
HERE = Path(__file__).parent
JOBS = [sys.executable, str(HERE / "onnx_jobs.py")]
SMALL = HERE.parent / "demo" / "digits_cnn.onnx"
CLOCK = ("wall", "cpu")


def main() -> None:
    OPTIONS.add_argument("--starts", type=int, help="rounds of the start-up runs (default: 20)")
    OPTIONS.add_argument("--only", choices=("model", "start"), help="one half of it")
    options = OPTIONS.parse_args()
    common.use_threads(options.threads)
    rounds = options.rounds or (1 if options.quick else 5)
    starts = options.starts or (2 if options.quick else 20)
    result = Result("onnx", {"rounds": rounds, "starts": starts, "sparsity": 0.5})
    with tempfile.TemporaryDirectory(prefix="oxiprune-bench-") as folder:
        if options.only != "start":
            model = Path(folder) / "model.onnx"
            common.run_command([*JOBS, "generate", str(model), *(["--quick"] if options.quick else [])])
            result.settings["model_bytes"] = model.stat().st_size
            bench_model(model, rounds, result)
        if options.only != "model":
            bench_start(Path(folder), starts, result)
    common.finish(result, options)


def pruning(model: Path, output: Path) -> list[str]:
    return [*oxiprune(), "prune", str(model), "-o", str(output), "--sparsity", "0.5", "--quiet", "--force"]


def bench_model(model: Path, rounds: int, result: Result) -> None:
    """Measure whole commands; the slow peers take part in every second round."""
    output = model.with_name("pruned.onnx")
    jobs = {"oxiprune": pruning(model, output), "cp": ["cp", str(model), str(output)]}
    for peer in ("numpy", "torch", "onnxsim"):
        if common.installed(peer):
            jobs[peer] = [*JOBS, peer, str(model), str(output)]
        else:
            result.note(f"{peer} is not installed: not compared with it")
    for name, command in jobs.items():
        common.run_command(command)
        if name != "cp":
            common.run_command([*JOBS, "check", str(model), str(output), "row" if name == "onnxsim" else "tensor"])
        output.unlink()
    runs = rounds_of(
        {name: (command, 0) for name, command in jobs.items()}, rounds, {"torch": 2, "onnxsim": 2}, [output]
    )
    result.raw["model"] = plain(runs)
    report_model(runs, result)


def report_model(runs: Runs, result: Result) -> None:
    cpu, wall, rss = ({name: column(runs[name], field) for name in runs} for field in ("cpu", "wall", "rss_mib"))
    for name in runs:
        result.figures.append(common.seconds(f"{name}: processor seconds", cpu[name]))
    limits = {
        "torch": Target(8, at_least=True),
        "onnxsim": Target(15, at_least=True),
        "numpy": None,
    }
    for name, target in limits.items():
        if name in runs:
            result.figures.append(
                common.ratio(f"{name} / oxiprune, processor seconds", cpu[name], cpu["oxiprune"], target)
            )
    result.figures.append(common.ratio("oxiprune / cp, processor seconds", cpu["oxiprune"], cpu["cp"]))
    result.figures.append(common.ratio("oxiprune / cp, wall", wall["oxiprune"], wall["cp"]))
    for name in runs:
        result.figures.append(common.seconds(f"{name}: peak memory", rss[name], "MiB"))


def bench_start(folder: Path, starts: int, result: Result) -> None:
    """What a command costs before it does anything."""
    commands: dict[str, Command] = {
        "python -c pass": ([sys.executable, "-c", "pass"], 0),
        "import numpy": ([sys.executable, "-c", "import numpy"], 0),
        "import onnx": ([sys.executable, "-c", "import onnx"], 0),
        "oxiprune --help": ([*oxiprune(), "--help"], 0),
        "error of usage": ([*oxiprune(), "prune", "model.onnx"], 2),
        "small model": (pruning(SMALL, folder / "small.onnx"), 0),
    }
    runs = rounds_of(commands, starts, {})
    result.raw["start"] = plain(runs)
    result.figures.append(common.seconds("import onnx", column(runs["import onnx"], "wall")))
    for name in commands:
        for clock in CLOCK:
            if name == "import onnx":
                continue
            mine, peer = column(runs[name], clock), column(runs["import onnx"], clock)
            target = Target(2) if (name, clock) == ("small model", "wall") else None
            result.figures.append(common.ratio(f"{name} / import onnx, {clock}", mine, peer, target))


if __name__ == "__main__":
    main()
