"""What a search found, as people read it, for the renderers that show text."""

from __future__ import annotations

from dataclasses import fields

from onnx_tools.renderers import text
from onnx_tools.report import format_fraction
from onnx_tools.search_report import Score, SearchReport, SearchSettings, TrialReport, WeightSparsity

TRIAL_TITLES = (
    *("Trial", "Allocation", "Asked", "Sparsity", "Bytes", "MACs", "Quality", "Drop", "Drop, 95 %"),
    *("Held out: drop", "Held out: 95 %", "Verdict"),
)
NUMBERS = (0, *range(2, 11))
"""The columns that hold numbers."""
WEIGHT_TITLES = ("Weight", "Parameters", "Kept", "Sparsity")


def headline(report: SearchReport) -> str:
    """What was searched, and where the answer is, in one line."""
    sure = "" if report.settings.confidence is None else f" with confidence {text.number(report.settings.confidence)}"
    how = f"{report.settings.quality}, drop at most {text.number(report.settings.max_drop)}{sure}"
    return f"{text.printable(report.input)} -> {text.printable(report.output)} ({text.printable(how)})"


def trial_cells(report: SearchReport, trial: TrialReport) -> tuple[str, ...]:
    """A row under `TRIAL_TITLES`."""
    verdict = "within the bar" if trial.passed else "too much lost"
    return (
        text.count(trial.number),
        trial.allocation,
        text.number(trial.asked),
        f"{trial.sparsity:.4f}",
        text.count(trial.bytes),
        text.count(trial.macs),
        *_quality(trial.searched),
        *_quality(trial.held_out)[1:],
        "the answer" if trial.number == report.answer else verdict,
    )


def weight_cells(weight: WeightSparsity) -> tuple[str, ...]:
    """A row under `WEIGHT_TITLES`."""
    zeros = weight.parameters - weight.kept
    sparsity = format_fraction(zeros, weight.parameters)
    return text.printable(weight.name), text.count(weight.parameters), text.count(weight.kept), sparsity


def summary_rows(report: SearchReport) -> list[tuple[str, str]]:
    """The answer, one figure a row."""
    best = report.best
    rows = [
        ("Sparsity", f"{best.sparsity:.4f}"),
        ("Dealt out by", best.allocation if best.asked is None else f"{best.allocation}, {text.number(best.asked)}"),
        ("Quality of the original", score(report.original)),
        ("Quality of the answer", score(report.confirmed)),
    ]
    if report.confirmed_held_out is not None:
        rows.append(("Quality on cases held out", score(report.confirmed_held_out)))
    rows += [(label, text.count(value)) for label, value in (("Bytes", best.bytes), ("MACs", best.macs)) if value]
    return [*rows, ("Trials", text.count(len(report.trials)))]


def score(found: Score) -> str:
    """A quality with its drop and the interval of that."""
    quality, drop, interval = _quality(found)
    cases = "" if found.cases is None else f" on {text.count(found.cases)} cases"
    spread = "" if found.low is None else f" ({interval})"
    return f"{quality}{cases}" + (f", drop {drop}{spread}" if found.drop else "")


def settings_rows(settings: SearchSettings) -> list[tuple[str, str]]:
    """What was asked for, one a row."""
    return [(field.name.replace("_", "-"), _said(getattr(settings, field.name))) for field in fields(SearchSettings)]


def _said(value: object) -> str:
    if value is None:
        return text.NONE
    if isinstance(value, tuple):
        return ", ".join(map(text.printable, value)) or text.NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    return text.number(value) if isinstance(value, float) else text.printable(str(value))


def _quality(found: Score | None) -> tuple[str, str, str]:
    """Quality, drop, and the interval of the drop."""
    if found is None:
        return text.NONE, text.NONE, text.NONE
    interval = f"{_signed(found.low)} to {_signed(found.high)}" if found.low is not None else text.NONE
    return text.number(found.quality), _signed(found.drop), interval


def _signed(value: float | None) -> str:
    return text.NONE if value is None else f"{value:.4f}"
