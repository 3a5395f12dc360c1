"""What the command `search` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from onnx_tools.calibration.data import Data
from onnx_tools.calibration.methods import DataMethod
from onnx_tools.commands import View, but_written, for_each
from onnx_tools.compact_report import AnyReport
from onnx_tools.errors import WriteFailed
from onnx_tools.naming import expand
from onnx_tools.preflight import check_outputs, check_reports
from onnx_tools.quality import Quality, evaluation_data, read_quality, split
from onnx_tools.search.options import Search
from onnx_tools.search.search import log_beside, search_file
from onnx_tools.search_report import SearchReport
from onnx_tools.temporaries import write_whole
from onnx_tools.terminal import Tell


@dataclass(frozen=True)
class SearchJob:
    """What is searched, and where the answer goes. `policy`: the name of the file that gets its policy, if any.

    `search`: makes the search when it is needed, since reading data takes long. `inputs`: files that are read besides
    the model, which nothing may be written over.
    """

    search: Callable[[], Search]
    output: Path
    policy: str | None
    log: Path | None
    inputs: tuple[Path, ...]
    force: bool

    def run(self, model: Path, tell: Tell | None) -> AnyReport:
        """Search in one model."""
        report = search_file(model, self.output, self.search(), force=self.force, progress=tell)
        if self.policy is not None:
            try:
                write_whole(expand(self.policy, model), report.policy.encode())
            except WriteFailed as error:
                raise WriteFailed(but_written(error, report)) from None
        return report

    def note(self, report: AnyReport) -> str:
        """How the answer is made again."""
        if not isinstance(report, SearchReport):
            return ""
        policy = "" if self.policy is None else f" (POLICY.toml is {self.policy})"
        return f"The same again{policy}: {report.reproduce}"


@dataclass(frozen=True)
class Measuring:
    """What is measured on which data, and what else is done with data.

    `method`: gives, for data, the method that looks at it, if there is one. `calibration`: its data; None: a part of
    `data`, which is not measured on then.
    """

    quality: str
    data: str | None
    calibration: str | None
    method: Callable[[Data], DataMethod] | None
    seed: int

    def tools(self, model: Path) -> tuple[Quality, DataMethod | None]:
        """The quality, and the method if there is one."""
        if self.method is None:
            return read_quality(self.quality, self.data, model), None
        if self.calibration is not None or self.data is None:
            return read_quality(self.quality, self.data, model), self.method(self.calibration or "")
        calibrating, scoring = split(evaluation_data(self.quality, self.data, model), seed=self.seed)
        return read_quality(self.quality, scoring, model), self.method(calibrating)


def search_model(model: Path, job: SearchJob, view: View) -> int:
    """Search in one model; return the exit code."""
    log = job.log or log_beside(job.output)
    others = (("--log", str(log)), *((("--policy-out", job.policy),) if job.policy else ()))
    check_outputs([model], [job.output], in_place=False, inputs=(*job.inputs, log))
    check_reports([model], [job.output], view.reports, view.summary, others=others, inputs=job.inputs)
    return for_each([(model, lambda tell: job.run(model, tell))], view, job.note)
