"""What compacting one model comes to: its report, held against conditions before anything is written."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from onnx_tools.compact_report import CompactReport, LatencyReport, Stored
from onnx_tools.compaction.costs.cost import open_inputs, stored_cost, stored_without
from onnx_tools.compaction.costs.layer_times import LayerTimes
from onnx_tools.compaction.mapping.channel_map import ChannelMap
from onnx_tools.compaction.mapping.defaults import lists_all
from onnx_tools.compaction.report import dropped_notes, layer_reports, made_groups, staying_notes
from onnx_tools.compaction.zeros import Removable
from onnx_tools.conditions import Condition, outcomes_of
from onnx_tools.errors import ConditionMet
from onnx_tools.file_facts import FileFacts, facts_of, file_reports
from onnx_tools.graph_index import GraphIndex
from onnx_tools.model_file import ModelFile
from onnx_tools.report import VerificationReport
from onnx_tools.report_parts import equality_text, runtime_version, versions
from onnx_tools.rewrite import Extras

_ALL_INPUTS = (
    "all stored tensors are inputs too, as IR version 3 wanted it, and were taken as fixed: who overrides one must "
    "give the smaller one"
)

NOTHING_REMOVED = "nothing removed: no channel is zero in all that reads it, or those that are must stay"


@dataclass(frozen=True)
class Measured:
    """What is known of a finished model; a text says why a time could not be measured."""

    files: list[FileFacts]
    index: GraphIndex
    verification: VerificationReport | None
    latency: LatencyReport | str | None
    layer_times: LayerTimes | str | None


@dataclass(frozen=True)
class Account:
    """What is known before anything is written, and the report of it."""

    model: ModelFile
    channels: ChannelMap
    found: Removable
    constants: str
    dry_run: bool
    conditions: Sequence[Condition]
    extras: Extras
    before: list[FileFacts] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.before.extend(self.facts(self.model.path, *self.model.data_files()))

    def facts(self, *files: pathlib.Path) -> list[FileFacts]:
        """Facts about files, as far as they are asked for."""
        wanted = {"hashes": self.extras.hashes, "compressed": self.extras.compressed}
        return [facts_of(file, **wanted) for file in files]

    def checked(self, measured: Measured | None) -> CompactReport:
        """The report; raises `ConditionMet` if a condition is."""
        report = self._report(measured)
        report = replace(report, conditions=outcomes_of(self.conditions, report))
        if report.refused:
            kept = replace(report, output=None, files=file_reports(self.before, None))
            met = ", ".join(outcome.condition for outcome in report.conditions if outcome.met)
            raise ConditionMet(f"{self.model.path.name}: {met}: a condition was met. Nothing was written", kept)
        return report

    def _report(self, measured: Measured | None) -> CompactReport:
        channels, groups = self.channels, self.channels.groups
        remaining = channels.without(self.found.gone)
        before = stored_cost(channels.index)
        after = stored_without(channels, remaining) if measured is None else stored_cost(measured.index)
        files = None if measured is None else _padded(measured.files, len(self.before))
        latency, times = (None, None) if measured is None else (measured.latency, measured.layer_times)
        known = times if isinstance(times, LayerTimes) else LayerTimes({}, {})
        staying = staying_notes(groups, self.found)
        return CompactReport(
            input=self.model.path.name,
            output=None if measured is None else measured.files[0].name,
            dry_run=self.dry_run,
            constants=self.constants,
            versions=versions(runtime_version()),
            channels=len(made_groups(groups)),
            removed=len(self.found.gone),
            layers=layer_reports(channels, remaining, known),
            stored=Stored(before.parameters, after.parameters, before.bytes, after.bytes),
            staying=staying,
            dropped=dropped_notes(self.found),
            open_inputs=open_inputs(channels),
            files=file_reports(self.before, files),
            latency=latency if isinstance(latency, LatencyReport) else None,
            verification=None if measured is None else measured.verification,
            warnings=self._warnings(latency, times),
        )

    def _warnings(self, *times: object) -> tuple[str, ...]:
        unmeasured = tuple(time for time in times if isinstance(time, str))
        if len(self.found.gone):
            return (_ALL_INPUTS, *unmeasured) if lists_all(self.model.skeleton) else unmeasured
        equality = "" if self.dry_run else equality_text(self.before[1:])
        return (f"{NOTHING_REMOVED}{equality}", *unmeasured)


def _padded(files: Sequence[FileFacts], count: int) -> list[FileFacts | None]:
    """As many as there were; which of them are gone is known after the commit."""
    return [*files, *[None] * (count - len(files))]
