"""The tables and cards of a compaction in an HTML report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from onnx_tools.compact_report import ChannelNote, CompactReport, LayerReport
from onnx_tools.renderers import compaction_text, text
from onnx_tools.renderers.html_tables import ARROW, Cell, Column, Table


def layers_table(report: CompactReport) -> Table:
    """The layers; the bar of a figure is what is left of it."""
    columns = tuple(
        Column(title, place in compaction_text.NUMBERS)
        for place, title in enumerate(compaction_text.layer_titles(report))
    )
    return Table(columns, tuple(map(_layer_row, report.layers, compaction_text.layer_rows(report))))


def _layer_row(layer: LayerReport, cells: Sequence[str]) -> tuple[Cell, ...]:
    figures = (
        (layer.channels_before, layer.channels_after),
        (layer.parameters_before, layer.parameters_after),
        (layer.bytes_before, layer.bytes_after),
        (layer.macs_before, layer.macs_after),
        (layer.microseconds_before, layer.microseconds_after),
    )
    name, op_type, *shown = cells
    return (Cell(name), Cell(op_type), *(_left(cell, *pair) for cell, pair in zip(shown, figures, strict=False)))


def _left(shown: str, before: float | None, after: float | None) -> Cell:
    share = min(after, before) / before if before and after is not None else None
    return Cell(shown.replace(" -> ", f" {ARROW} "), None if after is None else float(after), share)


def notes_table(notes: Sequence[ChannelNote]) -> Table:
    """Why channels stay, or what those that left have left behind."""
    columns = tuple(Column(title, place > 1) for place, title in enumerate(compaction_text.NOTE_TITLES))
    return Table(columns, tuple(tuple(map(Cell, compaction_text.note_cells(note))) for note in notes))


def figures(report: CompactReport) -> Iterable[tuple[str, str, str]]:
    """Label, value and note of the cards: what is left, and of how much."""
    totals = report.totals
    yield "Channels removed", text.count(totals.removed), f"of {text.count(totals.channels)}"
    for label, before, after in (
        ("Parameters", totals.parameters_before, totals.parameters_after),
        ("MACs", totals.macs_before, totals.macs_after),
        ("Bytes of the files", totals.bytes_before, totals.bytes_after),
    ):
        if before and after is not None:
            yield label, f"{after / before:.1%}", text.change(before, after).replace(" -> ", f" {ARROW} ")
    if report.latency is not None:
        yield "Time of a run", f"{report.latency.ratio:.3g} times", compaction_text.latency(report.latency)
