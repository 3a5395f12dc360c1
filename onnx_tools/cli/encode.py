"""`oxiprune encode`."""

from __future__ import annotations

from typing import Annotated

import typer

from onnx_tools.cli.application import EXIT_CODES, app, run_command
from onnx_tools.cli.options import (
    VERIFYING,
    Compressed,
    Force,
    LoadTime,
    OneJson,
    OneModel,
    OneOutput,
    Prefer,
    Quiet,
)
from onnx_tools.usage import SectionedCommand


def _checked_encoding(encoding: str) -> str:
    if encoding not in ("packed", "sparse"):
        raise typer.BadParameter(f"unknown encoding '{encoding}': use packed or sparse")
    return encoding


def _checked_saving(saving: float) -> float:
    if not 0.0 <= saving < 1.0:
        raise typer.BadParameter(f"{saving} must be in [0.0, 1.0)")
    return saving


@app.command(cls=SectionedCommand, epilog=EXIT_CODES)
def encode(
    model: OneModel,
    output: OneOutput,
    encoding: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            callback=_checked_encoding,
            help="packed: plain ONNX; values, places, and operators that onnxruntime runs once, when it loads the "
            "model. sparse: sparse tensors, which many tools do not read.",
        ),
    ] = "packed",
    prefer: Prefer = "size",
    least_saving: Annotated[
        float,
        typer.Option(
            metavar="F", callback=_checked_saving, help="Fraction of its bytes that a weight must save to be encoded."
        ),
    ] = 0.05,
    force: Force = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify",
            help="Run both models in onnxruntime: are weights rebuilt on loading, are the outputs the same? (That all "
            "weights decode to the same bits is always checked.)",
            rich_help_panel=VERIFYING,
        ),
    ] = True,
    load_time: LoadTime = False,
    compressed_sizes: Compressed = False,
    quiet: Quiet = False,
    as_json: OneJson = False,
) -> None:
    """Take the zeros of a pruned model out of its file.

    Weights that get smaller are stored as their nonzero values and places. Nothing else in the file changes, and
    `oxiprune decode` gives back the same bytes. Models that use less memory or time this does not make: it is for
    downloads and disks.

    \b
    Examples:
      oxiprune encode pruned.onnx -o packed.onnx
      oxiprune encode pruned.onnx -o packed.onnx --prefer load --load-time
    """  # noqa: D301

    def run() -> int:
        from onnx_tools import encoding_commands as commands

        job = commands.EncodeJob(encoding, prefer, least_saving, verify, compressed_sizes, load_time)
        return commands.encode_model(model, output, job, commands.Shown(quiet, as_json), force=force)

    run_command(run)
