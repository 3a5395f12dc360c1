"""What a search comes to: its report."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass
from typing import NamedTuple

from onnx_tools.compaction.choice.config import ChannelConfig
from onnx_tools.file_facts import FileFacts, facts_of, file_reports
from onnx_tools.model_copy import CommittedFiles
from onnx_tools.model_file import ModelFile
from onnx_tools.policy_file import policy_text
from onnx_tools.report import FileReport
from onnx_tools.report_parts import runtime_version, versions
from onnx_tools.search.judging import FEWEST_HELD_OUT
from onnx_tools.search.reproduction import command_of
from onnx_tools.search.running import Run
from onnx_tools.search.trials import Trial
from onnx_tools.search_report import Score, SearchReport, SearchSettings


class Confirmed(NamedTuple):
    """The answer, measured again, and the files it was written to."""

    searched: Score
    held_out: Score | None
    files: CommittedFiles


@dataclass(frozen=True)
class Account:
    """What was searched and found."""

    model: ModelFile
    settings: SearchSettings
    run: Run
    answer: Trial
    confirmed: Confirmed

    def report(self) -> SearchReport:
        """The report."""
        judge, recipe = self.run.trials.judge, self.answer.recipe
        original, original_held_out = judge.scores(judge.original, self.model.path.name)
        name, output, search = self.model.path.name, self.confirmed.files.model.name, self.run.search
        return SearchReport(
            input=name,
            output=output,
            settings=self.settings,
            versions=versions(runtime_version()),
            original=original,
            original_held_out=original_held_out,
            trials=tuple(trial.report for trial in self.run.trials.done.values()),
            answer=self.answer.report.number,
            confirmed=self.confirmed.searched,
            confirmed_held_out=self.confirmed.held_out,
            policy="" if isinstance(recipe, ChannelConfig) else policy_text(recipe),
            reproduce=command_of(name, output, recipe, search),
            weights=self.answer.weights,
            files=self._files(),
            warnings=(*search.notes, *self.run.notes, *self._warnings()),
        )

    def _files(self) -> tuple[FileReport, ...]:
        before = _facts(self.model.path, *self.model.data_files())
        after: list[FileFacts | None] = [*_facts(self.confirmed.files.model, *self.confirmed.files.data)]
        return file_reports(before, [*after, *[None] * (len(before) - len(after))])

    def _warnings(self) -> tuple[str, ...]:
        trials, held_out, bar = self.run.trials, self.confirmed.held_out, self.settings.max_drop
        found = []
        if held_out is not None and not trials.judge.within(held_out):
            found.append(
                f"on the {held_out.cases:,} cases that were held out the quality drops by {held_out.drop:.4g}, more "
                f"than {bar:g}: the search has fitted its cases; search with more of them, a lower --max-drop, or "
                "--confidence"
            )
        if held_out is None and self.settings.held_out:
            found.append(
                f"no cases were held out: the quality is one number, or they would be fewer than {FEWEST_HELD_OUT}"
            )
        if self.confirmed.searched != self.answer.report.searched:
            found.append(
                f"the quality is not repeatable: the answer dropped by {self.answer.report.searched.drop:.4g}, and "
                f"measured again by {self.confirmed.searched.drop:.4g}"
            )
        if trials.spent():
            found.append(f"the search ended after {len(trials.done)} trials; --max-trials allows more")
        if trials.log.damaged:
            found.append(f"{trials.log.damaged} damaged lines of {trials.log.path.name} were passed over")
        return tuple(found)


def _facts(*files: pathlib.Path) -> list[FileFacts]:
    return [facts_of(file, hashes=True, compressed=False) for file in files]
