"""How the command line shows help and errors of usage: plain and short, without importing rich."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from onnx_tools.terminal import complain, describe, results

_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""click's UsageError; newer versions of typer hold click inside."""


class WrongUsage(typer.BadParameter):
    """Wrong usage that is about no single option."""

    def format_message(self) -> str:
        """The message alone."""
        return str(self.message)


class OneLineGroup(TyperGroup):
    """Commands whose errors of usage take one line."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run a command, and exit with its code."""
        extra |= {"standalone_mode": False}
        if not standalone_mode:
            return super().main(args, *rest, **extra)
        try:
            with results():
                code = super().main(args, *rest, **extra)
        except _USAGE_ERROR as error:
            _complain_of_usage(error)
            code = 2
        except OSError as error:
            complain("error", describe(error))
            code = 2
        except (KeyboardInterrupt, typer.Abort):
            code = 130
        sys.exit(code or 0)


class SectionedCommand(TyperCommand):
    """A command whose help shows its options under headings: typer's `rich_help_panel`, which rich alone would show."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words after the name of the command, without the braces of newer versions of typer."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the tables of arguments and options."""
        sections: dict[str, list[Any]] = {}
        for parameter in self.get_params(ctx):
            is_argument = parameter.param_type_name == "argument"
            title = getattr(parameter, "rich_help_panel", None) or ("Arguments" if is_argument else "Options")
            record = parameter.get_help_record(ctx)
            sections.setdefault(title, []).extend([record] if record else [])
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _complain_of_usage(error: Any) -> None:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "oxiprune"
    text = error.format_message().rstrip(".")
    complain("error", f"{text}{'' if text.endswith('?') else '.'} `{command} --help` shows the options")
