"""What the commands `encode`, `decode` and `inspect --encodings` do, and what is shown of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx_tools.encodings.comparison import compare_encodings
from onnx_tools.encodings.decode import decode_file
from onnx_tools.encodings.encode import encode_file
from onnx_tools.encodings.report import EncodeReport
from onnx_tools.encodings.text import as_plain, encode_text, encodings_text
from onnx_tools.renderers.json_renderer import dumps
from onnx_tools.terminal import Tell, complain, progress, results


@dataclass(frozen=True)
class Shown:
    """How results are shown."""

    quiet: bool
    as_json: bool


@dataclass(frozen=True)
class EncodeJob:
    """What `encode` is asked for; see `encode_file`."""

    encoding: str
    prefer: str
    least_saving: float
    verify: bool
    compressed: bool
    load_time: bool

    def run(self, model: Path, output: Path, force: bool, tell: Tell | None) -> EncodeReport:
        """Encode one model."""
        return encode_file(
            model,
            output,
            encoding=self.encoding,
            prefer="load" if self.prefer == "load" else "size",
            least_saving=self.least_saving,
            force=force,
            verify=self.verify,
            compressed=self.compressed,
            load_time=self.load_time,
            progress=tell,
        )


def encode_model(model: Path, output: Path, job: EncodeJob, shown: Shown, *, force: bool) -> int:
    """Encode a model; return the exit code."""
    return _one(model, shown, lambda tell: job.run(model, output, force, tell))


def decode_model(model: Path, output: Path, shown: Shown, *, force: bool) -> int:
    """Decode a model; return the exit code."""
    return _one(model, shown, lambda tell: decode_file(model, output, force=force, progress=tell))


def show_encodings(models: Sequence[Path], shown: Shown, *, load_time: bool) -> int:
    """Show what encodings would make of models; return the exit code."""
    reports = []
    for model in models:
        with progress(model.name, wanted=not shown.quiet) as tell:
            reports.append(compare_encodings(model, load_time=load_time, progress=tell))
    with results():
        if shown.as_json:
            plain = [as_plain(report) for report in reports]
            sys.stdout.write(dumps(plain if len(plain) > 1 else plain[0]))
        elif not shown.quiet:
            sys.stdout.write("\n".join(map(encodings_text, reports)))
    return 0


def _one(model: Path, shown: Shown, run: Callable[[Tell | None], EncodeReport]) -> int:
    with progress(model.name, wanted=not shown.quiet) as tell:
        report = run(tell)
    with results():
        if shown.as_json:
            sys.stdout.write(dumps(as_plain(report)))
        elif not shown.quiet:
            sys.stdout.write(encode_text(report))
    if shown.quiet or shown.as_json:
        for warning in report.warnings:
            complain("warning", warning)
    return 0
