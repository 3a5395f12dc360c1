"""Names of outputs and reports, made from the name of the model."""

from __future__ import annotations

from pathlib import Path


def expand(pattern: str, model: Path) -> str:
    """Put a model's stem and the name of its folder into `{stem}` and `{parent}`."""
    return pattern.replace("{stem}", model.stem).replace("{parent}", model.absolute().parent.name)
