"""`oxiprune verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnx_tools.cli.application import EXIT_CODES, app, run_command
from onnx_tools.cli.options import (
    REPORTING,
    VERIFYING,
    Data,
    MaxDrift,
    Quiet,
    Seed,
    VerifyFailIf,
)
from onnx_tools.usage import SectionedCommand, WrongUsage


@app.command(cls=SectionedCommand, epilog=EXIT_CODES)
def verify(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", readable=False, help="The model before pruning.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", readable=False, help="The pruned model.")],
    data: Data = None,
    max_drift: MaxDrift = None,
    seed: Seed = 0,
    masks: Annotated[
        Path | None,
        typer.Option(
            metavar="NPZ",
            help="Check too that AFTER is pruned as the masks of NPZ say, which `prune --save-masks` wrote.",
            rich_help_panel=VERIFYING,
        ),
    ] = None,
    runtime: Annotated[
        bool,
        typer.Option("--runtime/--no-runtime", help="Run both models in onnxruntime.", rich_help_panel=VERIFYING),
    ] = True,
    fail_if: VerifyFailIf = None,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=REPORTING)] = False,
) -> None:
    """Check that AFTER is BEFORE with more zeros, and nothing else.

    Compares every byte, the verdicts of onnx's checker and onnxruntime, and the outputs on your data. If channels have
    left AFTER (`oxiprune compact`), bytes can't be compared: all the rest is.

    \b
    Examples:
      oxiprune verify model.onnx pruned.onnx
      oxiprune verify model.onnx pruned.onnx --data inputs.npz --max-drift 0.1
      oxiprune verify model.onnx pruned.onnx --masks masks.npz
    """  # noqa: D301
    if not runtime and (data is not None or max_drift is not None):
        raise WrongUsage("--data and --max-drift need onnxruntime; leave out --no-runtime")

    def run() -> int:
        from onnx_tools import commands
        from onnx_tools.conditions import RUNTIME, read_conditions

        checks = commands.Checks(data, max_drift, seed, runtime, masks)
        conditions = read_conditions(fail_if or (), "verify", () if runtime else (RUNTIME,))
        return commands.verify_models(before, after, checks, conditions, quiet=quiet, as_json=as_json)

    run_command(run)
