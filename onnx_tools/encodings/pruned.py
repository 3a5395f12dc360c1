"""Pruning and encoding in one step: one output, one commit, one report."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from onnx_tools.encodings.choice import Prefer
from onnx_tools.encodings.decode import Progress
from onnx_tools.encodings.encode import encode_file, refuse_encoded
from onnx_tools.encodings.report import EncodeReport
from onnx_tools.file_facts import facts_of
from onnx_tools.model_copy import first_step
from onnx_tools.model_file import ModelFile
from onnx_tools.payoff import with_verdict
from onnx_tools.report import FileReport, PruneReport, VerificationReport

_OWN_CHECKS = ("decoded", "folded")


@dataclass(frozen=True)
class PrunedEncoding:
    """The encoding that pruned models get: "packed" or "sparse", and what is preferred; see `encode_file`."""

    encoding: str
    prefer: Prefer = "size"

    @contextmanager
    def written(
        self,
        model: pathlib.Path,
        output: pathlib.Path,
        prune: Callable[[pathlib.Path], PruneReport],
        *,
        force: bool,
        progress: Progress | None = None,
    ) -> Iterator[tuple[PruneReport, pathlib.Path]]:
        """Let `prune` write a temporary model beside `output`, and encode that into `output`.

        Gives the report, and the temporary model, which lies there while the block runs: `output` is written then. The
        report is that of the pruning, with the files as they are now, and the checks and warnings of the encoding.
        `progress`: of the encoding.
        Raises what either raises, and `AlreadyEncoded`; nothing was written then.
        """
        source = ModelFile.open(model)
        refuse_encoded(source)
        with first_step(source, output, force=force) as dense:
            report = prune(dense)
            encoded = encode_file(
                dense, output, encoding=self.encoding, prefer=self.prefer, force=force, progress=progress
            )
            yield _joined(report, encoded, output), dense


def _joined(report: PruneReport, encoded: EncodeReport, output: pathlib.Path) -> PruneReport:
    checks = report.verification or VerificationReport()
    more = encoded.verification.checks if encoded.verification else ()
    own = tuple(check for check in more if check.name in _OWN_CHECKS)
    files = zip(report.files, encoded.files, strict=True)
    joined = replace(
        report,
        output=encoded.output,
        files=tuple(_file(pruned, packed, output.resolve().parent) for pruned, packed in files),
        verification=replace(checks, checks=(*checks.checks, *own)),
        warnings=(*report.warnings, *encoded.warnings),
    )
    return with_verdict(joined)


def _file(pruned: FileReport, packed: FileReport, folder: pathlib.Path) -> FileReport:
    """A file before the pruning, and after the encoding."""
    assert packed.name_after is not None
    hashes, compressed = pruned.sha256_before is not None, pruned.compressed_before is not None
    facts = facts_of(folder / packed.name_after, hashes=hashes, compressed=compressed)
    return replace(
        pruned,
        name_after=facts.name,
        bytes_after=facts.size,
        sha256_after=facts.sha256,
        compressed_after=facts.compressed,
    )
