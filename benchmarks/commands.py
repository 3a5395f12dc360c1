"""Whole commands run in turn: what the benchmarks of the `oxiprune` command share."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import common
from common import Usage

Command = tuple[list[str], int]
"""Arguments, and the exit code that is expected."""

Runs = dict[str, list[Usage | None]]
"""What each command took in each round; None where it did not take part."""

ONCE = 1 << 30
"""For `every`: takes part in the first round alone."""


def beside(name: str) -> str | None:
    """A command that is installed beside this Python."""
    return shutil.which(name, path=str(Path(sys.executable).parent))


def oxiprune() -> list[str]:
    """The command beside this Python; without one, what it would do."""
    installed = beside("oxiprune")
    return [installed] if installed else [sys.executable, "-c", "from onnx_tools.cli import main; main()"]


def program(name: str, *words: object) -> list[str]:
    """The command line of a program beside this file: who measures stays small, as a command's memory begins there."""
    return [sys.executable, str(Path(__file__).with_name(f"{name}.py")), *map(str, words)]


def answer(command: list[str]) -> Any:
    """What a command says, in JSON."""
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def rounds_of(
    commands: dict[str, Command], rounds: int, every: Mapping[str, int], outputs: Iterable[Path] = ()
) -> Runs:
    """Run the commands interleaved, after one round that warms up; `every`: one takes part in each n-th round only.

    `outputs` are removed before each: overwriting costs what a new file does not.
    """
    runs: Runs = {name: [] for name in commands}
    for number in range(-1, rounds):
        for name, (command, code) in commands.items():
            used = None if number % every.get(name, 1) else _run_anew(command, code, outputs)
            if number >= 0:
                runs[name].append(used)
    return runs


def _run_anew(command: list[str], code: int, outputs: Iterable[Path]) -> Usage:
    for output in outputs:
        output.unlink(missing_ok=True)
        os.sync()  # what the one before left to be written must not slow this one
    return common.run_command(command, expect=code)


def column(runs: Iterable[Usage | None], name: str) -> list[float | None]:
    """One field of what was used."""
    return [None if used is None else float(getattr(used, name)) for used in runs]


def plain(runs: Runs) -> dict[str, list[dict[str, float] | None]]:
    """The same for JSON."""
    return {name: [None if used is None else asdict(used) for used in some] for name, some in runs.items()}
