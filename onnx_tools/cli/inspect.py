"""`oxiprune inspect`."""

from __future__ import annotations

from typing import Annotated

import typer

from onnx_tools.cli.application import EXIT_CODES, app, run_command
from onnx_tools.cli.options import (
    REPORTING,
    AsJson,
    Compressed,
    Models,
    Quiet,
    Reports,
    checked_reports,
)
from onnx_tools.usage import SectionedCommand


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
    """  # noqa: D301
    reports = checked_reports(report)

    def run() -> int:
        from onnx_tools import commands

        view = commands.View(reports, quiet=quiet, as_json=as_json, compressed=compressed_sizes)
        return commands.inspect_models(models, view, payoff=payoff)

    run_command(run)
