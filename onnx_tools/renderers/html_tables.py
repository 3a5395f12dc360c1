"""The tables of an HTML report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnx_tools.renderers import comparison_text, text
from onnx_tools.report import (
    ComparedTensor,
    ConditionOutcome,
    FileReport,
    InspectedWeight,
    PayoffReport,
    VerificationReport,
    WeightReport,
    format_fraction,
    fraction,
)

_COMPARED = comparison_text.WEIGHT_TITLES
ARROW = "\u2192"


@dataclass(frozen=True)
class Cell:
    """A cell of a table. `key`: what it is sorted by instead of its text; `share`: of a bar, 0 to 1.

    `tone`: of a text that is marked, "good", "bad", "warn" or "plain"; "" for others.
    """

    text: str
    key: float | None = None
    share: float | None = None
    tone: str = ""


@dataclass(frozen=True)
class Column:
    """A column: its title, and whether it holds numbers."""

    title: str
    number: bool = False


@dataclass(frozen=True)
class Table:
    """Columns and rows of cells."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


_IDENTITY = (Column("Operator"), Column("Shape"), Column("Type"), Column("Parameters", number=True))


def pruned_table(weights: Sequence[WeightReport]) -> Table:
    """The weights that were pruned."""
    how = text.pruned_how(weights)
    refitted = how.pop(text.REFITTED, None)
    on_gpu = any(weight.backend == "cuda" for weight in weights)
    columns = (Column("Weight"), *_numbers("Sparsity", "Before", "Target"), *map(Column, how), *_IDENTITY)
    counts = _numbers("Nonzero before", "Nonzero after", *([] if refitted is None else [text.REFITTED]))
    rows = tuple(
        (
            Cell(text.printable(weight.name)),
            _sparsity(weight.zeros_after, weight.parameters),
            Cell(format_fraction(weight.zeros_before, weight.parameters), weight.sparsity_before),
            Cell(text.target(weight.target_sparsity), weight.target_sparsity),
            *(Cell(of(weight)) for of in how.values()),
            *_identity(weight),
            _count(weight.nonzero_before),
            _count(weight.nonzero_after),
            *([] if refitted is None else [_count(weight.refitted)]),
            *([Cell(weight.backend)] if on_gpu else []),
        )
        for weight in weights
    )
    return Table((*columns, *counts, *([Column("Backend")] if on_gpu else [])), rows)


def inspected_table(weights: Sequence[InspectedWeight]) -> Table:
    """The weights that were looked at."""
    units = _numbers("2:4", "Zero rows", "Zero columns", "Zeros")
    rows = tuple(
        (
            Cell(text.printable(weight.name)),
            _sparsity(weight.zeros, weight.parameters),
            Cell(text.two_of_four(weight), fraction(weight.satisfying_2_4 or 0, weight.groups_2_4 or 0)),
            _part(weight.zero_rows, weight.rows),
            _part(weight.zero_columns, weight.columns),
            _count(weight.zeros),
            *_identity(weight),
        )
        for weight in weights
    )
    return Table((Column("Weight"), *_numbers("Sparsity"), *units, *_IDENTITY), rows)


def _identity(weight: WeightReport | InspectedWeight) -> tuple[Cell, ...]:
    op_types = ", ".join(map(text.printable, weight.op_types))
    op_types += " (depthwise)" if isinstance(weight, InspectedWeight) and weight.depthwise else ""
    shape = Cell(text.shape(weight.shape), weight.parameters)
    return Cell(op_types), shape, Cell(weight.dtype), _count(weight.parameters)


def _numbers(*titles: str) -> tuple[Column, ...]:
    return tuple(Column(title, number=True) for title in titles)


def _part(part: int | None, total: int | None) -> Cell:
    return Cell(text.part_of(part, total), fraction(part or 0, total or 0))


def _count(number: int) -> Cell:
    return Cell(text.count(number), number)


def _sparsity(zeros: int, total: int) -> Cell:
    share = fraction(zeros, total)
    return Cell(format_fraction(zeros, total), share, share)


def files_table(files: Sequence[FileReport]) -> Table:
    """The files of a model."""
    compressed = any(file.compressed_before is not None for file in files)
    columns = (Column("File"), *_numbers("Bytes", *(["Compressed (zstd-3)"] if compressed else [])))
    hashes = [(file.sha256_before, file.sha256_after) for file in files]
    hashed = any(before for before, _ in hashes)
    rows = tuple(
        (
            Cell(_arrow(text.file_name(file))),
            Cell(_arrow(text.change(file.bytes_before, file.bytes_after))),
            *([Cell(_arrow(text.change(file.compressed_before, file.compressed_after)))] if compressed else []),
            *([Cell(file.sha256_before or text.NONE), Cell(file.sha256_after or text.NONE)] if hashed else []),
        )
        for file in files
    )
    return Table((*columns, *((Column("SHA-256 before"), Column("SHA-256 after")) if hashed else ())), rows)


def _arrow(change: str) -> str:
    return change.replace(" -> ", f" {ARROW} ")


def checks_table(verification: VerificationReport) -> Table:
    """The checks and what came out."""
    tones = {"passed": "good", "failed": "bad", "warning": "warn"}
    rows = tuple(
        (Cell(text.printable(check.name)), Cell(check.outcome, tone=tones.get(check.outcome, "plain")), Cell(detail))
        for check in verification.checks
        for detail in [text.printable(check.detail)]
    )
    return Table((Column("Check"), Column("Outcome"), Column("Detail")), rows)


def payoff_table(reports: Sequence[PayoffReport]) -> Table:
    """What the zeros gain on each way of deploying."""
    tones = {"yes": "good", "partly": "warn", "no": "plain"}
    rows = tuple(
        (Cell(report.way), Cell(report.pays, tone=tones[report.pays]), Cell(text.printable(report.verdict)), *rule)
        for report in reports
        for rule in [(Cell(report.rule), Cell(" ".join(report.sources)))]
    )
    return Table(tuple(map(Column, ("Deployed with", "Pays", "Verdict", "Rule", "Sources"))), rows)


def conditions_table(outcomes: Sequence[ConditionOutcome]) -> Table:
    """The conditions that would fail the run, and what came out."""
    columns = (Column("Fails if"), Column("Outcome"), Column("Value", number=True), Column("Weight"))
    rows = []
    for outcome in outcomes:
        condition, met, value, weight = text.condition_cells(outcome)
        rows.append((Cell(condition), Cell(met, tone="bad" if outcome.met else "good"), Cell(value), Cell(weight)))
    return Table(columns, tuple(rows))


def compared_table(tensors: Sequence[ComparedTensor]) -> Table:
    """The tensors of two models."""
    columns = tuple(Column(title, place in comparison_text.NUMBERS) for place, title in enumerate(_COMPARED))
    return Table(columns, tuple(map(_compared_row, tensors)))


def _compared_row(tensor: ComparedTensor) -> tuple[Cell, ...]:
    name, verdict, before, after, *rest = comparison_text.weight_cells(tensor)
    counts = (tensor.newly_zero, tensor.newly_nonzero, tensor.changed, tensor.max_abs)
    keys = [0.0 if count is None else plain_key(count) for count in counts]
    return (
        Cell(name),
        Cell(verdict, tone="plain" if tensor.equal else "warn"),
        Cell(before, tensor.sparsity_before or 0.0),
        Cell(after, tensor.sparsity_after or 0.0, tensor.sparsity_after),
        *(Cell(shown, key) for shown, key in zip(rest[:4], keys, strict=True)),
        *(Cell(_arrow(shown)) for shown in rest[4:]),
    )


def plain_key(value: float) -> float:
    """A number that a script can sort by."""
    return min(float(value), 1e308)


def text_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of texts."""
    return Table(tuple(map(Column, titles)), tuple(tuple(map(Cell, row)) for row in rows))


def drifts_table(verification: VerificationReport) -> Table:
    """How far the outputs moved."""
    columns = (Column("Output"), *_numbers("Relative L2", "Largest difference", "Cosine"), Column("Note"))
    return Table(columns, tuple(tuple(map(Cell, text.drift_cells(drift))) for drift in verification.drifts))
