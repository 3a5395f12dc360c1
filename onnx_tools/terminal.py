"""What the command says: results on standard output; warnings, errors and progress on standard error.

A reader that is gone (`| head`) is no error and stops no work. Nothing here imports numpy, onnx or, before it is
needed, rich.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from onnx_tools.renderers.text import printable

Tell = Callable[[str, int, int], None]
"""Told what is worked on, how much is done, and how much is to be done."""

WORTH_A_BAR = 8_000_000
"""Elements from which on a progress bar is shown; fewer are done before it could be read."""

_READER_GONE = {errno.EPIPE, errno.EINVAL} if os.name == "nt" else {errno.EPIPE}


def open_standard_streams() -> None:
    """Point streams that are closed (`>&-`) to nowhere, or files opened later would take their numbers and their text.

    A reader of standard output that is gone shows as an error of writing, which `results` handles.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "w" if descriptor else "r", encoding="utf-8", closefd=False))


@contextmanager
def results() -> Iterator[None]:
    """Around whatever writes to standard output. What can't be written raises `OSError` once, and is dropped then."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        _drop_output()
        if error.errno not in _READER_GONE:
            raise OSError(error.errno, f"cannot be written: {error.strerror}", "standard output") from None


def complain(kind: str, text: str) -> None:
    """Write one line, like "error: ...", to standard error."""
    with suppress(OSError):
        sys.stderr.write(f"{kind}: {one_line(text)}\n")
        sys.stderr.flush()


def one_line(text: str) -> str:
    """A text on one line that can't command a terminal."""
    return printable(" ".join(text.split()))


def describe(error: Exception) -> str:
    """What to tell about an error that is none of ours."""
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, OSError):
        return f"{error.filename or 'the system'}: {error.strerror or error}"
    return f"unexpected {type(error).__name__}: {error} (OXIPRUNE_DEBUG=1 shows where; please report it)"


def console() -> Any:
    """A console of rich for results."""
    from rich.console import Console

    class _Console(Console):
        def on_broken_pipe(self) -> None:
            """Leave it to `results`; rich would end the process."""
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    return _Console(highlight=False)


@contextmanager
def progress(title: str, *, wanted: bool) -> Iterator[Tell | None]:
    """A progress bar on a terminal, for what takes long enough."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    # Without markup: a name like "[/x]" is no command to rich.
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, visible=False)

        def tell(name: str, done: int, total: int) -> None:
            label = f"{printable(title)}: {printable(name)[:40]}"
            bar.update(task, description=label, completed=done, total=total, visible=total >= WORTH_A_BAR)

        yield tell


def always_shown(tell: Tell | None) -> Tell | None:
    """Progress of work that takes long however few its steps are."""
    if tell is None:
        return None
    return lambda name, done, total: tell(name, done * WORTH_A_BAR, total * WORTH_A_BAR)


def _drop_output() -> None:
    """Let all further output vanish, that at the end of the process too."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
