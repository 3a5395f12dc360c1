"""Reports of encodings as plain text, for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from onnx_tools.encodings.report import EncodedWeight, EncodeReport, EncodingsReport, WeightEncodings
from onnx_tools.plain import plain_value
from onnx_tools.renderers.text import ENCODING_TITLES, count, encoding_rows, printable, shape

_MOST_LETTERS = 40


def as_plain(report: EncodeReport | EncodingsReport) -> dict[str, object]:
    """The report as JSON can hold it."""
    plain: dict[str, object] = plain_value(report)
    return plain


def encode_text(report: EncodeReport) -> str:
    """What became of each weight, the files and the checks."""
    lines = [f"{printable(report.input)} -> {printable(report.output)}", ""]
    lines += table(("Weight", "Shape", "Type", "Stored", "As", "Bytes", ""), map(_encoded_row, report.weights))
    before = sum(file.bytes_before for file in report.files)
    after = sum(file.bytes_after or 0 for file in report.files)
    lines += ["", f"Bytes of the files: {count(before)} -> {count(after)} ({report.size_ratio:.1%})"]
    if report.load_ratio is not None:
        lines.append(f"Time to make a session: {report.load_ratio:.2f} times that of the input")
    checks = report.verification.checks if report.verification else ()
    lines += [f"{check.name}: {check.outcome}: {printable(check.detail)}" for check in checks]
    return "\n".join([*lines, *(f"Warning: {printable(text)}" for text in report.warnings)]) + "\n"


def encodings_text(report: EncodingsReport) -> str:
    """What each encoding would take."""
    names = list(dict.fromkeys(size.encoding for weight in report.weights for size in weight.sizes))
    header = ("Weight", "Shape", "Type", "Stored", "dense", *names, "Smallest")
    weights = table(header, (_sizes_row(weight, names) for weight in report.weights))
    models = table(ENCODING_TITLES, encoding_rows(report.models))
    return "\n".join([printable(report.input), "", *weights, "", *models]) + "\n"


def _encoded_row(weight: EncodedWeight) -> tuple[str, ...]:
    before = f"{count(weight.bytes_before)} -> " if weight.encoded else ""
    return (
        named(weight.name),
        shape(weight.shape),
        weight.dtype,
        count(weight.stored),
        weight.encoding,
        before + count(weight.bytes_after),
        printable(weight.reason),
    )


def _sizes_row(weight: WeightEncodings, names: Sequence[str]) -> tuple[str, ...]:
    sizes = {size.encoding: size.bytes for size in weight.sizes}
    return (
        named(weight.name),
        shape(weight.shape),
        weight.dtype,
        count(weight.stored),
        count(weight.dense),
        *(count(sizes.get(name)) for name in names),
        printable(weight.reason) or weight.smallest,
    )


def named(name: str) -> str:
    """A name, cut to what a table has room for."""
    text = printable(name)
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 3]}..."


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Lines of columns as wide as their widest cell."""
    cells = [header, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
