"""What the metadata of a model says about what was done to it."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from onnx_tools.model_file import ModelFile

METADATA_KEY = "oxiprune"
"""The entry that pruning writes; it is left out of the comparison of bytes."""

_MOST = 1 << 53
"""Groups of channels; what says more was not written here."""


def told(model: ModelFile) -> dict[str, Any]:
    """All that its entry says; nothing where it has none, or none that can be read."""
    for entry in model.skeleton.metadata_props:
        if entry.key == METADATA_KEY:
            with contextlib.suppress(ValueError, RecursionError):
                found = json.loads(entry.value)
                return found if isinstance(found, dict) else {}
    return {}


def left(model: ModelFile) -> int:
    """How many groups of channels have left it so far, as far as it says so."""
    count = told(model).get("compacted", 0)
    return count if isinstance(count, int) and 0 <= count <= _MOST else 0


def text_without(model: ModelFile, groups: int, version: str) -> str:
    """The text of its entry once so many more groups have left: one line, always the same."""
    entry = {"version": version, **told(model), "compacted": left(model) + groups}
    return json.dumps(entry, separators=(",", ":"), sort_keys=True)
