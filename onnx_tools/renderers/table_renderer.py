"""Reports for the terminal. The only module that imports rich, which takes long: import it when it is used.

Names are shown as `Text`, never as rich's markup, and what can't be printed as escapes. Where the terminal is narrow,
columns that matter less are left out rather than all of them squeezed. Nothing but ASCII is drawn, no boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnx_tools.compact_report import AnyReport, ChannelNote, CompactReport
from onnx_tools.renderers import compaction_text, comparison_text, search_text, text
from onnx_tools.report import (
    Check,
    ComparedTensor,
    CompareReport,
    ConditionOutcome,
    FileReport,
    InspectedWeight,
    InspectReport,
    LeftAloneReport,
    OutputDrift,
    PayoffReport,
    PruneReport,
    VerificationReport,
    WeightReport,
    format_fraction,
    left_alone_groups,
)
from onnx_tools.search_report import SearchReport

_MOST_WEIGHTS = 40
_MOST_REASONS = 15
_NAME_WIDTH = 24
_GAP = 2
_STYLES = {"passed": "green", "failed": "bold red", "warning": "yellow", "skipped": "dim"}

_Item = TypeVar("_Item")


@dataclass
class _Column:
    """A column of a table. The highest `rank` is left out first, 0 stays. Words are set left and may wrap."""

    title: str
    rank: int = 0
    words: bool = False
    styles: dict[str, str] = field(default_factory=dict)
    cells: list[str] = field(default_factory=list)

    @property
    def width(self) -> int:
        widest = max(map(cell_len, [self.title, *self.cells]))
        return min(widest, _NAME_WIDTH) if self.words else widest


def print_report(report: AnyReport, console: Console) -> None:
    """Show a report: weights, what was left alone, totals, files, checks, warnings."""
    printer = _Printer(console)
    if isinstance(report, CompareReport):
        _print_comparison(report, printer)
        return
    if isinstance(report, CompactReport):
        _print_compaction(report, printer)
        return
    if isinstance(report, SearchReport):
        _print_search(report, printer)
        return
    printer.line(text.headline(report), "bold")
    if isinstance(report, PruneReport):
        if state := text.state(report):
            printer.line(state, "yellow")
        printer.table("", _pruned_columns(report.weights[:_MOST_WEIGHTS]))
    else:
        printer.table("", _inspected_columns(report.weights[:_MOST_WEIGHTS]))
    if len(report.weights) > _MOST_WEIGHTS:
        printer.line(f"... and {len(report.weights) - _MOST_WEIGHTS:,} more (use --report FILE for all)")
    _print_left_alone(report.left_alone, printer)
    printer.line("")
    printer.line(f"Total: {text.totals_line(report)}", "bold")
    if isinstance(report, PruneReport) and report.payoff:
        printer.line(f"Will it pay? {report.payoff}")
    printer.table("Files", _file_columns(report.files))
    columns = [_Column(title.lower(), words=not place) for place, title in enumerate(text.ENCODING_TITLES)]
    printer.table("Encodings", _filled(columns, text.encoding_rows(report.encodings), lambda row: row))
    if isinstance(report, PruneReport) and report.verification is not None:
        print_verification(report.verification, console)
    if isinstance(report, InspectReport):
        printer.table("Will it pay?", _payoff_columns(report.payoff))
    _print_outcomes(report, printer)


def _print_comparison(report: CompareReport, printer: _Printer) -> None:
    """What differs; equal weights are only counted."""
    printer.line(comparison_text.headline(report), "bold")
    weights = [weight for weight in report.weights if not weight.equal]
    printer.table("Weights that differ", _compared_columns(weights[:_MOST_WEIGHTS]))
    printer.table("Other tensors that differ", _compared_columns(report.others[:_MOST_WEIGHTS]))
    if max(len(weights), len(report.others)) > _MOST_WEIGHTS:
        printer.line(f"... of each {_MOST_WEIGHTS} at most are shown (use --report FILE for all)")
    columns = [_Column("what", words=True), _Column("before", words=True), _Column("after", words=True)]
    rows = comparison_text.difference_rows(report)
    printer.table("What else differs", _filled(columns, rows[:_MOST_WEIGHTS], lambda row: row))
    columns = [_Column("summary", words=True), _Column("")]
    printer.table("", _filled(columns, comparison_text.summary_rows(report), lambda row: row))
    printer.table("Conditions that fail (--fail-if)", _condition_columns(report.conditions))


def _print_compaction(report: CompactReport, printer: _Printer) -> None:
    """Layers before and after, and why channels stay."""
    printer.line(compaction_text.headline(report), "bold")
    if state := compaction_text.state(report):
        printer.line(state, "yellow")
    printer.table("", _layer_columns(report))
    if len(report.layers) > _MOST_WEIGHTS:
        printer.line(f"... and {len(report.layers) - _MOST_WEIGHTS:,} more (use --report FILE for all)")
    printer.table("Channels that stay", _note_columns(report.staying[:_MOST_REASONS]))
    if len(report.staying) > _MOST_REASONS:
        printer.line(f"... and {len(report.staying) - _MOST_REASONS:,} more (use --report FILE for all)")
    printer.table("Channels that left a constant behind", _note_columns(report.dropped[:_MOST_REASONS]))
    columns = [_Column("total", words=True), _Column("", words=True)]
    printer.table("", _filled(columns, compaction_text.summary_rows(report), lambda row: row))
    if note := compaction_text.layers_note(report):
        printer.line(note)
    printer.table("Files", _file_columns(report.files))
    if report.verification is not None:
        printer.verification(report.verification)
    _print_outcomes(report, printer)


def _print_search(report: SearchReport, printer: _Printer) -> None:
    """The trials, and the answer."""
    printer.line(search_text.headline(report), "bold")
    shown = report.trials[-_MOST_WEIGHTS:]
    ranks = (0, 0, 3, 0, 4, 4, 1, 0, 2, 5, 6, 0)
    columns = [
        _Column(title.lower() if title != "MACs" else title, rank, words=place not in search_text.NUMBERS)
        for place, (title, rank) in enumerate(zip(search_text.TRIAL_TITLES, ranks, strict=True))
    ]
    printer.table("Trials", _filled(columns, shown, lambda trial: search_text.trial_cells(report, trial)))
    if len(report.trials) > len(shown):
        printer.line(f"... and {len(report.trials) - len(shown):,} before (use --report FILE for all)")
    columns = [_Column("answer", words=True), _Column("", words=True)]
    printer.table("", _filled(columns, search_text.summary_rows(report), lambda row: row))
    printer.table("Files", _file_columns(report.files))
    _print_outcomes(report, printer)


def _print_outcomes(report: AnyReport, printer: _Printer) -> None:
    """Conditions and warnings."""
    printer.table("Conditions that fail (--fail-if)", _condition_columns(report.conditions))
    if report.warnings:
        printer.line("")
    for warning in report.warnings:
        printer.line(f"Warning: {text.printable(warning)}", "yellow")


def _layer_columns(report: CompactReport) -> list[_Column]:
    ranks = (0, 3, 0, 1, 5, 2, 4)
    columns = [
        _Column(title.lower() if title != "MACs" else title, rank, words=place not in compaction_text.NUMBERS)
        for place, (title, rank) in enumerate(zip(compaction_text.layer_titles(report), ranks, strict=False))
    ]
    return _filled(columns, compaction_text.layer_rows(report)[:_MOST_WEIGHTS], lambda row: row)


def _note_columns(notes: Sequence[ChannelNote]) -> list[_Column]:
    columns = [
        *(_Column(title.lower(), words=True) for title in compaction_text.NOTE_TITLES[:2]),
        *(_Column(title.lower()) for title in compaction_text.NOTE_TITLES[2:]),
    ]
    return _filled(columns, notes, compaction_text.note_cells)


def _compared_columns(tensors: Sequence[ComparedTensor]) -> list[_Column]:
    ranks = (0, 0, 1, 0, 0, 2, 2, 3, 5, 4, 6)
    words = (0, 1, 8, 9, 10)
    columns = [
        _Column(title.lower(), rank, words=place in words)
        for place, (title, rank) in enumerate(zip(comparison_text.WEIGHT_TITLES, ranks, strict=True))
    ]
    return _filled(columns, tensors, comparison_text.weight_cells)


def print_verification(verification: VerificationReport, console: Console) -> None:
    """Show the checks and how far the outputs moved."""
    _Printer(console).verification(verification)


class _Printer:
    """Prints plain text on a console, whatever the console can show."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def line(self, line: str, style: str = "") -> None:
        """Print a line, wrapped at the width."""
        self._console.print(self._text(line, style), highlight=False)

    def table(self, title: str, columns: Sequence[_Column]) -> None:
        """Print the columns that fit under a title, after an empty line; nothing if there are no rows."""
        if not columns[0].cells:
            return
        self.line("")
        if title:
            self.line(title, "bold")
        fitting = _fitting(columns, self._console.width)
        fits = _width(fitting) <= self._console.width
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
        for column in fitting:
            # "fold" cuts long words; the default's ellipsis is a character that not every terminal has.
            justify: Literal["left", "right"] = "left" if column.words else "right"
            whole = fits and not column.words
            table.add_column(self._text(column.title), justify=justify, overflow="fold", no_wrap=whole)
        for cells in zip(*(column.cells for column in fitting), strict=True):
            styled = zip(fitting, cells, strict=True)
            table.add_row(*(self._text(cell, column.styles.get(cell, "")) for column, cell in styled))
        self._console.print(table, highlight=False)

    def verification(self, verification: VerificationReport) -> None:
        """Print the checks and how far the outputs moved."""
        self.table("Checks", _check_columns(verification.checks))
        self.table("Drift of the outputs", _drift_columns(verification.drifts))

    def _text(self, shown: str, style: str = "") -> Text:
        """Text in characters that the console's encoding has."""
        try:
            shown = shown.encode(self._console.encoding, "backslashreplace").decode(self._console.encoding)
        except LookupError:
            shown = ascii(shown)[1:-1]
        return Text(shown, style)


def _fitting(columns: Sequence[_Column], width: int) -> list[_Column]:
    """Leave out columns until the rest fits, or only those that must stay are left."""
    kept = list(columns)
    while _width(kept) > width:
        least = max(kept, key=lambda column: column.rank)
        if least.rank == 0:
            break
        kept.remove(least)
    return kept


def _width(columns: Sequence[_Column]) -> int:
    return sum(column.width + _GAP for column in columns) - _GAP


def _filled(
    columns: Sequence[_Column], items: Iterable[_Item], cells: Callable[[_Item], Sequence[str]]
) -> list[_Column]:
    for item in items:
        for column, cell in zip(columns, cells(item), strict=True):
            column.cells.append(cell)
    return list(columns)


def _pruned_columns(weights: Sequence[WeightReport]) -> list[_Column]:
    columns = [
        *_identity_columns(),
        _Column("nonzero"),
        _Column("target", rank=1),
        _Column("reached"),
    ]
    more = text.pruned_how(weights)
    columns += [_Column(title.lower(), rank=1, words=True) for title in more]
    if any(weight.backend != "cpu" for weight in weights):
        columns.append(_Column("backend", rank=7, words=True))
        more["Backend"] = lambda weight: weight.backend
    return _filled(columns, weights, lambda weight: (*_pruned_cells(weight), *(of(weight) for of in more.values())))


def _pruned_cells(weight: WeightReport) -> tuple[str, ...]:
    nonzero = text.change(weight.nonzero_before, weight.nonzero_after)
    reached = format_fraction(weight.zeros_after, weight.parameters)
    return (*_identity(weight), nonzero, text.target(weight.target_sparsity), reached)


def _inspected_columns(weights: Sequence[InspectedWeight]) -> list[_Column]:
    columns = [
        *_identity_columns(),
        _Column("zeros", rank=3),
        _Column("sparsity"),
        _Column("zero rows"),
        _Column("zero columns"),
        _Column("2:4", rank=1),
    ]
    return _filled(columns, weights, _inspected_cells)


def _inspected_cells(weight: InspectedWeight) -> tuple[str, ...]:
    return (
        *_identity(weight),
        text.count(weight.zeros),
        format_fraction(weight.zeros, weight.parameters),
        text.part_of(weight.zero_rows, weight.rows),
        text.part_of(weight.zero_columns, weight.columns),
        text.two_of_four(weight),
    )


def _payoff_columns(reports: Sequence[PayoffReport]) -> list[_Column]:
    columns = [_Column("deployed with", words=True), _Column("pays", words=True), _Column("verdict", words=True)]
    return _filled(columns, reports, lambda report: (report.way, report.pays, text.printable(report.verdict)))


def _identity_columns() -> list[_Column]:
    ranked = [("op", 4), ("shape", 2), ("dtype", 6), ("parameters", 5)]
    return [_Column("weight", words=True), *(_Column(title, rank, words=title == "op") for title, rank in ranked)]


def _identity(weight: WeightReport | InspectedWeight) -> tuple[str, ...]:
    kind = text.operators(weight)
    parameters = text.count(weight.parameters)
    return (text.printable(weight.name), kind, text.shape(weight.shape), weight.dtype, parameters)


def _print_left_alone(tensors: Sequence[LeftAloneReport], printer: _Printer) -> None:
    groups = left_alone_groups(tensors)
    columns = _filled(
        [_Column("reason", words=True), _Column("tensors"), _Column("parameters")],
        groups[:_MOST_REASONS],
        lambda group: (text.printable(group.reason), text.count(len(group.members)), text.group_parameters(group)),
    )
    printer.table("Left alone", columns)
    if len(groups) > _MOST_REASONS:
        rest = len(groups) - _MOST_REASONS
        printer.line(f"... and {rest:,} more reason{'s' if rest > 1 else ''} (use --report FILE for all)")


def _file_columns(files: Sequence[FileReport]) -> list[_Column]:
    columns = [_Column("file", words=True), _Column("bytes")]
    if all(file.compressed_before is None for file in files):
        return _filled(columns, files, _file_cells)
    columns.append(_Column("compressed (zstd-3)"))
    return _filled(
        columns, files, lambda file: (*_file_cells(file), text.change(file.compressed_before, file.compressed_after))
    )


def _file_cells(file: FileReport) -> tuple[str, ...]:
    return text.file_name(file), text.change(file.bytes_before, file.bytes_after)


def _check_columns(checks: Sequence[Check]) -> list[_Column]:
    columns = [
        _Column("check", words=True),
        _Column("outcome", words=True, styles=_STYLES),
        _Column("detail", words=True),
    ]
    return _filled(
        columns, checks, lambda check: (text.printable(check.name), check.outcome, text.printable(check.detail))
    )


def _condition_columns(outcomes: Sequence[ConditionOutcome]) -> list[_Column]:
    columns = [
        _Column("condition", words=True),
        _Column("outcome", words=True, styles={"met": "bold red", "not met": "green"}),
        _Column("value"),
        _Column("weight", words=True),
    ]
    return _filled(columns, outcomes, text.condition_cells)


def _drift_columns(drifts: Sequence[OutputDrift]) -> list[_Column]:
    columns = [
        _Column("output", words=True),
        _Column("relative L2"),
        _Column("max abs", rank=2),
        _Column("cosine", rank=1),
        _Column("note", words=True),
    ]
    return _filled(columns, drifts, text.drift_cells)
