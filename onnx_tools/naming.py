"""Names of outputs and reports, made from the name of the model."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

PLACEHOLDERS = ("stem", "parent")
"""What names of outputs and reports may hold in braces."""


def expand(pattern: str, model: Path) -> Path:
    """Put a model's stem and the name of its folder into `{stem}` and `{parent}`."""
    return Path(expanded(pattern, model))


def expanded(pattern: str, model: Path) -> str:
    """The same for a text that need not be a path."""
    values = {"{stem}": model.stem, "{parent}": model.absolute().parent.name}
    return re.sub(r"\{stem\}|\{parent\}", lambda found: values[found[0]], pattern)


def is_folder(output: str) -> bool:
    """Whether an output is meant as the folder for files named like the models."""
    return output.endswith(("/", os.sep)) or Path(output).is_dir()


def output_pattern(output: str) -> str:
    """The pattern for the names of the outputs."""
    return os.path.join(output, "{stem}.onnx") if is_folder(output) else output


def target_of(output: str, model: Path) -> Path:
    """The file that is written for `model`."""
    return expand(output_pattern(output), model)


def identity(path: Path) -> str:
    """Equal for names of the same file, whether it exists or not, as far as links and letters' case tell."""
    return os.path.normcase(os.path.realpath(path))


def first_repeated(paths: Iterable[Path]) -> Path | None:
    """The first path that names the same file as an earlier one."""
    seen: set[str] = set()
    for path in paths:
        if identity(path) in seen:
            return path
        seen.add(identity(path))
    return None
