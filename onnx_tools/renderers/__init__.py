"""The formats of a report, by the ending of the file: one row each in `RENDERERS`.

The table for the terminal is not a file format; it is in `table_renderer`, which is imported only when it is shown,
because rich takes long to import.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from dataclasses import dataclass

from onnx_tools.compact_report import AnyReport
from onnx_tools.renderers import csv_renderer, json_renderer, markdown_renderer


@dataclass(frozen=True)
class Renderer:
    """A format: the endings of its files, the function that makes the text, and whether it shows pictures."""

    suffixes: tuple[str, ...]
    render: Callable[[AnyReport], str]
    pictures: bool = False


def _html(report: AnyReport) -> str:
    from onnx_tools.renderers import html_renderer  # brings numpy

    return html_renderer.render(report)


RENDERERS: dict[str, Renderer] = {
    "json": Renderer((".json",), json_renderer.render),
    "csv": Renderer((".csv",), csv_renderer.render),
    "md": Renderer((".md", ".markdown"), markdown_renderer.render),
    "html": Renderer((".html", ".htm"), _html, pictures=True),
}


def known_suffixes() -> tuple[str, ...]:
    """All endings that `renderer_for` knows, in lower case, with the dot."""
    return tuple(suffix for renderer in RENDERERS.values() for suffix in renderer.suffixes)


def renderer_for(path: str | os.PathLike[str]) -> Renderer:
    """The format of a file, by its ending, capital or not. Raises InvalidOption, naming the known ones."""
    suffix = pathlib.Path(path).suffix
    for renderer in RENDERERS.values():
        if suffix.lower() in renderer.suffixes:
            return renderer
    from oxiprune_gpu import InvalidOption  # brings numpy, which the command starts without

    ending = f"the ending '{suffix}'" if suffix else "no ending"
    raise InvalidOption(
        f"{os.fspath(path)}: {ending} is no format of reports; use one of {', '.join(known_suffixes())}"
    )


def write_report(report: AnyReport, path: str | os.PathLike[str]) -> None:
    """Write a report in the format of `path`'s ending; whoever reads meanwhile sees the old file or the new one, whole.

    Raises InvalidOption for an unknown ending, WriteFailed if the system refuses.
    """
    from onnx_tools.temporaries import write_whole  # brings numpy and onnx

    write_whole(path, renderer_for(path).render(report).encode())
