"""A comparison of two models as people read it, for the renderers that show text."""

from __future__ import annotations

from onnx_tools.renderers import text
from onnx_tools.report import ComparedTensor, CompareReport, format_fraction

WEIGHT_TITLES = (
    *("Weight", "Change", "Sparsity before", "Sparsity after", "Newly zero", "Newly nonzero", "Other changes"),
    *("Largest", "Operator", "Shape", "Type"),
)
NUMBERS = range(2, 8)
"""The columns that hold numbers."""


def headline(report: CompareReport) -> str:
    """The two files."""
    return f"{text.printable(report.before)} -> {text.printable(report.after)}"


def weight_cells(tensor: ComparedTensor) -> tuple[str, ...]:
    """A row under `WEIGHT_TITLES`."""
    return (
        text.printable(tensor.name),
        tensor.verdict,
        _sparsity(tensor.zeros_before, tensor),
        _sparsity(tensor.zeros_after, tensor),
        text.count(tensor.newly_zero),
        text.count(tensor.newly_nonzero),
        text.count(tensor.changed),
        text.number(tensor.max_abs) if tensor.changed else text.NONE,
        ", ".join(map(text.printable, tensor.op_types)) or text.NONE,
        _then(_shape(tensor.shape_before), _shape(tensor.shape_after)),
        _then(tensor.dtype_before or text.NONE, tensor.dtype_after or text.NONE),
    )


def summary_rows(report: CompareReport) -> list[tuple[str, str]]:
    """The sums, one a row."""
    totals = report.totals
    before = format_fraction(totals.zeros_before, totals.parameters_before)
    after = format_fraction(totals.zeros_after, totals.parameters_after)
    differing = totals.weights - totals.equal
    return [
        ("Weights that differ", f"{text.count(differing)} of {text.count(totals.weights)}"),
        ("Weights only before, only after", f"{text.count(totals.only_before)}, {text.count(totals.only_after)}"),
        ("Sparsity of the weights", f"{before} -> {after}"),
        ("Newly zero", text.count(totals.newly_zero)),
        ("Newly nonzero", text.count(totals.newly_nonzero)),
        ("Other changes", text.count(totals.changed)),
        ("Largest other change", text.number(totals.max_abs) if totals.changed else text.NONE),
        ("Other tensors that differ", text.count(totals.others_changed)),
        ("Parameters of the weights", text.change(totals.parameters_before, totals.parameters_after)),
        ("Bytes of the files", text.change(totals.bytes_before, totals.bytes_after)),
    ]


def difference_rows(report: CompareReport) -> list[tuple[str, str, str]]:
    """What else differs: its name, before, after."""
    return [(text.printable(entry.what), _or_none(entry.before), _or_none(entry.after)) for entry in report.metadata]


def file_rows(report: CompareReport) -> list[tuple[str, str, str, str, str, str]]:
    """Which model, role, name, bytes, compressed, SHA-256."""
    return [
        (
            *(file.model, file.role, text.printable(file.name), text.count(file.bytes)),
            *(text.count(file.compressed), file.sha256 or text.NONE),
        )
        for file in report.files
    ]


def _sparsity(zeros: int | None, tensor: ComparedTensor) -> str:
    return text.NONE if zeros is None else format_fraction(zeros, tensor.parameters)


def _or_none(given: str | None) -> str:
    return text.NONE if given is None else text.printable(given)


def _shape(shape: tuple[int, ...] | None) -> str:
    return text.NONE if shape is None else text.shape(shape)


def _then(before: str, after: str) -> str:
    return before if before == after else f"{before} -> {after}"
