"""`oxiprune inspect`."""

from __future__ import annotations

from typing import Annotated

import typer

from onnx_tools.cli.application import EXIT_CODES, app, run_command
from onnx_tools.cli.options import (
    REPORTING,
    AsJson,
    Compressed,
    FailIf,
    GithubSummary,
    LoadTime,
    Models,
    Quiet,
    Reports,
    checked_reports,
    summary_file,
)
from onnx_tools.usage import SectionedCommand, WrongUsage


@app.command(cls=SectionedCommand, epilog=EXIT_CODES)
def inspect(
    models: Models,
    report: Reports = None,
    compressed_sizes: Compressed = False,
    payoff: Annotated[
        bool,
        typer.Option(
            "--payoff",
            help="Will it pay? Say for each way of deploying what the zeros gain there, by which rule, and its source.",
            rich_help_panel=REPORTING,
        ),
    ] = False,
    encodings: Annotated[
        bool,
        typer.Option(
            "--encodings",
            help="Show instead what each weight and the model would take in each encoding (see `oxiprune encode`); "
            "with --report, add the model's part to what is shown and reported.",
            rich_help_panel=REPORTING,
        ),
    ] = False,
    load_time: LoadTime = False,
    github_summary: GithubSummary = False,
    fail_if: FailIf = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Show the weights of ONNX models.

    Their zeros by element, row, column and 2:4, and what else is stored; what `prune` can't touch, with the reason.

    \b
    Examples:
      oxiprune inspect model.onnx
      oxiprune inspect *.onnx --json
      oxiprune inspect pruned.onnx --payoff
      oxiprune inspect pruned.onnx --encodings --load-time
    """  # noqa: D301
    if load_time and not encodings:
        raise WrongUsage("--load-time goes with --encodings")
    alone = encodings and not (report or github_summary)
    if alone and (payoff or fail_if):
        raise WrongUsage("--encodings shows something else than --payoff and --fail-if; give --report too, for both")
    reports, summary = checked_reports(report), summary_file(github_summary)

    def run() -> int:
        if alone:
            from onnx_tools import encoding_commands

            return encoding_commands.show_encodings(
                models, encoding_commands.Shown(quiet, as_json), load_time=load_time
            )
        from onnx_tools import commands
        from onnx_tools.conditions import COMPRESSED, read_conditions

        view = commands.View(reports, quiet, as_json, compressed_sizes, summary)
        missing = () if compressed_sizes else (COMPRESSED,)
        conditions = read_conditions(fail_if or (), "inspect", missing)
        wanted = commands.Encodings(load_time) if encodings else None
        return commands.inspect_models(models, view, conditions, payoff=payoff, encodings=wanted)

    run_command(run)
