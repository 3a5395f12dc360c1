"""`oxiprune prune`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

import typer

from onnx_tools.cli.application import EXIT_CODES, app, run_command
from onnx_tools.cli.options import (
    SELECTING,
    VERIFYING,
    WRITING,
    AsJson,
    Compressed,
    Data,
    FailIf,
    GithubSummary,
    MasksFile,
    MaxDrift,
    Models,
    Prefer,
    Quiet,
    Reports,
    SaveMasks,
    Seed,
    checked_reports,
    summary_file,
)
from onnx_tools.naming import PLACEHOLDERS, is_folder
from onnx_tools.usage import SectionedCommand, WrongUsage

METRICS = ("l1", "l2", "taylor", "random")
"""The names in `oxiprune_gpu.metrics.METRICS`, which can't be asked without importing numpy; a test compares."""


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


def _checked_encoding(encoding: str) -> str:
    if encoding not in ("dense", "packed", "sparse"):
        raise typer.BadParameter(f"unknown encoding '{encoding}': use dense, packed or sparse")
    return encoding


def _checked_granularity(granularity: str) -> str:
    if granularity not in ("unstructured", "row", "column"):
        is_known = re.match(r"(axis|block):|\d+:\d+", granularity)
        more = " (N:M, block and axis only in the array API so far)" if is_known else ""
        raise typer.BadParameter(f"unknown granularity '{granularity}': use unstructured, row or column{more}")
    return granularity


@app.command(cls=SectionedCommand, epilog=EXIT_CODES)
def prune(
    models: Models,
    sparsity: Annotated[
        float | None,
        typer.Option(
            "--sparsity",
            "-s",
            metavar="S",
            parser=_read_sparsity,
            help="Fraction of each weight that becomes zero, 0 <= S < 1.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="File to write; external data goes to OUT.data. For several models a folder (it ends in / and is "
            "made if need be), or a name with {stem} or {parent}: the model's name and folder.",
            rich_help_panel=WRITING,
        ),
    ] = None,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place",
            help="Replace the models themselves, in one step: killed at any moment, the old or the new one stands.",
            rich_help_panel=WRITING,
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Overwrite an existing OUT.", rich_help_panel=WRITING)
    ] = False,
    delete_old_data: Annotated[
        bool,
        typer.Option(
            "--delete-old-data",
            help="With --in-place: delete external data that the new model does not use. Without: it stays.",
            rich_help_panel=WRITING,
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Count and report only; write no model.", rich_help_panel=WRITING)
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
    masks: MasksFile = None,
    save_masks: SaveMasks = None,
    include: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Prune only weights whose name matches the glob, or with op:Conv whose operator does. Repeatable. "
            "Default: all.",
            rich_help_panel=SELECTING,
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Leave weights alone that match, also included ones. Repeatable. Default: none.",
            rich_help_panel=SELECTING,
        ),
    ] = None,
    min_elements: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Leave weights alone that have fewer elements.", rich_help_panel=SELECTING
        ),
    ] = 2048,
    depthwise: Annotated[
        bool,
        typer.Option(
            "--depthwise/--no-depthwise",
            help="Prune depthwise kernels too; that ruins most models.",
            rich_help_panel=SELECTING,
        ),
    ] = False,
    embeddings: Annotated[
        bool,
        typer.Option(
            "--embeddings/--no-embeddings",
            help="Prune tables that entries are looked up in (Gather), those that are a weight elsewhere included.",
            rich_help_panel=SELECTING,
        ),
    ] = False,
    linear_models: Annotated[
        bool,
        typer.Option(
            "--linear-models/--no-linear-models",
            help="Prune the coefficients of ONNX-ML's LinearClassifier and LinearRegressor.",
            rich_help_panel=SELECTING,
        ),
    ] = False,
    encoding: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            callback=_checked_encoding,
            help="How pruned weights are stored: dense, packed or sparse, which leave out the zeros (see `oxiprune "
            "encode`, and `oxiprune inspect --encodings` for what each saves).",
            rich_help_panel=WRITING,
        ),
    ] = "dense",
    prefer: Prefer = "size",
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Compare the verdicts of onnx's checker and onnxruntime, and the outputs, before anything is put in "
            "its place. (That every other byte is unchanged is always checked.)",
            rich_help_panel=VERIFYING,
        ),
    ] = False,
    data: Data = None,
    max_drift: MaxDrift = None,
    seed: Seed = 0,
    report: Reports = None,
    compressed_sizes: Compressed = False,
    github_summary: GithubSummary = False,
    fail_if: FailIf = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Prune the weights of ONNX models.

    Weights are found by the operators that read them (products, convolutions, recurrent layers, attention, experts),
    also in subgraphs, local functions and external data. What is not pruned stays byte for byte what it was.

    \b
    Examples:
      oxiprune prune model.onnx -o pruned.onnx --sparsity 0.5 --report pruned.md
      oxiprune prune *.onnx -o pruned/ -s 0.8 --exclude 'head.*' --verify
      oxiprune prune model.onnx --in-place -s 0.5 --granularity row
      oxiprune prune model.onnx -o pruned.onnx -s 0.8 --save-masks masks.npz
      oxiprune prune tuned.onnx -o pruned.onnx --masks masks.npz
    """  # noqa: D301
    _check_combination(output, in_place=in_place, dry_run=dry_run)
    if encoding != "dense" and (in_place or dry_run):
        raise WrongUsage(f"--encoding {encoding} writes a new file: it goes with --output, not --in-place or --dry-run")
    if delete_old_data and not in_place:
        raise WrongUsage("--delete-old-data goes with --in-place")
    if not verify and (data is not None or max_drift is not None or seed):
        raise WrongUsage("--data, --max-drift and --seed go with --verify")
    if masks is None and sparsity is None:
        raise WrongUsage("how much? Give --sparsity S, or --masks NPZ")
    if masks is not None:
        _check_masks({"sparsity": sparsity, "metric": metric, "granularity": granularity, "min_nonzero": min_nonzero})
    if save_masks is not None and dry_run:
        raise WrongUsage("--save-masks reads the pruned model; leave out --dry-run")
    _check_output_name(output)
    if output is not None and len(models) > 1 and not (is_folder(output) or "{stem}" in output or "{parent}" in output):
        raise WrongUsage(f"-o {output}: several models need a folder (ending in /), or {{stem}} or {{parent}} in it")
    reports, summary = checked_reports(report), summary_file(github_summary)

    def run() -> int:
        from onnx_tools import commands
        from onnx_tools.conditions import pruning_conditions
        from onnx_tools.weight_selection import Selection

        job = commands.PruneJob(
            output,
            commands.read_masks(masks)
            if masks
            else commands.make_config(sparsity or 0, metric, granularity, min_nonzero),
            Selection(tuple(include or ()), tuple(exclude or ()), min_elements, depthwise, embeddings, linear_models),
            commands.read_gradients(metric),
            commands.Checks(data, max_drift, seed) if verify else None,
            force=force,
            delete_old_data=delete_old_data,
            dry_run=dry_run,
            backend=backend,
            save_masks=save_masks,
            encoding=commands.make_encoding(encoding, prefer),
            conditions=pruning_conditions(
                fail_if or (),
                verify=verify,
                compressed=compressed_sizes,
                dry_run=dry_run,
                encoded=encoding != "dense",
            ),
        )
        view = commands.View(reports, quiet, as_json, compressed_sizes, summary)
        return commands.prune_models(models, job, view)

    run_command(run)


def _check_output_name(output: str | None) -> None:
    if output in ("", "-"):
        raise WrongUsage(f"-o {output or repr('')}: name a file; a model is not written to standard output")
    unknown = [name for name in re.findall(r"{(\w*)}", output or "") if name not in PLACEHOLDERS]
    if unknown:
        known = " and ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise WrongUsage(f"-o {output}: {{{unknown[0]}}} stands for nothing; there are {known}")


def _check_masks(others: Mapping[str, object]) -> None:
    """Masks say what falls, so nothing else may."""
    defaults = {"metric": "l1", "granularity": "unstructured", "min_nonzero": 1}
    given = [name for name, value in others.items() if value not in (None, defaults.get(name))]
    if given:
        options = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise WrongUsage(f"--masks says what falls; leave out {options}")


def _check_combination(output: str | None, *, in_place: bool, dry_run: bool) -> None:
    """A model goes to one place; a dry run may leave it open."""
    if output is not None and in_place:
        raise WrongUsage("give --output OUT or --in-place, not both")
    if output is None and not in_place and not dry_run:
        raise WrongUsage("where to? Give --output OUT, or --in-place to replace the model, or --dry-run to count only")
