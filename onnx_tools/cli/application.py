"""The command itself: its name, its version, how it starts, and how every error becomes one line."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from onnx_tools.terminal import complain, open_standard_streams
from onnx_tools.usage import OneLineGroup

EXIT_CODES = """Exit codes: 0 done; 1 no weight was selected, or a check failed; 2 wrong usage, bad input, or a file
that can't be written; 130 interrupted. Of several models, the worst."""

app = typer.Typer(
    name="oxiprune",
    cls=OneLineGroup,
    help="Prune ONNX models: exactly, patching the file instead of rebuilding it, with a report of what happened.",
    epilog=EXIT_CODES,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich would take longer than everything else that --help does
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


def run_command(command: Callable[[], int]) -> NoReturn:
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


def main() -> None:
    """Entry point of the console script."""
    os.environ.setdefault(
        "OPENBLAS_NUM_THREADS", "1"
    )  # what calls numpy's BLAS has threads of its own; more would wait
    gc.set_threshold(100_000)  # importing makes many objects and no garbage: collecting among them takes a tenth
    open_standard_streams()
    for name in ("SIGTERM", "SIGHUP"):  # let temporary files be removed on the way out
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_DFL:
            signal.signal(getattr(signal, name), _terminate)
    app()


def _terminate(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)
