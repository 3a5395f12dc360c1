"""What the commands do: several models, their outputs and reports, and what is shown of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_tools import wire
from onnx_tools.compact_report import AnyReport, CompactReport
from onnx_tools.compaction.checking import Checks as CompactionChecks
from onnx_tools.compaction.choice.config import ChannelConfig
from onnx_tools.compaction.choice.pruned import PrunedCompaction
from onnx_tools.compaction.choice.pruning import prune_channels
from onnx_tools.compaction.mapping.shapes import InputShapes
from onnx_tools.compaction.progress import parts
from onnx_tools.conditions import Condition, outcomes_of
from onnx_tools.encodings.pruned import PrunedEncoding
from onnx_tools.errors import ConditionMet, InvalidPolicy, NothingSelected, VerificationFailed, WriteFailed
from onnx_tools.mask_file import Masks, save_masks
from onnx_tools.masks import masks_of
from onnx_tools.model_file import ModelFile
from onnx_tools.naming import expand, expanded, is_folder, target_of
from onnx_tools.plain import plain_value, safe_text
from onnx_tools.policy import Policy
from onnx_tools.policy_file import read_policy
from onnx_tools.preflight import check_outputs, check_reports, folders_of
from onnx_tools.renderers import json_renderer, renderer_for, write_report
from onnx_tools.renderers.github_summary import append_summary
from onnx_tools.renderers.text import condition_line, printable
from onnx_tools.report import (
    ConditionOutcome,
    FileReport,
    ModelEncoding,
    PruneReport,
    Report,
    VerificationReport,
    to_dict,
)
from onnx_tools.rewrite import Extras, Progress, check_output, prune_file
from onnx_tools.search_report import SearchReport
from onnx_tools.terminal import always_shown, complain, console, describe, one_line, progress, results
from onnx_tools.weight_selection import Selection
from oxiprune_gpu import InvalidOption, PruningError

if TYPE_CHECKING:
    from onnx_tools.calibration.methods import DataMethod


@dataclass(frozen=True)
class Checks:
    """Checks beyond the comparison of bytes."""

    data: Path | None
    max_drift: float | None
    seed: int
    runtime: bool = True
    masks: Path | None = None

    def run(self, before: Path, after: Path, allowed: Collection[wire.Path] | None = None) -> VerificationReport:
        """Verify the model at `after`, made from the one at `before`; `allowed`: as in `verify_files`."""
        from onnx_tools.verify import verify_files

        return verify_files(
            before,
            after,
            allowed,
            data=self.data,
            runtime=self.runtime,
            max_drift=self.max_drift,
            seed=self.seed,
            masks=self.masks,
        )


class _MasksNotSaved(WriteFailed):
    """A model was pruned and written, its masks were not; `report` tells of the model."""

    def __init__(self, message: str, report: PruneReport | CompactReport) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class Encodings:
    """What is asked about the encodings of a model. `load_time`: also how long each takes to load."""

    load_time: bool

    def of(self, model: Path) -> tuple[ModelEncoding, ...]:
        """What the files of a model take in each."""
        from onnx_tools.encodings.comparison import model_encodings

        return model_encodings(model, load_time=self.load_time)


@dataclass(frozen=True)
class PruneJob:
    """What is done to each model. `output`: a file, a folder, or a pattern; None: in place. `encoding`: None: dense.

    `inputs`: the files that are read besides the models, which nothing may be written over. `method`: looks at data,
    whose name may hold {stem} and {parent}.
    """

    output: str | None
    how: Policy | Masks | ChannelConfig
    selection: Selection
    gradients: Mapping[str, Any] | None
    checks: Checks | None
    force: bool
    delete_old_data: bool
    dry_run: bool
    backend: str = "auto"
    encoding: PrunedEncoding | PrunedCompaction | None = None
    conditions: tuple[Condition, ...] = ()
    save_masks: str | None = None
    inputs: tuple[Path, ...] = ()
    input_shapes: InputShapes = field(default_factory=dict)
    method: DataMethod | None = None
    compared: Encodings | None = None

    def target(self, model: Path) -> Path:
        """The file that is written for `model`."""
        return model if self.output is None else target_of(self.output, model)

    @property
    def also_written(self) -> tuple[tuple[str, str], ...]:
        """The options that write files besides the model, with their patterns."""
        return (("--save-masks", self.save_masks),) if self.save_masks else ()

    def run(self, model: Path, extras: Extras, tell: Progress | None) -> AnyReport:
        """Prune `model`, and encode or compact it if asked to. A condition that is met leaves a report only."""
        try:
            report = self._run(model, extras, tell)
            if self.compared is None or self.dry_run or not isinstance(report, PruneReport) or report.refused:
                return report
            return replace(report, encodings=self.compared.of(self.target(model)))
        except ConditionMet as refusal:
            refused: AnyReport = refusal.report
            return refused

    def _run(self, model: Path, extras: Extras, tell: Progress | None) -> AnyReport:
        if self.dry_run and isinstance(self.encoding, PrunedCompaction):
            first, second = parts(tell, 2)
            prune = partial(replace(self, dry_run=False)._prune, model, extras=extras, tell=first)
            return self.encoding.foreseen(model, prune, second)
        if self.encoding is None or self.output is None or self.dry_run:
            report = self._prune(model, None if self.output is None else self.target(model), extras, tell)
            self._save_masks(model, model if self.output is None else self.target(model), report)
            return report
        first, second = parts(tell, 2)
        prune = partial(self._prune, model, extras=extras, tell=first)
        written = self.encoding.written(model, self.target(model), prune, force=self.force, progress=second)
        with written as (joined, dense):
            self._save_masks(model, dense, joined)
        return joined

    def _prune(self, model: Path, output: Path | None, extras: Extras, tell: Progress | None) -> PruneReport:
        method, tell = self._method(model), tell if self.method is None else always_shown(tell)
        if method is not None and not self.dry_run:
            check_output(ModelFile.open(model), output, force=self.force, delete_old_data=self.delete_old_data)
        prune: Callable[..., PruneReport]
        if isinstance(self.how, ChannelConfig):
            refit = None if method is None else method.new_values
            prune = partial(prune_channels, config=self.how, input_shapes=self.input_shapes, refit=refit)
        else:
            prune = partial(_prune_by, self.how, method)
        return prune(
            model,
            output,
            selection=self.selection,
            gradients=self.gradients,
            force=self.force,
            delete_old_data=self.delete_old_data,
            dry_run=self.dry_run,
            backend=self.backend,
            verify=self.checks.run if self.checks else None,
            conditions=self.conditions,
            extras=extras,
            progress=tell,
        )

    def _method(self, model: Path) -> DataMethod | None:
        """The method with the data for `model`."""
        if self.method is None or not isinstance(self.method.data, str):
            return self.method
        return replace(self.method, data=expanded(self.method.data, model))

    def _save_masks(self, model: Path, pruned: Path, report: PruneReport | CompactReport) -> None:
        """Save the masks of the model at `pruned`, made from `model`; the output is written by now."""
        told = report if isinstance(report, PruneReport) else report.pruning
        if self.save_masks is None or told is None:
            return
        try:
            names = [weight.name for weight in told.weights]
            save_masks(expand(self.save_masks, model), masks_of(pruned, names))
        except Exception as error:
            raise _MasksNotSaved(but_written(error, report), report) from error

    def note(self, report: AnyReport) -> str:
        """What the one at the screen must know besides the report: old data files that are left over."""
        if not isinstance(report, PruneReport) or report.output is None:
            return ""
        if self.output is not None or self.delete_old_data:
            return ""
        return left_over(report.files)


def _prune_by(
    how: Policy | Masks,
    method: DataMethod | None,
    model: Path,
    output: Path | None,
    *,
    selection: Selection,
    gradients: Mapping[str, Any] | None,
    progress: Progress | None,
    **options: Any,
) -> PruneReport:
    """Prune elements and units, by what data says where a method looks at it. Other arguments as in `prune_file`."""
    prune = partial(prune_file, model, output, selection=selection, gradients=gradients, **options)
    if method is None:
        return prune(config=how, progress=progress)
    looking, pruning = parts(progress, 2)
    return prune(config=method.new_values(model, how, selection, gradients, looking), progress=pruning)


def left_over(files: Sequence[FileReport]) -> str:
    """What is said of data files that a model replaced in place uses no more; "" if there are none."""
    old = {file.name_before for file in files if file.role == "data"}
    left = sorted(old - {file.name_after for file in files})
    if not left:
        return ""
    stay, it = ("stays", "it") if len(left) == 1 else ("stay", "them")
    return f"The old data {stay}: {', '.join(left)}. This model no longer uses {it}; --delete-old-data deletes {it}"


@dataclass(frozen=True)
class View:
    """How results are shown.

    `reports`: files to write, `{stem}` and `{parent}` in their names; `summary`: the file of --github-summary.
    """

    reports: tuple[str, ...]
    quiet: bool
    as_json: bool
    compressed: bool
    summary: Path | None = None

    @property
    def extras(self) -> Extras:
        """What the reports hold: statistics and hashes only where a report is kept."""
        kept = bool(self.reports) or self.as_json or self.summary is not None
        pictures = any(renderer_for(name).pictures for name in self.reports)
        return Extras(kept, bool(self.reports), self.compressed, pictures)


def make_policy(file: Path | None, settings: Mapping[str, Any]) -> Policy:
    """The policy for options of the command line, None where one was not given, and for a policy file."""
    given = {name: value for name, value in settings.items() if value is not None}
    if str(given.get("metric")).startswith("taylor:"):
        given["metric"] = "taylor"
    try:
        if str(given.get("allocation")).startswith("sensitivity:"):
            from onnx_tools.search.allocating import policy_by_curves

            return policy_by_curves(given["allocation"], {**given, "policy": file} if file else given)
        policy = Policy(**given) if file is None else read_policy(file, given)
        policy.check()
    except InvalidPolicy:
        raise
    except PruningError as error:
        raise InvalidOption(f"{error}. `oxiprune prune --help` shows the options") from None
    return policy


def make_encoding(encoding: str, prefer: str) -> PrunedEncoding | PrunedCompaction | None:
    """The encoding for texts of the command line; None for "dense"."""
    return None if encoding == "dense" else PrunedEncoding(encoding, "load" if prefer == "load" else "size")


def make_compaction(
    constants: str,
    input_shapes: InputShapes,
    checks: Checks | None,
    latency: bool,
    conditions: tuple[Condition, ...],
) -> PrunedEncoding | PrunedCompaction | None:
    """What --compact asks for; `checks`: of the pruning."""
    own = CompactionChecks() if checks is None else CompactionChecks(checks.data, None, checks.seed)
    return PrunedCompaction(constants, input_shapes, own, latency, conditions)


def read_masks(file: Path) -> Masks:
    """The masks that `--masks` names."""
    return Masks.of(file)


def gradients_file(metric: str) -> Path | None:
    """The file that the metric `taylor:FILE.npz` names; None for other metrics."""
    name, _, file = metric.partition(":")
    return Path(file) if name == "taylor" and file else None


def read_gradients(metric: str) -> Mapping[str, Any] | None:
    """The gradients that the metric `taylor:FILE.npz` names; None for other metrics."""
    file = gradients_file(metric)
    if file is None:
        return None
    try:
        with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except OSError as error:
        raise InvalidOption(f"--metric {metric}: {file} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # numpy, zipfile and zlib each raise their own for damaged files
        raise InvalidOption(f"--metric {metric}: {file} is no .npz of arrays by name of weight: {error}") from None


def prune_models(models: Sequence[Path], job: PruneJob, view: View) -> int:
    """Prune each model into its output; return the exit code."""
    targets = [] if job.dry_run else [job.target(model) for model in models]
    in_place = job.output is None
    check_outputs(models, targets, in_place=in_place, delete_old_data=job.delete_old_data, inputs=job.inputs)
    with folders_of(targets if is_folder(job.output or "") else []):
        check_reports(models, targets, view.reports, view.summary, others=job.also_written, inputs=job.inputs)
        if job.dry_run and job.checks:
            complain("warning", "--dry-run: no model is written, so --verify has nothing to check")
        return for_each([(model, partial(job.run, model, view.extras)) for model in models], view, job.note)


def inspect_models(
    models: Sequence[Path],
    view: View,
    conditions: Sequence[Condition] = (),
    *,
    payoff: bool = False,
    encodings: Encodings | None = None,
) -> int:
    """Show each model, with `payoff` also what its zeros gain; return the exit code, 1 if a condition is met."""
    from onnx_tools.inspection import inspect_file

    def inspect(model: Path, tell: Progress | None) -> Report:
        extras = view.extras
        report = inspect_file(
            model,
            hashes=extras.hashes,
            compressed=extras.compressed,
            pictures=extras.pictures,
            payoff=payoff,
            progress=tell,
        )
        found = () if encodings is None else encodings.of(model)
        return replace(report, conditions=outcomes_of(conditions, report), encodings=found)

    check_reports(models, [], view.reports, view.summary)
    return for_each([(model, partial(inspect, model)) for model in models], view)


def compare_models(before: Path, after: Path, view: View, conditions: Sequence[Condition] = ()) -> int:
    """Show what changed from one model to another; return the exit code, 1 if a condition is met."""
    from onnx_tools.comparison import compare_files

    def compare(tell: Progress | None) -> AnyReport:
        extras = view.extras
        report = compare_files(before, after, hashes=extras.hashes, compressed=extras.compressed, progress=tell)
        return replace(report, conditions=outcomes_of(conditions, report))

    check_reports([after], [before], view.reports, view.summary)
    return for_each([(after, compare)], view)


def verify_models(
    before: Path,
    after: Path,
    checks: Checks,
    conditions: Sequence[Condition] = (),
    *,
    quiet: bool,
    as_json: bool,
) -> int:
    """Verify one model against another; return the exit code."""
    report = checks.run(before, after)
    outcomes = outcomes_of(conditions, report)
    with results():
        if as_json:
            models = {"before": safe_text(str(before)), "after": safe_text(str(after))}
            shown = {"schema_version": 1, "command": "verify", **models, **to_dict(report)}
            shown |= {"conditions": plain_value(outcomes)} if outcomes else {}
            sys.stdout.write(json_renderer.dumps(shown))
        elif not quiet:
            from onnx_tools.renderers.table_renderer import print_verification

            print_verification(report, console())
    for check in report.checks:
        if check.outcome == "failed" or (check.outcome == "warning" and (quiet or as_json)):
            complain("error" if check.outcome == "failed" else "warning", f"{check.name}: {check.detail}")
    return 1 if _complain_of_conditions(outcomes) or report.failed else 0


def _complain_of_conditions(outcomes: Iterable[ConditionOutcome], name: str = "") -> bool:
    """Tell of each condition that is met, a line each; return whether one is."""
    met = [outcome for outcome in outcomes if outcome.met]
    for outcome in met:
        complain("error", f"{name}: {condition_line(outcome)}" if name else condition_line(outcome))
    return bool(met)


def exit_code(error: Exception) -> int:
    """1 when nothing was selected or a check failed, 2 for everything else."""
    return 1 if isinstance(error, NothingSelected | VerificationFailed | ConditionMet) else 2


def message(error: Exception) -> str:
    """What to tell about an error."""
    return str(error) if isinstance(error, PruningError) else describe(error)


def for_each(
    jobs: Sequence[tuple[Path, Callable[[Progress | None], AnyReport]]],
    view: View,
    note: Callable[[AnyReport], str] = lambda _: "",
) -> int:
    """Run every job, also after one has failed; show and keep its report; return the worst exit code."""
    codes: list[int] = [0]
    shown: list[dict[str, Any]] = []
    for model, job in jobs:
        entry = {"argument": safe_text(str(model)), "input": safe_text(model.name)}
        shown.append(entry)
        with _noted(model if len(jobs) > 1 else None, codes, entry):
            try:
                with progress(model.name, wanted=not view.quiet) as tell:
                    report = job(tell)
            except _MasksNotSaved as error:
                report = error.report
                entry["error"] = _tell_of(error, model if len(jobs) > 1 else None, codes)
            for pattern in view.reports:
                with _noted(None, codes):
                    _keep(report, expand(pattern, model))
            if view.summary is not None:
                with _noted(None, codes):
                    append_summary(report, view.summary)
            entry |= to_dict(report) if view.as_json else {}
            name = str(model) if len(jobs) > 1 else ""
            _show(report, view, name, note(report))
            codes.append(1 if _complain_of_conditions(report.conditions, name) else 0)
    with _noted(None, codes), results():
        if view.as_json:
            sys.stdout.write(json_renderer.dumps(shown if len(jobs) > 1 else shown[0]))
    return max(codes)


@contextmanager
def _noted(model: Path | None, codes: list[int], entry: dict[str, Any] | None = None) -> Iterator[None]:
    """Tell of an error, which model it is about, note its exit code, in `entry` its text too, and go on."""
    try:
        yield
    except Exception as error:
        if os.environ.get("OXIPRUNE_DEBUG"):
            raise
        text = _tell_of(error, model, codes)
        if entry is not None:
            entry["error"] = text


def _tell_of(error: Exception, model: Path | None, codes: list[int]) -> str:
    """Tell of an error and note its exit code; return what it says."""
    text = message(error)
    complain("error", f"{model}: {text}" if model is not None and str(model) not in text else text)
    codes.append(exit_code(error))
    return one_line(text)


def _keep(report: AnyReport, name: Path) -> None:
    """Write a report file; if that fails, say that the model stands."""
    try:
        write_report(report, name)
    except WriteFailed as error:
        if isinstance(report, PruneReport | CompactReport | SearchReport) and report.output is not None:
            raise WriteFailed(but_written(error, report)) from None
        raise


def but_written(error: Exception, report: PruneReport | CompactReport | SearchReport) -> str:
    """What is told where a model was written, and what should lie beside it was not."""
    return f"{message(error)}. The model itself, {report.output}, is written"


def _show(report: AnyReport, view: View, name: str, note: str) -> None:
    if not view.quiet and not view.as_json:
        from onnx_tools.renderers.table_renderer import print_report

        with results():
            if name:
                console().print(f"\n== {printable(name)}", markup=False)
            print_report(report, console())
            if note:
                console().print(f"\n{printable(note)}", markup=False, soft_wrap=True)
        return
    for warning in (*report.warnings, *_check_warnings(report)):
        complain("warning", f"{name}: {warning}" if name else warning)


def _check_warnings(report: AnyReport) -> Iterator[str]:
    """What a run without a table tells of its checks: those that could not be made. One that fails is an error."""
    kept = report.verification if isinstance(report, PruneReport | CompactReport) else None
    checks = kept.checks if kept is not None else ()
    yield from (f"{check.name}: {check.detail}" for check in checks if check.outcome == "warning")
