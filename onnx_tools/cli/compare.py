"""`oxiprune compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnx_tools.cli.application import EXIT_CODES, app, run_command
from onnx_tools.cli.options import (
    AsJson,
    Compressed,
    FailIf,
    GithubSummary,
    Quiet,
    Reports,
    checked_reports,
    summary_file,
)
from onnx_tools.usage import SectionedCommand


@app.command(cls=SectionedCommand, epilog=EXIT_CODES)
def compare(
    before: Annotated[Path, typer.Argument(metavar="A", readable=False, help="A model.")],
    after: Annotated[Path, typer.Argument(metavar="B", readable=False, help="Another model, made from A or not.")],
    report: Reports = None,
    compressed_sizes: Compressed = False,
    github_summary: GithubSummary = False,
    fail_if: FailIf = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Show what changed from A to B, weight by weight.

    New zeros, zeros that are gone, other changes, and what else differs: other tensors, metadata, files. Nothing is
    judged; `verify` does that.

    \b
    Examples:
      oxiprune compare model.onnx pruned.onnx
      oxiprune compare pruned.onnx finetuned.onnx --fail-if 'newly_nonzero>0'
    """  # noqa: D301
    reports, summary = checked_reports(report), summary_file(github_summary)

    def run() -> int:
        from onnx_tools import commands
        from onnx_tools.conditions import read_conditions

        view = commands.View(reports, quiet, as_json, compressed_sizes, summary)
        return commands.compare_models(before, after, view, read_conditions(fail_if or (), "compare"))

    run_command(run)
