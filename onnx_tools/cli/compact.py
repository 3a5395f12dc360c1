"""`oxiprune compact`."""

from __future__ import annotations

from typing import Annotated

import typer

from onnx_tools.cli import prune_options as option
from onnx_tools.cli.application import EXIT_CODES, app, run_command
from onnx_tools.cli.channel_options import Constants, InputShapes, Latency, read_input_shapes
from onnx_tools.cli.destination import check_destination, check_output_name
from onnx_tools.cli.options import (
    VERIFYING,
    AsJson,
    CompactFailIf,
    Compressed,
    Data,
    GithubSummary,
    Models,
    Quiet,
    Reports,
    Seed,
    checked_drift,
    checked_reports,
    summary_file,
)
from onnx_tools.usage import SectionedCommand, WrongUsage


@app.command(cls=SectionedCommand, epilog=EXIT_CODES)
def compact(
    models: Models,
    output: option.Output = None,
    in_place: option.InPlace = False,
    force: option.Force = False,
    delete_old_data: option.DeleteOldData = False,
    dry_run: option.DryRun = False,
    input_shape: InputShapes = None,
    constants: Constants = "keep",
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify",
            help="Before a model gets its name: is onnx's checker content, and are its outputs in onnxruntime those of "
            "the input?",
            rich_help_panel=VERIFYING,
        ),
    ] = True,
    data: Data = None,
    max_drift: Annotated[
        float | None,
        typer.Option(
            "--max-drift",
            metavar="D",
            callback=checked_drift,
            help="Fail when an output moves by more than this, as relative L2. Without: by more than rounding does, "
            "1e-3 of float32, 5e-2 of half precision and quantised weights; constants that were dropped never fail.",
            rich_help_panel=VERIFYING,
        ),
    ] = None,
    seed: Seed = 0,
    latency: Latency = False,
    report: Reports = None,
    compressed_sizes: Compressed = False,
    github_summary: GithubSummary = False,
    fail_if: CompactFailIf = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Remove channels that are zero: a smaller model that any runtime runs faster.

    A channel leaves, with all that belongs to it (bias, normalisation, what reads it, the other branches of a sum), if
    every weight that reads it is zero there, whoever zeroed it. The outputs stay the same but for rounding, and that is
    checked before the file is written. The report says of each layer what it had and has, and why channels stay.

    \b
    Examples:
      oxiprune prune model.onnx -o zeros.onnx --granularity channel -s 0.5
      oxiprune compact zeros.onnx -o small.onnx --latency --report small.html
      oxiprune compact zeros.onnx --dry-run --input-shape input=1,3,224,224
    """  # noqa: D301
    check_destination(output, in_place=in_place, dry_run=dry_run)
    check_output_name(output, models)
    if delete_old_data and not in_place:
        raise WrongUsage("--delete-old-data goes with --in-place")
    if not verify and (data is not None or max_drift is not None or seed) and not latency:
        raise WrongUsage("--data, --max-drift and --seed do not go with --no-verify")
    if dry_run and latency:
        raise WrongUsage("--latency runs the new model; leave out --dry-run")
    reports, summary = checked_reports(report), summary_file(github_summary)

    def run() -> int:
        from onnx_tools import compact_commands as commands
        from onnx_tools.commands import View
        from onnx_tools.compaction.checking import Checks
        from onnx_tools.conditions import compaction_conditions

        conditions = compaction_conditions(fail_if or (), verify=verify, latency=latency, dry_run=dry_run)
        job = commands.CompactJob(
            output,
            read_input_shapes(input_shape),
            constants,
            Checks(data, max_drift, seed) if verify else None,
            latency=latency,
            force=force,
            delete_old_data=delete_old_data,
            dry_run=dry_run,
            conditions=conditions,
        )
        return commands.compact_models(models, job, View(reports, quiet, as_json, compressed_sizes, summary))

    run_command(run)
