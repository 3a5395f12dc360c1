"""What the command `search` does."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from onnx_tools.calibration.data import Data, Feeds
from onnx_tools.calibration.methods import DataMethod
from onnx_tools.calibration.splitting import PART
from onnx_tools.commands import View, but_written, for_each
from onnx_tools.compact_report import AnyReport
from onnx_tools.errors import WriteFailed
from onnx_tools.naming import expand
from onnx_tools.preflight import check_outputs, check_reports
from onnx_tools.quality import Quality, evaluation_data, read_quality, shared, split
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


class Tools(NamedTuple):
    """The quality, the method if there is one, and what a reader must know of their data."""

    quality: Quality
    method: DataMethod | None = None
    notes: tuple[str, ...] = ()


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

    def tools(self, model: Path) -> Tools:
        """What measures, and what prunes."""
        if self.method is None or self.data is None:
            method = self.method and self.method(self.calibration or "")
            return Tools(read_quality(self.quality, self.data, model), method)
        data = evaluation_data(self.quality, self.data, model)
        if self.calibration is not None:
            method, notes = self.method(self.calibration), self._overlap(data, model)
            return Tools(read_quality(self.quality, data, model), method, notes)
        _, scoring = split(data, seed=self.seed)
        return Tools(read_quality(self.quality, scoring, model), self.method(f"{PART}{self.seed}:{self.data}"))

    def _overlap(self, scoring: Feeds, model: Path) -> tuple[str, ...]:
        """A warning where cases calibrate and score; what code gives is not asked for twice."""
        if self.calibration is None or not os.path.exists(self.calibration):
            return ()
        both = shared(evaluation_data("drift", self.calibration, model), scoring)
        if not both:
            return ()
        return (
            f"{both:,} cases of --calibration are in --data too: models are scored on what they were fitted to, and "
            "seem better than they are; give other cases, or leave out --calibration: a fifth of --data is taken then",
        )


def search_model(model: Path, job: SearchJob, view: View) -> int:
    """Search in one model; return the exit code."""
    log = job.log or log_beside(job.output)
    others = (("--log", str(log)), *((("--policy-out", job.policy),) if job.policy else ()))
    check_outputs([model], [job.output], in_place=False, inputs=(*job.inputs, log))
    check_reports([model], [job.output], view.reports, view.summary, others=others, inputs=job.inputs)
    return for_each([(model, lambda tell: job.run(model, tell))], view, job.note)
