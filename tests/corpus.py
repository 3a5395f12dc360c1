"""The corpus of real models: a figure measured on a file is only worth something if it is the file that was meant."""

from __future__ import annotations

import hashlib
import pathlib
import re

import pytest

_SUM = re.compile(r"^- `(?P<file>[^`]+)` [\d,]+ bytes, sha256 `(?P<sum>[0-9a-f]{64})`")


def require_intact(model: pathlib.Path) -> pathlib.Path:
    """Return `model`; skip the test, saying so, if it is not the file that the corpus' README gives the checksum of."""
    expected = _checksums(model.parent.parent / "README.md").get((model.parent.name, model.name))
    if expected and hashlib.sha256(model.read_bytes()).hexdigest() != expected:
        pytest.skip(
            f"{model.parent.name}/{model.name} is not the corpus' file: its sha256 is not the README's {expected}"
        )
    return model


def _checksums(readme: pathlib.Path) -> dict[tuple[str, str], str]:
    """(model, file) -> sha256, as the sections of the README list them."""
    sums: dict[tuple[str, str], str] = {}
    section = ""
    for line in readme.read_text(encoding="utf-8").splitlines() if readme.is_file() else ():
        if line.startswith("### "):
            section = line[4:].strip()
        elif found := _SUM.match(line):
            sums[section, found["file"]] = found["sum"]
    return sums
