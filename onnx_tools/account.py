"""What a run of `prune` comes to: its report, however it ends, and the conditions the report is held against."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from onnx_tools.conditions import Condition, outcomes_of
from onnx_tools.errors import ConditionMet
from onnx_tools.file_facts import FileFacts, facts_of, file_reports
from onnx_tools.model_file import ModelFile
from onnx_tools.payoff import with_verdict
from onnx_tools.pictures import Album
from onnx_tools.plan import Plan
from onnx_tools.report import Configuration, PruneReport, VerificationReport
from onnx_tools.report_parts import (
    changes,
    left_alone_reports,
    runtime_version,
    versions,
    warnings,
    weight_report,
    weights_2_4,
)
from oxiprune_gpu import PruneCounts, ScoreStats


@dataclass(frozen=True)
class Account:
    """What is known before the pruning. `equality`: what to say of an output in which nothing changed.

    `notes`: warnings that are known already. `measured`: the files that `check` looked at.
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
    measured: list[FileFacts] = field(default_factory=list)

    def report(
        self, counts: list[PruneCounts], after: Sequence[FileFacts] | None, checks: VerificationReport | None
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
        report = with_verdict(report, weights_2_4(self.plan.planned, counts))
        return replace(report, conditions=outcomes_of(self.conditions, report))

    def check(
        self, counts: list[PruneCounts], finished: pathlib.Path | None, checks: VerificationReport | None = None
    ) -> None:
        """Raise `ConditionMet` if a condition is met by the model at `finished`, which has its name not yet.

        `finished`: None in a dry run.
        """
        if not self.conditions:
            return
        if finished is not None:
            model = ModelFile.open(finished)
            self.measured[:] = self._facts((model.path, *model.data_files()), hashes=False)
        report = self.report(counts, None if finished is None else self.measured, checks)
        if report.refused:
            kept = replace(report, output=None, files=file_reports(self.before, None))
            met = ", ".join(outcome.condition for outcome in report.conditions if outcome.met)
            raise ConditionMet(f"{self.model.path.name}: {met}: a condition was met. Nothing was written", kept)

    def written(self, files: Sequence[pathlib.Path], *, hashes: bool) -> list[FileFacts]:
        """Facts about the files that were written; what `check` compressed is not compressed again.

        Under other names of its data files the model is another one.
        """
        if not self.measured or [file.name for file in files[1:]] != [fact.name for fact in self.measured[1:]]:
            return self._facts(files, hashes=hashes)
        facts = [facts_of(file, hashes=hashes, compressed=False) for file in files]
        return [replace(fact, compressed=known.compressed) for fact, known in zip(facts, self.measured, strict=True)]

    def _facts(self, files: Sequence[pathlib.Path], *, hashes: bool) -> list[FileFacts]:
        return [facts_of(file, hashes=hashes, compressed=self.compressed) for file in files]
