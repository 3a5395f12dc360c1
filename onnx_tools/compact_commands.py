"""What the command `compact` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from onnx_tools.commands import View, for_each, left_over
from onnx_tools.compact_report import AnyReport, CompactReport
from onnx_tools.compaction.checking import Checks
from onnx_tools.compaction.compact import compact_file
from onnx_tools.compaction.mapping.shapes import InputShapes
from onnx_tools.conditions import Condition
from onnx_tools.errors import ConditionMet
from onnx_tools.naming import is_folder, target_of
from onnx_tools.preflight import check_outputs, check_reports, folders_of
from onnx_tools.rewrite import Extras
from onnx_tools.terminal import Tell


@dataclass(frozen=True)
class CompactJob:
    """What is done to each model, as in `compact_file`. `output`: a file, a folder, or a pattern; None: in place."""

    output: str | None
    input_shapes: InputShapes
    constants: str
    checks: Checks | None
    latency: bool
    force: bool
    delete_old_data: bool
    dry_run: bool
    conditions: tuple[Condition, ...] = ()

    def target(self, model: Path) -> Path:
        """The file that is written for `model`."""
        return model if self.output is None else target_of(self.output, model)

    def run(self, model: Path, extras: Extras, tell: Tell | None) -> AnyReport:
        """Compact `model`. A condition that is met leaves only a report."""
        try:
            return compact_file(
                model,
                None if self.output is None else self.target(model),
                input_shapes=self.input_shapes,
                constants=self.constants,
                force=self.force,
                delete_old_data=self.delete_old_data,
                dry_run=self.dry_run,
                verify=self.checks,
                latency=self.latency,
                conditions=self.conditions,
                extras=extras,
                progress=tell,
            )
        except ConditionMet as refusal:
            refused: CompactReport = refusal.report
            return refused

    def note(self, report: AnyReport) -> str:
        """What the one at the screen must know besides the report: old data files that are left over."""
        if not isinstance(report, CompactReport) or report.output is None:
            return ""
        return "" if self.output is not None or self.delete_old_data else left_over(report.files)


def compact_models(models: Sequence[Path], job: CompactJob, view: View) -> int:
    """Compact each model into its output; return the exit code."""
    targets = [] if job.dry_run else [job.target(model) for model in models]
    data = job.checks.data if job.checks is not None else None
    inputs = () if data is None else (data,)
    in_place = job.output is None
    check_outputs(models, targets, in_place=in_place, delete_old_data=job.delete_old_data, inputs=inputs)
    with folders_of(targets if is_folder(job.output or "") else []):
        check_reports(models, targets, view.reports, view.summary, inputs=inputs)
        return for_each([(model, partial(job.run, model, view.extras)) for model in models], view, job.note)
