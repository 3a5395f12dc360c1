"""Where outputs go, and what of that makes no sense."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from onnx_tools.naming import PLACEHOLDERS, is_folder
from onnx_tools.usage import WrongUsage


def check_destination(output: str | None, *, in_place: bool, dry_run: bool) -> None:
    """A model goes to one place; a dry run may leave it open."""
    if output is not None and in_place:
        raise WrongUsage("give --output OUT or --in-place, not both")
    if output is None and not in_place and not dry_run:
        raise WrongUsage("where to? Give --output OUT, or --in-place to replace the model, or --dry-run to count only")


def check_output_name(output: str | None, models: Sequence[Path]) -> None:
    """The name of an output is one for each of the models."""
    if output in ("", "-"):
        raise WrongUsage(f"-o {output or repr('')}: name a file; a model is not written to standard output")
    unknown = [name for name in re.findall(r"{(\w*)}", output or "") if name not in PLACEHOLDERS]
    if unknown:
        known = " and ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise WrongUsage(f"-o {output}: {{{unknown[0]}}} stands for nothing; there are {known}")
    if output is not None and len(models) > 1 and not (is_folder(output) or "{stem}" in output or "{parent}" in output):
        raise WrongUsage(f"-o {output}: several models need a folder (ending in /), or {{stem}} or {{parent}} in it")
