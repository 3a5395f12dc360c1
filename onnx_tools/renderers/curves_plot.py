"""Curves of a report of `sensitivity` as a picture, drawn by matplotlib."""

from __future__ import annotations

import io
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from onnx_tools.renderers.text import printable
from onnx_tools.sensitivity_report import SensitivityReport, WeightCurve

SUFFIXES = (".svg", ".png", ".pdf")
"""Endings of the files."""

_MOST_NAMED = 12
_MOST_LETTERS = 32
_INCHES = (9.0, 5.0)


def check_plot(path: str | os.PathLike[str]) -> None:
    """Raise `InvalidOption` if a plot can't be drawn: an unknown ending, or matplotlib is not installed."""
    from oxiprune_gpu import InvalidOption

    if pathlib.Path(path).suffix.lower() not in SUFFIXES:
        raise InvalidOption(f"{os.fspath(path)}: the ending of a plot must be one of {', '.join(SUFFIXES)}")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise InvalidOption(
            f"{os.fspath(path)}: matplotlib, which draws plots, is not installed (pip install 'oxiprune-gpu[plot]')"
        ) from None


def plot_curves(report: SensitivityReport, path: str | os.PathLike[str]) -> None:
    """Draw the drop of quality against the sparsity of each weight; those that drop most are named, and coloured.

    Equal reports give equal SVG files. Raises `InvalidOption` as `check_plot`, `WriteFailed`.
    """
    from onnx_tools.temporaries import write_whole

    check_plot(path)
    write_whole(path, _drawn(report, pathlib.Path(path).suffix.lower()[1:]))


def _drawn(report: SensitivityReport, kind: str) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, layout="constrained")
    axes = figure.subplots()
    ordered = sorted(report.curves, key=_worst, reverse=True)
    for number, curve in reversed(list(enumerate(ordered))):
        places, drops = _line(curve)
        named = number < _MOST_NAMED
        style: dict[str, Any] = {"label": _label(curve), "color": f"C{number % 10}"} if named else {"color": "0.8"}
        axes.plot(places, drops, marker=".", linestyle="-" if number < 10 else "--", **style)
    axes.set_xlabel("sparsity of the weight, all others dense")
    axes.set_ylabel(f"drop of {_plain(report.settings.quality)}")
    axes.set_title(_plain(report.input))
    axes.grid(alpha=0.3)
    if ordered:
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside right upper", fontsize="small")
    stream = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"CreationDate": None} if kind == "pdf" else {}
    with matplotlib.rc_context({"svg.hashsalt": "oxiprune"}):
        figure.savefig(stream, format=kind, metadata=metadata)
    return stream.getvalue()


def _line(curve: WeightCurve) -> tuple[Sequence[float], Sequence[float]]:
    """Sparsities as they are, and drops; what is not finite is left out."""
    points = [(point.zeros / curve.parameters, point.drop) for point in curve.points if math.isfinite(point.drop)]
    places, drops = zip((curve.zeros / curve.parameters, 0.0), *points, strict=True)
    return places, drops


def _worst(curve: WeightCurve) -> float:
    return max((point.drop for point in curve.points if math.isfinite(point.drop)), default=0.0)


def _label(curve: WeightCurve) -> str:
    name = curve.name if len(curve.name) <= _MOST_LETTERS else f"...{curve.name[3 - _MOST_LETTERS :]}"
    return _plain(name).lstrip("_") or "weight"  # matplotlib leaves out what begins with an underscore


def _plain(text: str) -> str:
    """A text in which matplotlib sees no formula."""
    return printable(text).replace("$", r"\$")
