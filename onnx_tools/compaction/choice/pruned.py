"""Pruning whole channels and removing them in one step: one output, one commit, one report."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from onnx_tools.compact_report import CompactReport
from onnx_tools.compaction.account import NOTHING_REMOVED
from onnx_tools.compaction.checking import Checks
from onnx_tools.compaction.compact import compact_file
from onnx_tools.compaction.mapping.shapes import InputShapes
from onnx_tools.compaction.progress import Progress
from onnx_tools.conditions import Condition
from onnx_tools.model_copy import first_step
from onnx_tools.model_file import ModelFile
from onnx_tools.report import FileReport, PruneReport, VerificationReport
from onnx_tools.rewrite import Extras


@dataclass(frozen=True)
class PrunedCompaction:
    """How pruned models are compacted; see `compact_file`."""

    constants: str = "keep"
    input_shapes: InputShapes = field(default_factory=dict)
    checks: Checks = field(default_factory=Checks)
    latency: bool = False
    conditions: tuple[Condition, ...] = ()

    @contextmanager
    def written(
        self,
        model: pathlib.Path,
        output: pathlib.Path,
        prune: Callable[[pathlib.Path], PruneReport],
        *,
        force: bool,
        progress: Progress | None = None,
    ) -> Iterator[tuple[CompactReport, pathlib.Path]]:
        """Let `prune` write a temporary model beside `output`, and write that to `output` without what is zero.

        Gives the report, and the temporary model, which lies there while the block runs: `output` is written then. The
        report is that of the compaction, with the files as they were before the pruning, and the report of that.
        `progress`: of the compaction.
        Raises what either raises; nothing was written then.
        """
        with first_step(ModelFile.open(model), output, force=force) as masked:
            pruned = prune(masked)
            yield self._compacted(pruned, masked, output, force, progress), masked

    def foreseen(
        self, model: pathlib.Path, prune: Callable[[pathlib.Path], PruneReport], progress: Progress | None = None
    ) -> CompactReport:
        """What `written` would report, without an output: `prune` writes into a folder for temporary files."""
        with tempfile.TemporaryDirectory(prefix="oxiprune-") as folder:
            masked = pathlib.Path(folder) / model.name
            return self._compacted(replace(prune(masked), dry_run=True), masked, None, False, progress)

    def _compacted(
        self,
        pruned: PruneReport,
        masked: pathlib.Path,
        output: pathlib.Path | None,
        force: bool,
        progress: Progress | None,
    ) -> CompactReport:
        told = pruned.files[0]
        compacted = compact_file(
            masked,
            output,
            input_shapes=self.input_shapes,
            constants=self.constants,
            force=force,
            dry_run=output is None,
            verify=self.checks,
            latency=self.latency,
            conditions=self.conditions,
            extras=Extras(hashes=told.sha256_before is not None, compressed=told.compressed_before is not None),
            progress=progress,
        )
        return _joined(pruned, compacted)


def _joined(pruned: PruneReport, compacted: CompactReport) -> CompactReport:
    pairs = zip(pruned.files, compacted.files, strict=True)
    return replace(
        compacted,
        input=pruned.input,
        files=tuple(_file(before, after) for before, after in pairs),
        warnings=(*pruned.warnings, *_told(pruned, compacted)),
        conditions=(*pruned.conditions, *compacted.conditions),
        verification=_both(pruned.verification, compacted.verification),
        pruning=replace(pruned, output=None, files=(), payoff="", conditions=()),
    )


def _told(pruned: PruneReport, compacted: CompactReport) -> tuple[str, ...]:
    """The warnings of the compaction. That it removed nothing goes without saying where nothing was pruned.

    Else its output equals what was pruned, not what was given.
    """
    if compacted.changed:
        return compacted.warnings
    return (*((NOTHING_REMOVED,) if pruned.totals.newly_zero else ()), *compacted.warnings[1:])


def _both(pruned: VerificationReport | None, compacted: VerificationReport | None) -> VerificationReport:
    """The checks of both steps, each under the name of its step."""
    steps = [(step, report) for step, report in (("pruning", pruned), ("removal", compacted)) if report is not None]
    checks = (replace(check, name=f"{step}: {check.name}") for step, report in steps for check in report.checks)
    drifts = (replace(drift, output=f"{drift.output} ({step})") for step, report in steps for drift in report.drifts)
    return VerificationReport(tuple(checks), tuple(drifts))


def _file(before: FileReport, after: FileReport) -> FileReport:
    """A file before the pruning, and after the compaction."""
    return replace(
        after,
        name_before=before.name_before,
        bytes_before=before.bytes_before,
        sha256_before=before.sha256_before,
        compressed_before=before.compressed_before,
    )
