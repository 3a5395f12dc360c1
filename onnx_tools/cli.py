"""The `oxiprune` command: arguments, usage and exit codes. What is done is in `onnx_tools.commands`.

Exit codes: 0 done; 1 no weight was selected, or a check failed; 2 usage or bad input, or something can't be written;
130 interrupted. Nothing here imports numpy or onnx, so `--help` and errors of usage are quick.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from onnx_tools.naming import PLACEHOLDERS, is_folder
from onnx_tools.terminal import complain, open_standard_streams
from onnx_tools.usage import OneLineGroup, SectionedCommand, WrongUsage

_VERIFYING = "Verification"  # headings of the help
_REPORTING = "Reporting"
_SELECTING = "Which weights"
_WRITING = "Writing"

_EXIT_CODES = """Exit codes: 0 done; 1 no weight was selected, or a check failed; 2 wrong usage, bad input, or a file
that can't be written; 130 interrupted. Of several models, the worst."""

_DOCTOR_EXIT_CODES = """Exit codes: 0 done, also where there is no GPU; 1 there is a GPU that does not work, or whose
kernels give other results than numpy; 2 wrong usage; 130 interrupted."""


METRICS = ("l1", "l2", "taylor", "random")
"""The names in `oxiprune_gpu.metrics.METRICS`, which can't be asked without importing numpy; a test compares."""

app = typer.Typer(
    name="oxiprune",
    cls=OneLineGroup,
    help="Prune ONNX models: exactly, patching the file instead of rebuilding it, with a report of what happened.",
    epilog=_EXIT_CODES,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich would take longer than everything else that --help does
    context_settings={"help_option_names": ["-h", "--help"]},
)

Models = Annotated[
    list[Path],
    typer.Argument(help="ONNX models; external data is found beside them.", metavar="MODEL...", readable=False),
]
Reports = Annotated[
    list[str] | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write the report to FILE too (.json, .csv, .md), replacing an old one. Repeatable. Of several models, "
        "put {stem} or {parent} into the name: they stand for the model's name and folder.",
        rich_help_panel=_REPORTING,
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.", rich_help_panel=_REPORTING)
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print JSON: an object, of several models a list, with an error for each that is refused.",
        rich_help_panel=_REPORTING,
    ),
]
Compressed = Annotated[
    bool,
    typer.Option(
        "--compressed-sizes",
        help="Report what the files weigh compressed (zstd level 3) too; takes longer than pruning.",
        rich_help_panel=_REPORTING,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="NPZ",
        exists=True,
        dir_okay=False,
        readable=False,
        help="Inputs to run the models on: an array for each input, under its name. Without: random inputs.",
        rich_help_panel=_VERIFYING,
    ),
]
Seed = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, help="Seed of the random inputs.", rich_help_panel=_VERIFYING)
]


def _checked_drift(limit: float | None) -> float | None:
    if limit is not None and not limit >= 0:
        raise typer.BadParameter(f"{limit} must be a number, 0 or more")
    return limit


MaxDrift = Annotated[
    float | None,
    typer.Option(
        "--max-drift",
        metavar="D",
        callback=_checked_drift,
        help="Fail when an output moves by more than this, as relative L2. Without: drift is told and never fails.",
        rich_help_panel=_VERIFYING,
    ),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        from oxiprune_gpu import __version__  # brings numpy

        typer.echo(f"oxiprune {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def _read_sparsity(text: str) -> float:
    """The number in a text like "0.5"; of one like "50%" or "50" the error says what to give."""
    in_percent = text.endswith("%")
    try:
        sparsity = float(text.removesuffix("%"))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None
    if in_percent or not 0.0 <= sparsity < 1.0:
        percent = 0.0 <= sparsity < 100.0 and (in_percent or sparsity > 1.0)
        hint = f"; for {sparsity:g} percent give {sparsity / 100:g}" if percent else ""
        raise typer.BadParameter(f"sparsity {text if in_percent else sparsity} must be in [0.0, 1.0){hint}")
    return sparsity


def _checked_metric(metric: str) -> str:
    """Catch what needs no library to know."""
    if metric.partition(":")[0] not in METRICS:
        raise typer.BadParameter(f"unknown metric '{metric}': use {', '.join(METRICS)} (random:SEED, taylor:FILE.npz)")
    return metric


def _checked_backend(backend: str) -> str:
    if backend not in ("auto", "cpu", "cuda"):
        raise typer.BadParameter(f"unknown backend '{backend}': use auto, cpu or cuda")
    return backend


def _checked_granularity(granularity: str) -> str:
    if granularity not in ("unstructured", "row", "column"):
        is_known = re.match(r"(axis|block):|\d+:\d+", granularity)
        more = " (N:M, block and axis only in the array API so far)" if is_known else ""
        raise typer.BadParameter(f"unknown granularity '{granularity}': use unstructured, row or column{more}")
    return granularity


@app.command(cls=SectionedCommand, epilog=_EXIT_CODES)
def prune(
    models: Models,
    sparsity: Annotated[
        float,
        typer.Option(
            "--sparsity",
            "-s",
            metavar="S",
            parser=_read_sparsity,
            help="Fraction of each weight that becomes zero, 0 <= S < 1.",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="File to write; external data goes to OUT.data. For several models a folder (it ends in / and is "
            "made if need be), or a name with {stem} or {parent}: the model's name and folder.",
            rich_help_panel=_WRITING,
        ),
    ] = None,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place",
            help="Replace the models themselves, in one step: killed at any moment, the old or the new one stands.",
            rich_help_panel=_WRITING,
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Overwrite an existing OUT.", rich_help_panel=_WRITING)
    ] = False,
    delete_old_data: Annotated[
        bool,
        typer.Option(
            "--delete-old-data",
            help="With --in-place: delete external data that the new model does not use. Without: it stays.",
            rich_help_panel=_WRITING,
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Count and report only; write no model.", rich_help_panel=_WRITING)
    ] = False,
    metric: Annotated[
        str,
        typer.Option(
            metavar="METRIC",
            callback=_checked_metric,
            help="Score of a weight's elements; the lowest are pruned: l1 (|w|), l2, taylor (w*w), random:SEED, or "
            "taylor:FILE.npz (|w*g|; a gradient for each weight, under its name).",
        ),
    ] = "l1",
    granularity: Annotated[
        str,
        typer.Option(
            metavar="UNIT",
            callback=_checked_granularity,
            help="What is pruned as one: unstructured (elements), row (output channels), column (input channels).",
        ),
    ] = "unstructured",
    min_nonzero: Annotated[
        int, typer.Option(metavar="N", min=0, help="Keep at least this many elements of each weight.")
    ] = 1,
    backend: Annotated[
        str,
        typer.Option(
            metavar="WHERE",
            callback=_checked_backend,
            help="What prunes: cpu, cuda (a GPU; an error where there is none), or auto: a GPU where one is present "
            "and the weights are large enough to pay for it. The result is the same, byte for byte.",
        ),
    ] = "auto",
    include: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Prune only weights whose name matches the glob, or with op:Conv whose operator does. Repeatable. "
            "Default: all.",
            rich_help_panel=_SELECTING,
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Leave weights alone that match, also included ones. Repeatable. Default: none.",
            rich_help_panel=_SELECTING,
        ),
    ] = None,
    min_elements: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Leave weights alone that have fewer elements.", rich_help_panel=_SELECTING
        ),
    ] = 2048,
    depthwise: Annotated[
        bool,
        typer.Option(
            "--depthwise/--no-depthwise",
            help="Prune depthwise kernels too; that ruins most models.",
            rich_help_panel=_SELECTING,
        ),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Compare the verdicts of onnx's checker and onnxruntime, and the outputs, before anything is put in "
            "its place. (That every other byte is unchanged is always checked.)",
            rich_help_panel=_VERIFYING,
        ),
    ] = False,
    data: Data = None,
    max_drift: MaxDrift = None,
    seed: Seed = 0,
    report: Reports = None,
    compressed_sizes: Compressed = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Prune the weights of ONNX models.

    Weights are found by the operators that read them (MatMul, Gemm, Conv, ConvTranspose, LSTM, GRU, RNN), also in
    subgraphs and external data. What is not pruned stays byte for byte what it was.

    \b
    Examples:
      oxiprune prune model.onnx -o pruned.onnx --sparsity 0.5 --report pruned.md
      oxiprune prune *.onnx -o pruned/ -s 0.8 --exclude 'head.*' --verify
      oxiprune prune model.onnx --in-place -s 0.5 --granularity row
    """  # noqa: D301
    _check_combination(output, in_place=in_place, dry_run=dry_run)
    if delete_old_data and not in_place:
        raise WrongUsage("--delete-old-data goes with --in-place")
    if not verify and (data is not None or max_drift is not None or seed):
        raise WrongUsage("--data, --max-drift and --seed go with --verify")
    _check_output_name(output)
    if output is not None and len(models) > 1 and not (is_folder(output) or "{stem}" in output or "{parent}" in output):
        raise WrongUsage(f"-o {output}: several models need a folder (ending in /), or {{stem}} or {{parent}} in it")
    reports = _checked_reports(report)

    def run() -> int:
        from onnx_tools import commands
        from onnx_tools.weight_selection import Selection

        job = commands.PruneJob(
            output,
            commands.make_config(sparsity, metric, granularity, min_nonzero),
            Selection(tuple(include or ()), tuple(exclude or ()), min_elements, depthwise),
            commands.read_gradients(metric),
            commands.Checks(data, max_drift, seed) if verify else None,
            force=force,
            delete_old_data=delete_old_data,
            dry_run=dry_run,
            backend=backend,
        )
        view = commands.View(reports, quiet=quiet, as_json=as_json, compressed=compressed_sizes)
        return commands.prune_models(models, job, view)

    _run(run)


@app.command(cls=SectionedCommand, epilog=_EXIT_CODES)
def inspect(
    models: Models,
    report: Reports = None,
    compressed_sizes: Compressed = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Show the weights of ONNX models.

    Their zeros by element, row, column and 2:4, and what else is stored; what `prune` can't touch, with the reason.

    \b
    Examples:
      oxiprune inspect model.onnx
      oxiprune inspect *.onnx --json
    """  # noqa: D301
    reports = _checked_reports(report)

    def run() -> int:
        from onnx_tools import commands

        view = commands.View(reports, quiet=quiet, as_json=as_json, compressed=compressed_sizes)
        return commands.inspect_models(models, view)

    _run(run)


@app.command(cls=SectionedCommand, epilog=_EXIT_CODES)
def verify(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", readable=False, help="The model before pruning.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", readable=False, help="The pruned model.")],
    data: Data = None,
    max_drift: MaxDrift = None,
    seed: Seed = 0,
    runtime: Annotated[
        bool,
        typer.Option("--runtime/--no-runtime", help="Run both models in onnxruntime.", rich_help_panel=_VERIFYING),
    ] = True,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=_REPORTING)] = False,
) -> None:
    """Check that AFTER is BEFORE with more zeros, and nothing else.

    Compares every byte, the verdicts of onnx's checker and onnxruntime, and the outputs on your data.

    \b
    Examples:
      oxiprune verify model.onnx pruned.onnx
      oxiprune verify model.onnx pruned.onnx --data inputs.npz --max-drift 0.1
    """  # noqa: D301
    if not runtime and (data is not None or max_drift is not None):
        raise WrongUsage("--data and --max-drift need onnxruntime; leave out --no-runtime")

    def run() -> int:
        from onnx_tools import commands

        checks = commands.Checks(data, max_drift, seed, runtime)
        return commands.verify_models(before, after, checks, quiet=quiet, as_json=as_json)

    _run(run)


@app.command(cls=SectionedCommand, epilog=_DOCTOR_EXIT_CODES)
def doctor(
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=_REPORTING)] = False,
) -> None:
    """Show whether a GPU is used, and test its kernels.

    Versions, GPUs, and every CUDA kernel against numpy, bit for bit. What is missing is named with the command that
    installs it. The test compiles what was never compiled before, which takes a few minutes; later runs take seconds.

    \b
    Examples:
      oxiprune doctor
      oxiprune doctor --json
    """  # noqa: D301

    def run() -> int:
        from onnx_tools import doctor

        return doctor.doctor(quiet=quiet, as_json=as_json)

    _run(run)


def main() -> None:
    """Entry point of the console script."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # nothing here uses numpy's BLAS; starting its threads costs
    gc.set_threshold(100_000)  # importing makes many objects and no garbage: collecting among them takes a tenth
    open_standard_streams()
    for name in ("SIGTERM", "SIGHUP"):  # let temporary files be removed on the way out
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_DFL:
            signal.signal(getattr(signal, name), _terminate)
    app()


def _terminate(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)


def _run(command: Callable[[], int]) -> NoReturn:
    """Run a command; every error becomes one line."""
    try:
        code = command()
    except KeyboardInterrupt:
        complain("interrupted", "models that were finished stand, nothing half-done was left")
        code = 130
    except Exception as error:
        code = _failed(error)
    raise typer.Exit(code)


def _failed(error: Exception) -> int:
    from onnx_tools.commands import exit_code, message

    if os.environ.get("OXIPRUNE_DEBUG"):
        raise error
    complain("error", message(error))
    return exit_code(error)


def _check_output_name(output: str | None) -> None:
    if output in ("", "-"):
        raise WrongUsage(f"-o {output or repr('')}: name a file; a model is not written to standard output")
    unknown = [name for name in re.findall(r"{(\w*)}", output or "") if name not in PLACEHOLDERS]
    if unknown:
        known = " and ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise WrongUsage(f"-o {output}: {{{unknown[0]}}} stands for nothing; there are {known}")


def _check_combination(output: str | None, *, in_place: bool, dry_run: bool) -> None:
    """A model goes to one place; a dry run may leave it open."""
    if output is not None and in_place:
        raise WrongUsage("give --output OUT or --in-place, not both")
    if output is None and not in_place and not dry_run:
        raise WrongUsage("where to? Give --output OUT, or --in-place to replace the model, or --dry-run to count only")


def _checked_reports(reports: list[str] | None) -> tuple[str, ...]:
    from onnx_tools.renderers import known_suffixes

    for report in reports or ():
        if Path(report).suffix.lower() not in known_suffixes():
            raise WrongUsage(f"--report {report}: the ending must be one of {', '.join(known_suffixes())}")
    return tuple(reports or ())
