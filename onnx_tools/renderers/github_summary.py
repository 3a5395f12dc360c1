"""The page of a job in GitHub Actions: Markdown appended to the file that the runner names."""

from __future__ import annotations

import pathlib

from onnx_tools.compact_report import AnyReport
from onnx_tools.renderers import markdown_renderer

VARIABLE = "GITHUB_STEP_SUMMARY"
"""The environment variable with the name of the file (GitHub, "Adding a job summary")."""

_MOST_BYTES = 900_000
"""GitHub drops the summary of a step above 1 MiB; several reports may share one, so each leaves some room."""
_FOLD = "\n\n<details>"


def append_summary(report: AnyReport, path: pathlib.Path) -> None:
    """Append a report to the summary; folded parts that are too long are left out, and that is said.

    Raises `WriteFailed` if the system refuses.
    """
    from onnx_tools.file_blocks import write_failed  # brings numpy

    try:
        with path.open("a", encoding="utf-8", newline="\n") as stream:
            stream.write(fitted(markdown_renderer.render(report)) + "\n")
    except OSError as error:
        raise write_failed(error, str(path)) from error


def fitted(markdown: str, most: int = _MOST_BYTES) -> str:
    """A report of at most about `most` bytes: folded parts that do not fit are left out."""
    first, *folded = markdown.split(_FOLD)
    room = most - len(first.encode())
    kept = [first]
    for part in folded:
        size = len(part.encode()) + len(_FOLD)
        if size <= room:
            kept.append(part)
            room -= size
    left_out = len(folded) + 1 - len(kept)
    note = f"\n\nParts left out because a summary must be short: {left_out}." if left_out else ""
    return _FOLD.join(kept).rstrip("\n") + note + "\n"
