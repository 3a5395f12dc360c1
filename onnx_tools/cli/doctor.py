"""`oxiprune doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from onnx_tools.cli.application import app, run_command
from onnx_tools.cli.options import (
    REPORTING,
    Quiet,
)
from onnx_tools.usage import SectionedCommand

_DOCTOR_EXIT_CODES = """Exit codes: 0 done, also where there is no GPU; 1 there is a GPU that does not work, or whose
kernels give other results than numpy; 2 wrong usage; 130 interrupted."""


@app.command(cls=SectionedCommand, epilog=_DOCTOR_EXIT_CODES)
def doctor(
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=REPORTING)] = False,
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

    run_command(run)
