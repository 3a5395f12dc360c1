"""`compact_file`: channels that are zero leave a model."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnx_tools.compact_report import CompactReport, LatencyReport
from onnx_tools.compaction.account import Account, Measured
from onnx_tools.compaction.checking import Checks
from onnx_tools.compaction.costs.latency import measure_latency
from onnx_tools.compaction.costs.layer_times import LayerTimes, Profiled, measure_layers
from onnx_tools.compaction.mapping.shapes import InputShapes
from onnx_tools.compaction.mapping.tracing import map_channels
from onnx_tools.compaction.progress import Progress, parts
from onnx_tools.compaction.removing.removal import write_without
from onnx_tools.compaction.report import dropped_notes
from onnx_tools.compaction.zeros import DROP, KEEP, removable
from onnx_tools.conditions import Condition
from onnx_tools.encodings.encode import refuse_encoded
from onnx_tools.file_facts import bytes_on_disk, file_reports
from onnx_tools.graph_index import GraphIndex
from onnx_tools.model_copy import ModelCopy
from onnx_tools.model_file import ModelFile
from onnx_tools.rewrite import Extras
from onnx_tools.verification.metadata import text_without
from oxiprune_gpu import InvalidOption, __version__

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
        latency: also time both models in onnxruntime, and each of their layers.
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
    account = Account(model, channels, found, constants, dry_run, conditions, extras or Extras())
    if dry_run:
        return account.checked(None)
    job = _Job(account, target, force, delete_old_data, verify, latency, input_shapes or {}, writing, checking)
    report = job.run()
    checking("", 1, 1)
    return report


@dataclass(frozen=True)
class _Job:
    """One model compacted into another file, or in place."""

    account: Account
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
                metadata=text_without(account.model, len(account.found.gone), __version__),
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

    def _measured(self, finished: pathlib.Path) -> Measured:
        account = self.account
        self.checking("checking", 0, 1)
        model = ModelFile.open(finished)
        exact = not dropped_notes(account.found)
        verification = None
        if self.verify is not None:
            verification = self.verify.run(account.model, account.channels, finished, self.shapes, exact=exact)
        index = GraphIndex(model.skeleton)
        times = self._times(Profiled(model, index)) if self.latency else (None, None)
        return Measured(account.facts(model.path, *model.data_files()), index, verification, *times)

    def _times(self, after: Profiled) -> tuple[LatencyReport | str, LayerTimes | str | None]:
        """The time of a run, and of the layers where models can run."""
        before = Profiled(self.account.model, self.account.channels.index)
        data, seed = (self.verify.data, self.verify.seed) if self.verify is not None else (None, 0)
        total = measure_latency(before.model.path, after.model.path, data, seed, self.shapes)
        return total, None if isinstance(total, str) else measure_layers(before, after, data, seed, self.shapes)
