"""What a run of `prune` comes to: its report, however it ends, and the conditions the report is held against."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnx_tools.conditions import Condition, outcomes_of
from onnx_tools.errors import ConditionMet
from onnx_tools.file_facts import FileFacts, facts_of, file_reports
from onnx_tools.model_file import ModelFile
from onnx_tools.payoff import with_verdict
from onnx_tools.pictures import Album
from onnx_tools.plan import Plan
from onnx_tools.report import Configuration, PruneReport, VerificationReport
from onnx_tools.report_parts import changes, left_alone_reports, runtime_version, versions, warnings, weight_report
from oxiprune_gpu import PruneCounts, ScoreStats


@dataclass(frozen=True)
class Account:
    """What is known before the pruning. `equality`: what to say of an output in which nothing changed.

    `notes`: warnings that are known already.
    """

    model: ModelFile
    plan: Plan
    configuration: Configuration
    before: list[FileFacts]
    stats: Sequence[ScoreStats | None]
    album: Album
    dry_run: bool
    equality: str
    conditions: Sequence[Condition]
    compressed: bool
    notes: tuple[str, ...] = ()

    def report(
        self, counts: list[PruneCounts], after: list[FileFacts] | None, checks: VerificationReport | None
    ) -> PruneReport:
        """The report; `after`: the files that were written."""
        report = PruneReport(
            input=self.model.path.name,
            output=None if after is None else after[0].name,
            dry_run=self.dry_run,
            changed=changes(counts),
            configuration=self.configuration,
            versions=versions(runtime_version()),
            weights=tuple(map(weight_report, self.plan.planned, counts, self.stats)),
            left_alone=left_alone_reports(self.plan.left_alone),
            files=file_reports(self.before, after),
            verification=checks,
            warnings=(*self.notes, *warnings(self.plan.planned, counts, self.equality)),
            pictures=self.album.pictures,
        )
        report = with_verdict(report)
        return replace(report, conditions=outcomes_of(self.conditions, report))

    def check(
        self, counts: list[PruneCounts], finished: pathlib.Path | None, checks: VerificationReport | None = None
    ) -> None:
        """Raise `ConditionMet` if a condition is met by the model at `finished`, which has its name not yet.

        `finished`: None in a dry run.
        """
        if not self.conditions:
            return
        after = None if finished is None else self._facts(ModelFile.open(finished))
        report = self.report(counts, after, checks)
        if report.refused:
            kept = replace(report, output=None, files=file_reports(self.before, None))
            met = ", ".join(outcome.condition for outcome in report.conditions if outcome.met)
            raise ConditionMet(f"{self.model.path.name}: {met}: a condition was met. Nothing was written", kept)

    def _facts(self, model: ModelFile) -> list[FileFacts]:
        return [facts_of(file, hashes=False, compressed=self.compressed) for file in (model.path, *model.data_files())]
