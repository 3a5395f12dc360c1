"""What compaction did, as people read it, for the renderers that show text."""

from __future__ import annotations

from onnx_tools.compact_report import ChannelNote, CompactReport, LatencyReport, LayerReport
from onnx_tools.renderers import text

LAYER_TITLES = ("Layer", "Operator", "Channels", "Parameters", "Bytes", "MACs")
TIME_TITLE = "Microseconds"
"""Of one more column, where layers were timed."""
NUMBERS = range(2, 7)
"""The columns that hold numbers."""
NOTE_TITLES = ("Reason", "Layers", "Channels", "Unused")
MACS = "MACs: products of two numbers added to a sum, in one run of one sample"
TIMES = (
    "Microseconds: kernels of the layer in onnxruntime's profiler, with ORT_ENABLE_BASIC, on one thread, the median of "
    "several runs; '-': no kernel has its name"
)
_MOST_LAYERS = 3


def headline(report: CompactReport) -> str:
    """What was done to which file, in one line."""
    result = f" -> {text.printable(report.output)}" if report.output is not None else ""
    how = "" if report.pruning is None else f" ({text.how(report.pruning.configuration)})"
    return f"{text.printable(report.input)}{result}{how}"


def state(report: CompactReport) -> str:
    """What a reader must know first: nothing written, or nothing removed."""
    if report.refused:
        return "Refused by a condition: nothing was written."
    if report.dry_run:
        return "Dry run: nothing was written."
    return "" if report.changed else "Unchanged: no channel was removed."


def layer_titles(report: CompactReport) -> tuple[str, ...]:
    """What is known of layers."""
    return (*LAYER_TITLES, TIME_TITLE) if report.layers_timed else LAYER_TITLES


def layer_rows(report: CompactReport) -> list[tuple[str, ...]]:
    """The layers under `layer_titles`."""
    timed = report.layers_timed
    return [(*_layer_cells(layer), *([_times(layer)] if timed else [])) for layer in report.layers]


def _layer_cells(layer: LayerReport) -> tuple[str, ...]:
    return (
        text.printable(layer.name),
        text.printable(layer.op_type),
        text.change(layer.channels_before, layer.channels_after),
        text.change(layer.parameters_before, layer.parameters_after),
        text.change(layer.bytes_before, layer.bytes_after),
        text.change(layer.macs_before, layer.macs_after) + (" a position" if layer.open_sizes else ""),
    )


def _times(layer: LayerReport) -> str:
    times = (layer.microseconds_before, layer.microseconds_after)
    if times == (None, None):
        return text.NONE
    return " -> ".join(text.NONE if time is None else f"{time:,.1f}" for time in times)


def note_cells(note: ChannelNote) -> tuple[str, ...]:
    """A row under `NOTE_TITLES`."""
    named = ", ".join(map(text.printable, note.layers[:_MOST_LAYERS]))
    more = f" and {len(note.layers) - _MOST_LAYERS:,} more" if len(note.layers) > _MOST_LAYERS else ""
    return text.printable(note.reason), (named + more) or text.NONE, text.count(note.channels), text.count(note.unused)


def summary_rows(report: CompactReport) -> list[tuple[str, str]]:
    """The sums, one a row."""
    totals = report.totals
    rows = [
        ("Channels removed", text.part_of(totals.removed, totals.channels)),
        ("Parameters", _change(totals.parameters_before, totals.parameters_after)),
        ("Bytes of what is stored", _change(totals.weight_bytes_before, totals.weight_bytes_after)),
        ("MACs", _change(totals.macs_before, totals.macs_after)),
        ("Bytes of the files", _change(totals.bytes_before, totals.bytes_after)),
    ]
    if totals.compressed_before is not None:
        rows.append(("Bytes compressed (zstd-3)", _change(totals.compressed_before, totals.compressed_after)))
    if report.latency is not None:
        rows.append(("Time of a run", latency(report.latency)))
    return rows


def latency(found: LatencyReport) -> str:
    """The time of a run before and after."""
    times = f"{text.number(found.before)} ms -> {text.number(found.after)} ms"
    spread = f"{text.number(found.low, 3)} to {text.number(found.high, 3)} in the middle half of {found.rounds} rounds"
    return f"{times} ({text.number(found.ratio, 3)} times; {spread}; one thread, {text.printable(found.inputs)})"


def layers_note(report: CompactReport) -> str:
    """What the figures of layers do not say; "" if they say all."""
    return ". ".join(filter(None, (_sizes_note(report), TIMES if report.layers_timed else "")))


def _sizes_note(report: CompactReport) -> str:
    totals = report.totals
    notes = []
    if report.open_inputs:
        notes.append(f"sizes left open count as 1: {', '.join(map(text.printable, report.open_inputs))}")
    elif any(layer.open_sizes for layer in report.layers):
        notes.append("sizes that are not known count as 1")
    if totals.unknown_macs:
        notes.append(f"layers whose MACs are not known count nothing: {totals.unknown_macs:,}")
    return f"MACs: {'; '.join(notes)}; --input-shape may tell them" if notes else ""


def _change(before: int | None, after: int | None) -> str:
    """Two counts, and the second as a fraction of the first."""
    if not before or after is None or after == before:
        return text.change(before, after)
    return f"{text.change(before, after)} ({after / before:.1%})"
