"""The `oxiprune` command: arguments and exit codes only. What is done is in `onnx_tools.commands`.

Exit codes: 0 done; 1 no weight was selected, or a check failed; 2 usage or bad input. Nothing here imports numpy or
onnx, so `--help` and errors of usage are quick.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from onnx_tools.naming import expand

app = typer.Typer(
    name="oxiprune",
    help="Prune ONNX models: exactly, in place in the file, with a report of what happened.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done; 1 no weight was selected, or a check failed; 2 usage or bad input.",
)

Models = Annotated[
    list[Path], typer.Argument(help="ONNX models; external data is found beside them.", metavar="MODEL...")
]
Reports = Annotated[
    list[str] | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Also write the report to FILE (.json, .csv, .md). Repeatable. {stem}, {parent}: those of the model.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON (several models: a list).")]
Compressed = Annotated[
    bool, typer.Option("--compressed-sizes", help="Also report what the files weigh compressed (zstd -3); slow.")
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="NPZ", help="Inputs to run the models on: arrays by input name. Default: seeded random."
    ),
]
MaxDrift = Annotated[
    float | None,
    typer.Option("--max-drift", min=0.0, help="Fail when the relative L2 drift of an output is above this."),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the random inputs.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        from oxiprune_gpu import __version__  # brings numpy

        typer.echo(f"oxiprune {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


def _check_sparsity(sparsity: float) -> float:
    if not 0.0 <= sparsity < 1.0:
        raise typer.BadParameter(f"sparsity {sparsity:g} must be in [0.0, 1.0)")
    return sparsity


@app.command()
def prune(
    models: Models,
    sparsity: Annotated[
        float,
        typer.Option(
            "--sparsity", "-s", callback=_check_sparsity, help="Fraction of each weight to prune, 0 <= S < 1."
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="File to write; for several models a folder (ending in /), or a name with {stem} or {parent}.",
        ),
    ] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace the models themselves, atomically.")] = False,
    metric: Annotated[
        str,
        typer.Option(help="l1, l2, taylor (w*w), random:SEED, or taylor:FILE.npz with a gradient for each weight."),
    ] = "l1",
    granularity: Annotated[
        str, typer.Option(help="unstructured, row (output channels) or column (input channels).")
    ] = "unstructured",
    include: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="Prune only weights that match: a glob for names, or op:Conv. Repeatable."
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Leave weights alone that match. Repeatable.")
    ] = None,
    min_nonzero: Annotated[int, typer.Option(min=0, help="Keep at least this many elements of each weight.")] = 1,
    min_elements: Annotated[int, typer.Option(min=0, help="Leave weights alone that have fewer elements.")] = 2048,
    depthwise: Annotated[
        bool, typer.Option("--depthwise", help="Prune depthwise kernels too; that ruins most models.")
    ] = False,
    report: Reports = None,
    compressed_sizes: Compressed = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Also compare checker and onnxruntime before and after; before anything is written."
        ),
    ] = False,
    data: Data = None,
    max_drift: MaxDrift = None,
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite an existing output.")] = False,
    delete_old_data: Annotated[
        bool, typer.Option("--delete-old-data", help="In place: delete external data that is no longer used.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Count only, write no model.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Prune the weights of ONNX models.

    Weights are found by the operators that read them (MatMul, Gemm, Conv, ConvTranspose, LSTM, GRU, RNN), also in
    subgraphs and external data. What is not pruned stays byte for byte what it was.

    oxiprune prune model.onnx -o pruned.onnx --sparsity 0.5 --report pruned.md
    """
    if sum((output is not None, in_place, dry_run)) != 1:
        raise typer.BadParameter("give exactly one of --output OUT, --in-place, --dry-run")
    if delete_old_data and not in_place:
        raise typer.BadParameter("--delete-old-data goes with --in-place")
    if not verify and (data is not None or max_drift is not None):
        raise typer.BadParameter("--data and --max-drift go with --verify")
    _check_words(metric, granularity)
    reports = _checked_reports(report)
    outputs = _outputs(models, output)

    def run() -> int:
        from onnx_tools import commands
        from onnx_tools.weight_selection import Selection

        checks = commands.Checks(data, max_drift, seed) if verify else None
        job = commands.PruneJob(
            commands.make_config(sparsity, metric, granularity, min_nonzero),
            Selection(tuple(include or ()), tuple(exclude or ()), min_elements, depthwise),
            commands.read_gradients(metric),
            checks,
            force=force,
            delete_old_data=delete_old_data,
            dry_run=dry_run,
        )
        view = commands.View(reports, quiet=quiet, as_json=as_json, compressed=compressed_sizes)
        return commands.prune_models(list(zip(models, outputs, strict=True)), job, view)

    _run(run)


@app.command()
def inspect(
    models: Models,
    report: Reports = None,
    compressed_sizes: Compressed = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Show the weights of ONNX models, their zeros (by element, row, column and 2:4), and what else is stored.

    oxiprune inspect model.onnx
    """
    reports = _checked_reports(report)

    def run() -> int:
        from onnx_tools import commands

        view = commands.View(reports, quiet=quiet, as_json=as_json, compressed=compressed_sizes)
        return commands.inspect_models(models, view)

    _run(run)


@app.command()
def verify(
    before: Annotated[Path, typer.Argument(help="The model before pruning.")],
    after: Annotated[Path, typer.Argument(help="The pruned model.")],
    data: Data = None,
    max_drift: MaxDrift = None,
    seed: Seed = 0,
    runtime: Annotated[bool, typer.Option("--runtime/--no-runtime", help="Run both models in onnxruntime.")] = True,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Check that AFTER is BEFORE with more zeros in its weights, and nothing else.

    Compares every byte, the verdicts of onnx.checker and onnxruntime, and the outputs on your data.

    oxiprune verify model.onnx pruned.onnx --data inputs.npz --max-drift 0.1
    """

    def run() -> int:
        from onnx_tools import commands

        checks = commands.Checks(data, max_drift, seed, runtime)
        return commands.verify_models(before, after, checks, quiet=quiet, as_json=as_json)

    _run(run)


def main() -> None:
    """Entry point of the console script."""
    gc.set_threshold(100_000)  # importing makes many objects and no garbage: collecting among them takes a tenth
    app()


def _run(command: Callable[[], int]) -> None:
    """Run a command; every error becomes one line."""
    try:
        code = command()
    except KeyboardInterrupt:
        typer.echo("interrupted: nothing half-done was left", err=True)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        code = _failed(error)
    raise typer.Exit(code)


def _failed(error: Exception) -> int:
    from onnx_tools.commands import exit_code, one_line

    if os.environ.get("OXIPRUNE_DEBUG"):
        raise error
    typer.echo(f"error: {one_line(error)}", err=True)
    return exit_code(error)


def _check_words(metric: str, granularity: str) -> None:
    """Catch what needs no library to know."""
    name = metric.partition(":")[0]
    if name not in ("l1", "l2", "taylor", "random"):
        raise typer.BadParameter(f"unknown metric '{metric}': use l1, l2, taylor, random:SEED or taylor:FILE.npz")
    if granularity not in ("unstructured", "row", "column"):
        raise typer.BadParameter(f"unknown granularity '{granularity}': use unstructured, row or column")


def _checked_reports(reports: list[str] | None) -> tuple[str, ...]:
    from onnx_tools.renderers import known_suffixes

    for report in reports or ():
        if Path(report).suffix.lower() not in known_suffixes():
            raise typer.BadParameter(f"--report {report}: the ending must be one of {', '.join(known_suffixes())}")
    return tuple(reports or ())


def _outputs(models: list[Path], output: str | None) -> list[Path | None]:
    """Where each model goes."""
    if output is None:
        return [None] * len(models)
    folder = output.endswith(("/", os.sep)) or Path(output).is_dir()
    pattern = os.path.join(output, "{stem}.onnx") if folder else output
    outputs = [Path(expand(pattern, model)) for model in models]
    for index, path in enumerate(outputs):
        if path in outputs[:index]:
            raise typer.BadParameter(
                f"two models would be written to {path}: use a folder, {{stem}} or {{parent}} in -o"
            )
    if folder:
        _make_folder(Path(expand(output, models[0])))
    return list(outputs)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"{folder}: can't be made: {error.strerror}") from None
