"""Pruning a model: in a file, or in memory."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx

from onnx_tools.account import Account
from onnx_tools.conditions import Condition
from onnx_tools.dealing import dealt
from onnx_tools.errors import VerificationFailed
from onnx_tools.file_facts import FileFacts, facts_of
from onnx_tools.masks import How, MaskedWeight, apart, how_of, notes_on, plan_for
from onnx_tools.model_copy import ModelCopy
from onnx_tools.model_file import ModelFile, put_back, tensor_at
from onnx_tools.new_values import RewrittenWeight, refits
from onnx_tools.payoff import with_verdict
from onnx_tools.pictures import Album
from onnx_tools.plan import Gradients, Plan, PlannedWeight
from onnx_tools.policy import Policy
from onnx_tools.report import Check, PruneReport, VerificationReport
from onnx_tools.report_parts import (
    changes,
    configuration,
    equality_text,
    left_alone_reports,
    metadata_text,
    shadowed_rules,
    versions,
    warnings,
    weight_report,
    weights_2_4,
)
from onnx_tools.shared_bytes import same_bytes
from onnx_tools.values import encode
from onnx_tools.verification import CHECKS
from onnx_tools.verification.byte_check import compare_bytes, more_text
from onnx_tools.verification.metadata import METADATA_KEY
from onnx_tools.weight_selection import Selection
from onnx_tools.weight_values import WeightReader, reads_from, values_in_tensor
from onnx_tools.wire import Path
from oxiprune_gpu import (
    ArrayBlocks,
    BlockSource,
    PruneCounts,
    PruningConfig,
    ScoreStats,
    prune_blocks,
    resolve_backend,
    score_stats_blocks,
)

Progress = Callable[[str, int, int], None]
"""Called before each weight with its name, the elements done, and the elements to do."""

Verify = Callable[[pathlib.Path, pathlib.Path, Collection[Path]], VerificationReport]
"""Checks the model at the second path, which was made from the first; only the tensors at these paths may differ.

A check "bytes" in its report stands for our own comparison, which is made where there is none. A model that stays as
it is, in place, is not checked: the checks of `verify_files` are then reported as skipped.
"""

Accept = Callable[[list[PruneCounts], pathlib.Path, VerificationReport], None]
"""Told what was counted, the finished model before it gets its name, and the checks; what it raises refuses it."""

_DEFAULT_SELECTION = Selection()


@dataclass(frozen=True)
class Extras:
    """What a report may hold beyond the counts; each costs time.

    Statistics of scores; SHA-256 and zstd-3 size of the files; pictures of the largest weights, for HTML.
    """

    statistics: bool = False
    hashes: bool = False
    compressed: bool = False
    pictures: bool = False


def prune_file(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    config: PruningConfig | How,
    selection: Selection = _DEFAULT_SELECTION,
    gradients: Gradients | None = None,
    force: bool = False,
    delete_old_data: bool = False,
    dry_run: bool = False,
    backend: str = "auto",
    verify: Verify | None = None,
    conditions: Sequence[Condition] = (),
    extras: Extras | None = None,
    progress: Progress | None = None,
) -> PruneReport:
    """Prune an ONNX file by patching a copy of it; what is not pruned stays byte for byte what it was.

    The copy is compared with the input byte for byte, and only then gets its name, in one atomic step: whatever
    happens, the old file or the new one stands, whole. Memory stays small whatever the size of the model.

    Args:
        path: the model; external data is found beside it.
        output: the new file, its external data `OUTPUT.data`; None replaces the model itself.
        config: how much, by which metric, in which units: the same for all weights, or a `Policy`. `row` and `column`
            are output and input channels, N:M groups lie along the reduction axis. Or the `Masks` of another model,
            see `apply_masks`; whole slices, which `prune_channels` gives; or new values, from a method that repairs.
        selection: which weights; depthwise kernels and weights under 2,048 elements are left alone by default.
        gradients: gradient of the loss by weight name; the metric is then Taylor's |w * g|.
        force: overwrite an existing output.
        delete_old_data: in place, delete external data that the new model no longer uses.
        dry_run: count only, write nothing.
        backend: what prunes: "cpu"; "cuda", a GPU, for every weight; or "auto", a GPU where one is present, and the
            model and the weight are large enough to pay for it. The file is the same, byte for byte.
        verify: further checks, made before anything is written to its place.
        conditions: what must not be, see `onnx_tools.conditions`; looked at before anything is written to its place.
        extras: what else to put into the report.
        progress: told before each weight.

    Returns:
        What was done. `changed` is False when all that would fall is zero already: the output then equals the input,
        but for the names of its data files.

    Raises:
        NothingSelected, VerificationFailed: nothing was written.
        ConditionMet: a condition is met, nothing was written; the error has the report.
        GpuUnavailable: the backend is "cuda", and no GPU can be used.
        PruningError: bad input, see `onnx_tools.errors` and `oxiprune_gpu.errors`; nothing was written.
    """
    extras = extras or Extras()
    model = ModelFile.open(path)
    how = how_of(config)
    plan = plan_for(model.skeleton, how, selection, gradients)
    plan, aliases = apart(model, plan)
    backend = resolve_backend(backend, plan.bytes)
    album = Album([item.weight for item in plan.planned] if extras.pictures else ())
    target = None if output is None else pathlib.Path(output)
    job = _FileJob(model, target, force, delete_old_data, verify, backend, album)
    if not dry_run:
        check_output(model, target, force=force, delete_old_data=delete_old_data)
    if isinstance(how, Policy):
        with WeightReader(model) as reader:
            plan = dealt(plan, how, lambda item: reader.weight(item.weight, item.shape))
    sources = [model.path, *model.data_files()]
    account = Account(
        model,
        plan,
        configuration(how, selection, gradients),
        _facts(sources, extras),
        _statistics(model, plan) if extras.statistics else [None] * len(plan.planned),
        album,
        dry_run,
        "" if dry_run or output is None else equality_text(sources[1:]),
        conditions,
        extras.compressed,
        (*notes_on(how, plan), *shadowed_rules(plan)),
    )
    if dry_run:
        counts = _count_only(model, plan, progress, backend, album)
        account.check(counts, None)
        return account.report(counts, None, None)
    metadata = partial(metadata_text, how, selection, gradients)
    counts, files, checks = job.run(plan, aliases, metadata, progress, account.check)
    return account.report(counts, account.written(files, hashes=extras.hashes), checks)


def prune_model(
    model: onnx.ModelProto,
    *,
    config: PruningConfig | How,
    selection: Selection = _DEFAULT_SELECTION,
    gradients: Gradients | None = None,
    backend: str = "auto",
) -> PruneReport:
    """Prune the weights of a model in memory, in place; arguments and rules as in `prune_file`.

    External data must have been loaded. Nothing is changed when an error is raised.
    """
    how = how_of(config)
    plan = plan_for(model, how, selection, gradients)
    backend = resolve_backend(backend, plan.bytes)
    tensors = [tensor_at(model, item.weight.path) for item in plan.planned]
    read = reads_from(model)
    copies = [
        values_in_tensor(tensor, item.weight, item.shape, read)
        for tensor, item in zip(tensors, plan.planned, strict=True)
    ]
    if isinstance(how, Policy):
        sources = {item.weight.path: source for item, (_, source) in zip(plan.planned, copies, strict=True)}
        plan = dealt(plan, how, lambda item: sources[item.weight.path])
    counts = [_prune(item, source, backend, Album()) for item, (_, source) in zip(plan.planned, copies, strict=True)]
    if changes(counts):
        for item, tensor, (stored, _) in zip(plan.planned, tensors, copies, strict=True):
            encode(tensor, stored)
            put_back(model, item.weight.path, tensor)
        _replace_metadata(model, metadata_text(how, selection, gradients, counts))
    report = PruneReport(
        input="model",
        output=None,
        dry_run=False,
        changed=changes(counts),
        configuration=configuration(how, selection, gradients),
        versions=versions(),
        weights=tuple(map(weight_report, plan.planned, counts, [None] * len(counts))),
        left_alone=left_alone_reports(plan.left_alone),
        files=(),
        warnings=(*notes_on(how, plan), *shadowed_rules(plan), *warnings(plan.planned, counts)),
    )
    return with_verdict(report, weights_2_4(plan.planned, counts))


def check_output(model: ModelFile, output: pathlib.Path | None, *, force: bool, delete_old_data: bool) -> None:
    """Raise what would refuse the output later, before the work; arguments as in `prune_file`."""
    with ModelCopy(model, output, force=force, delete_old_data=delete_old_data):
        pass


@dataclass(frozen=True)
class _FileJob:
    """One file pruned into another, or in place."""

    model: ModelFile
    output: pathlib.Path | None
    force: bool
    delete_old_data: bool
    verify: Verify | None
    backend: str
    album: Album

    def run(
        self,
        plan: Plan,
        aliases: set[Path],
        metadata: Callable[[list[PruneCounts]], str],
        progress: Progress | None,
        accept: Accept,
    ) -> tuple[list[PruneCounts], list[pathlib.Path], VerificationReport]:
        """Prune; return the counts, the files of the new model and the checks made.

        `aliases`: tensors that lie on the bytes of a planned weight and change with it. `accept`: raises what refuses
        the finished model.
        """
        checks: list[VerificationReport] = []
        paths = {item.weight.path for item in plan.planned}
        refitted = same_bytes(self.model, {item.weight.path for item in plan.planned if refits(item)})

        def check(finished: pathlib.Path) -> None:
            checks.append(self._checked(finished, paths, aliases, refitted))
            accept(counts, finished, checks[-1])

        with self._copy() as copy, WeightReader(self.model) as reader:
            counts = [self._prune_in(copy, reader, item) for item in _told(plan, progress)]
            if changes(counts):
                copy.set_metadata(METADATA_KEY, metadata(counts))
                committed = copy.commit(check)
                return counts, [committed.model, *committed.data], checks[0]
        return counts, *self._unchanged(partial(accept, counts))

    def _copy(self) -> ModelCopy:
        return ModelCopy(self.model, self.output, force=self.force, delete_old_data=self.delete_old_data)

    def _prune_in(self, copy: ModelCopy, reader: WeightReader, item: PlannedWeight) -> PruneCounts:
        path = item.weight.path
        tensor = tensor_at(self.model.skeleton, path)
        if self.model.location(path, tensor) is not None:
            stored = copy.blocks(path, *item.weight.stored_as(item.shape))
            return _prune(item, reader.values_in(stored, item.weight, item.shape), self.backend, self.album)
        values, source = values_in_tensor(tensor, item.weight, item.shape, reader.small)
        counts = _prune(item, source, self.backend, self.album)
        pruned = onnx.TensorProto()
        pruned.CopyFrom(tensor)
        encode(pruned, values)
        copy.replace_tensor(path, pruned)
        return counts

    def _unchanged(
        self, accept: Callable[[pathlib.Path, VerificationReport], None]
    ) -> tuple[list[pathlib.Path], VerificationReport]:
        """The output is the input, but for the names of data files; in place there is nothing to do."""
        if self.output is None:
            names = CHECKS if self.verify is not None else CHECKS[:1]
            skipped = VerificationReport(tuple(Check(name, "skipped", "unchanged") for name in names))
            accept(self.model.path, skipped)
            return [self.model.path, *self.model.data_files()], skipped
        checks: list[VerificationReport] = []

        def check(finished: pathlib.Path) -> None:
            checks.append(self._checked(finished, set(), set(), set()))
            accept(finished, checks[-1])

        with self._copy() as copy:
            committed = copy.commit(check)
        return [committed.model, *committed.data], checks[0]

    def _checked(
        self, finished: pathlib.Path, paths: set[Path], aliases: set[Path], refitted: set[Path]
    ) -> VerificationReport:
        if self.verify is None:
            return self._passed(_byte_report(self.model, finished, paths, aliases, refitted))
        report = self._passed(self.verify(self.model.path, finished, frozenset(paths | aliases)))
        if any(check.name == "bytes" for check in report.checks):  # the model is long: it is read once
            return report
        checks = self._passed(_byte_report(self.model, finished, paths, aliases, refitted)).checks
        return VerificationReport((*checks, *report.checks), report.drifts)

    def _passed(self, report: VerificationReport) -> VerificationReport:
        failed = [f"{check.name}: {check.detail}" for check in report.checks if check.outcome == "failed"]
        if failed:
            raise VerificationFailed(f"{self.model.path.name}: {'; '.join(failed)}. Nothing was written")
        return report


def _byte_report(
    model: ModelFile, finished: pathlib.Path, paths: set[Path], aliases: set[Path], refitted: set[Path]
) -> VerificationReport:
    comparison = compare_bytes(model.path, finished, allowed=paths | aliases, refitted=refitted)
    if comparison.violations:
        return VerificationReport((Check("bytes", "failed", str(comparison.violations[0])),))
    if not comparison.zeroed:
        return VerificationReport((Check("bytes", "passed", "every byte is as it was"),))
    zeroed = [tensor for tensor in comparison.zeroed if tensor.path in paths]
    newly_zero = sum(tensor.newly_zero for tensor in zeroed)
    detail = f"{newly_zero:,} values became zero{more_text(zeroed)}, every other byte is as it was"
    return VerificationReport((Check("bytes", "passed", detail),))


def _prune(item: PlannedWeight, source: BlockSource, backend: str, album: Album) -> PruneCounts:
    with album.pruning(item.weight, source):
        if isinstance(item, MaskedWeight | RewrittenWeight):
            return item.prune(source)
        return prune_blocks(source, item.config, item.weight.name, backend=backend, count=item.count)


def _told(plan: Plan, progress: Progress | None) -> Iterable[PlannedWeight]:
    done, total = 0, plan.elements
    for item in plan.planned:
        if progress is not None:
            progress(item.weight.name, done, total)
        yield item
        done += item.weight.elements
    if progress is not None:
        progress("", done, total)


def _count_only(
    model: ModelFile, plan: Plan, progress: Progress | None, backend: str, album: Album
) -> list[PruneCounts]:
    """Prune copies in memory, one weight at a time."""
    counts = []
    with WeightReader(model) as reader:
        for item in _told(plan, progress):
            source = reader.weight(item.weight, item.shape)
            values = np.empty(item.weight.elements, source.dtype)
            values[:] = source.load(0, item.weight.elements, values)
            counts.append(_prune(item, ArrayBlocks(values.reshape(item.shape)), backend, album))
    return counts


def _statistics(model: ModelFile, plan: Plan) -> list[ScoreStats | None]:
    with WeightReader(model) as reader:
        return [
            score_stats_blocks(reader.weight(item.weight, item.shape), item.config.metric, item.weight.name)
            if item.metric == item.config.metric.text
            else None  # scores by data are gone
            for item in plan.planned
        ]


def _facts(files: Iterable[pathlib.Path], extras: Extras) -> list[FileFacts]:
    return [facts_of(file, hashes=extras.hashes, compressed=extras.compressed) for file in files]


def _replace_metadata(model: onnx.ModelProto, text: str) -> None:
    others = [entry for entry in model.metadata_props if entry.key != METADATA_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(others)
    model.metadata_props.add(key=METADATA_KEY, value=text)
