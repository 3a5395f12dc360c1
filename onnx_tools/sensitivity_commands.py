"""What the command `sensitivity` does, and what is shown of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from onnx_tools.encodings.text import named, table
from onnx_tools.plain import plain_value
from onnx_tools.policy_file import policy_text
from onnx_tools.preflight import check_outputs
from onnx_tools.renderers.curves_plot import check_plot, plot_curves
from onnx_tools.renderers.json_renderer import dumps
from onnx_tools.renderers.text import NONE, count, number, printable
from onnx_tools.search.allocating import Curves, predicted_drop, sensitivity_policy
from onnx_tools.search.sensitivity import Sensitivity, measure_sensitivity
from onnx_tools.sensitivity_report import SensitivityReport, WeightCurve
from onnx_tools.temporaries import write_whole
from onnx_tools.terminal import complain, progress, results


@dataclass(frozen=True)
class SensitivityJob:
    """What is measured, and what is written of it.

    `asked`: makes what is asked for when it is needed, since reading data takes long. `policy`: the file that gets the
    allocation of `sparsity`. `inputs`: files that are read besides the model, which nothing may be written over.
    """

    asked: Callable[[], Sensitivity]
    report: Path | None
    plot: Path | None
    policy: Path | None
    sparsity: float | None
    log: Path | None
    inputs: tuple[Path, ...]

    @property
    def written(self) -> list[Path]:
        """The files that are written."""
        return [file for file in (self.report, self.plot, self.policy, self.log) if file is not None]


def show_sensitivity(model: Path, job: SensitivityJob, *, quiet: bool, as_json: bool) -> int:
    """Measure a model; return the exit code."""
    if job.plot is not None:
        check_plot(job.plot)
    check_outputs([model] * len(job.written), job.written, in_place=False, inputs=job.inputs)
    with progress(model.name, wanted=not quiet) as tell:
        report = measure_sensitivity(model, job.asked(), progress=tell)
    if job.report is not None:
        write_whole(job.report, dumps(plain_value(report)).encode())
    if job.plot is not None:
        plot_curves(report, job.plot)
    note = _write_policy(report, job)
    with results():
        if as_json:
            sys.stdout.write(dumps(plain_value(report)))
        elif not quiet:
            sys.stdout.write(sensitivity_text(report) + note)
    for warning in report.warnings:
        complain("warning", warning)
    return 0


def _write_policy(report: SensitivityReport, job: SensitivityJob) -> str:
    """Write the policy that was asked for; return what is said of it."""
    if job.policy is None or job.sparsity is None:
        return ""
    curves = Curves.of(report)
    policy = sensitivity_policy(curves, job.sparsity)
    write_whole(job.policy, policy_text(policy).encode())
    drop = number(predicted_drop(curves, policy))
    return f"\n{printable(str(job.policy))}: sparsity {job.sparsity:g} for a sum of measured drops of {drop}\n"


def sensitivity_text(report: SensitivityReport) -> str:
    """A row a weight, those that drop most first: how much quality drops at each sparsity."""
    levels = list(dict.fromkeys(point.sparsity for curve in report.curves for point in curve.points))
    asked = [report.settings.granularity if level is None else f"{level:g}" for level in levels]
    header = ("Weight", "Operator", "Parameters", *asked)
    rows = [tuple(_cells(curve, len(levels))) for curve in sorted(report.curves, key=_worst, reverse=True)]
    cases = "" if report.cases is None else f" ({count(report.cases)} cases)"
    head = f"{printable(report.input)}: {printable(report.settings.quality)} {number(report.quality)} dense{cases}"
    told = "Drop of the quality with one weight pruned to a sparsity, all others dense:"
    return "\n".join([head, "", told, *table(header, rows)]) + "\n"


def _cells(curve: WeightCurve, levels: int) -> Iterator[str]:
    yield named(curve.name)
    yield ", ".join(map(printable, curve.op_types)) or NONE
    yield count(curve.parameters)
    for point in curve.points:
        half = "" if point.low is None or point.high is None else f" +-{number((point.high - point.low) / 2, 2)}"
        yield number(point.drop) + half
    yield from [NONE] * (levels - len(curve.points))


def _worst(curve: WeightCurve) -> float:
    return max((point.drop for point in curve.points), default=0.0)
