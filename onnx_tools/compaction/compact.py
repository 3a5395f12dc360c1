"""`compact_file`: channels that are zero leave a model."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from onnx_tools.compact_report import CompactReport, LatencyReport, Stored
from onnx_tools.compaction.checking import Checks
from onnx_tools.compaction.costs.cost import open_inputs, stored_cost, stored_without
from onnx_tools.compaction.costs.latency import measure_latency
from onnx_tools.compaction.mapping.shapes import InputShapes
from onnx_tools.compaction.mapping.tracing import ChannelMap, map_channels
from onnx_tools.compaction.progress import Progress, parts
from onnx_tools.compaction.removing.removal import write_without
from onnx_tools.compaction.report import dropped_notes, layer_reports, made_groups, staying_notes
from onnx_tools.compaction.zeros import DROP, KEEP, Removable, removable
from onnx_tools.conditions import Condition, outcomes_of
from onnx_tools.encodings.encode import refuse_encoded
from onnx_tools.errors import ConditionMet
from onnx_tools.file_facts import FileFacts, bytes_on_disk, facts_of, file_reports
from onnx_tools.graph_index import GraphIndex
from onnx_tools.model_copy import ModelCopy
from onnx_tools.model_file import ModelFile
from onnx_tools.report import VerificationReport
from onnx_tools.report_parts import equality_text, runtime_version, versions
from onnx_tools.rewrite import Extras
from oxiprune_gpu import InvalidOption

_CHECKS = Checks()


def compact_file(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    input_shapes: InputShapes | None = None,
    constants: str = "keep",
    force: bool = False,
    delete_old_data: bool = False,
    dry_run: bool = False,
    verify: Checks | None = _CHECKS,
    latency: bool = False,
    conditions: Sequence[Condition] = (),
    extras: Extras | None = None,
    progress: Progress | None = None,
) -> CompactReport:
    """Remove the channels of an ONNX file that nobody looks at; the smaller model computes the same function.

    A channel leaves, with all that goes together with it, if every stored tensor that reads it is zero there, whoever
    zeroed it: `prune --granularity channel`, a training framework, another tool. Nodes and data that fall empty leave
    too, shapes are updated; the rest of the file stays byte for byte. Before the new file gets its name it is compared
    with the input: by onnx's checker and, where onnxruntime is installed, by running both.

    Args:
        path: the model; external data is found beside it.
        output: the new file, its external data `OUTPUT.data`; None replaces the model itself.
        input_shapes: sizes that the model leaves open, by the name of the input.
        constants: what is done with channels that leave a constant behind which can't be folded exactly into a bias:
            "keep" the channel, or "drop" the constant, which changes the outputs.
        force: overwrite an existing output.
        delete_old_data: in place, delete external data that the new model no longer uses.
        dry_run: say what would leave, write nothing.
        verify: how the result is checked; None: not at all.
        latency: also time both models in onnxruntime.
        conditions: what must not be, see `onnx_tools.conditions`; looked at before anything is written to its place.
        extras: what else to put into the report: `hashes`, `compressed`.
        progress: told before each step, and before each stored tensor.

    Returns:
        What was done. `changed` is False if no channel can leave: the output then equals the input.

    Raises:
        VerificationFailed: the outputs differ by more than rounding; nothing was written.
        ConditionMet: a condition is met, nothing was written; the error has the report.
        AlreadyEncoded: weights are stored without their zeros; decode the model first.
        InvalidInputShape: the model has no such input, or it can't have this shape.
        PruningError: bad input, see `onnx_tools.errors` and `oxiprune_gpu.errors`; nothing was written.
    """
    if constants not in (KEEP, DROP):
        raise InvalidOption(f"constants {constants!r}: use {KEEP} or {DROP}")
    model = ModelFile.open(path)
    refuse_encoded(model)
    target = None if output is None else pathlib.Path(output)
    if not dry_run:
        with ModelCopy(model, target, force=force, delete_old_data=delete_old_data):
            pass  # what would refuse the output is said before the work
    mapping, looking, writing, checking = parts(progress, 4, bytes_on_disk(model))
    mapping("channels that go together", 0, 1)
    channels = map_channels(model.skeleton, input_shapes)
    found = removable(model, channels, constants=constants, progress=looking)
    account = _Account(model, channels, found, constants, dry_run, conditions, extras or Extras())
    if dry_run:
        return account.checked(None)
    job = _Job(account, target, force, delete_old_data, verify, latency, input_shapes or {}, writing, checking)
    report = job.run()
    checking("", 1, 1)
    return report


@dataclass(frozen=True)
class _Measured:
    """What is known of a finished model."""

    files: list[FileFacts]
    index: GraphIndex
    verification: VerificationReport | None
    latency: LatencyReport | str | None


@dataclass(frozen=True)
class _Account:
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

    def checked(self, measured: _Measured | None) -> CompactReport:
        """The report; raises `ConditionMet` if a condition is."""
        report = self._report(measured)
        report = replace(report, conditions=outcomes_of(self.conditions, report))
        if report.refused:
            kept = replace(report, output=None, files=file_reports(self.before, None))
            met = ", ".join(outcome.condition for outcome in report.conditions if outcome.met)
            raise ConditionMet(f"{self.model.path.name}: {met}: a condition was met. Nothing was written", kept)
        return report

    def _report(self, measured: _Measured | None) -> CompactReport:
        channels, groups = self.channels, self.channels.groups
        remaining = channels.without(self.found.gone)
        before = stored_cost(channels.index)
        after = stored_without(channels, remaining) if measured is None else stored_cost(measured.index)
        files = None if measured is None else _padded(measured.files, len(self.before))
        latency = None if measured is None else measured.latency
        staying = staying_notes(groups, self.found)
        return CompactReport(
            input=self.model.path.name,
            output=None if measured is None else measured.files[0].name,
            dry_run=self.dry_run,
            constants=self.constants,
            versions=versions(runtime_version()),
            channels=len(made_groups(groups)),
            removed=len(self.found.gone),
            layers=layer_reports(channels, remaining),
            stored=Stored(before.parameters, after.parameters, before.bytes, after.bytes),
            staying=staying,
            dropped=dropped_notes(self.found),
            open_inputs=open_inputs(channels),
            files=file_reports(self.before, files),
            latency=latency if isinstance(latency, LatencyReport) else None,
            verification=None if measured is None else measured.verification,
            warnings=self._warnings(latency),
        )

    def _warnings(self, latency: LatencyReport | str | None) -> tuple[str, ...]:
        unmeasured = (latency,) if isinstance(latency, str) else ()
        if len(self.found.gone):
            return unmeasured
        equality = "" if self.dry_run else equality_text(self.before[1:])
        why = "no channel is zero in all that reads it, or those that are must stay"
        return (f"nothing removed: {why}{equality}", *unmeasured)


@dataclass(frozen=True)
class _Job:
    """One model compacted into another file, or in place."""

    account: _Account
    output: pathlib.Path | None
    force: bool
    delete_old_data: bool
    verify: Checks | None
    latency: bool
    shapes: InputShapes
    writing: Progress
    checking: Progress

    def run(self) -> CompactReport:
        """Write what remains; the report is made, and may refuse it, before the file gets its name."""
        account, reports = self.account, list[CompactReport]()
        sources = (account.model.file, *account.model.data_files())

        def check(finished: pathlib.Path) -> None:
            reports.append(account.checked(self._measured(finished)))

        if len(account.found.gone):
            committed = write_without(
                account.model,
                account.channels,
                account.found.gone,
                account.found.folds,
                self.output,
                force=self.force,
                delete_old_data=self.delete_old_data,
                check=check,
                progress=self.writing,
            )
        elif self.output is not None:
            with ModelCopy(account.model, self.output, force=self.force) as copy:
                committed = copy.commit(check)
        else:
            check(account.model.path)
            return reports[0]
        facts = iter(account.facts(committed.model, *committed.data))
        files = file_reports(account.before, [None if file in committed.unused else next(facts) for file in sources])
        return replace(reports[0], output=files[0].name_after, files=files)

    def _measured(self, finished: pathlib.Path) -> _Measured:
        account = self.account
        self.checking("checking", 0, 1)
        model = ModelFile.open(finished)
        exact = not dropped_notes(account.found)
        verification = None
        if self.verify is not None:
            verification = self.verify.run(account.model, account.channels, finished, self.shapes, exact=exact)
        data, seed = (self.verify.data, self.verify.seed) if self.verify is not None else (None, 0)
        timed = measure_latency(account.model.path, finished, data, seed, self.shapes) if self.latency else None
        facts = account.facts(model.path, *model.data_files())
        return _Measured(facts, GraphIndex(model.skeleton), verification, timed)


def _padded(files: Sequence[FileFacts], count: int) -> list[FileFacts | None]:
    """As many as there were; which of them are gone is known after the commit."""
    return [*files, *[None] * (count - len(files))]
