"""Reports as CSV (RFC 4180): one row a weight, then one row for each tensor that was left alone.

Of a compaction one row a layer, of a search one row a trial.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from onnx_tools.compact_report import AnyReport, CompactReport
from onnx_tools.plain import plain_value
from onnx_tools.renderers import text
from onnx_tools.report import (
    ComparedTensor,
    CompareReport,
    InspectedWeight,
    InspectReport,
    LeftAloneReport,
    PruneReport,
    WeightReport,
)
from onnx_tools.search_report import SearchReport, TrialReport

_COMMON = ("status", "name", "op_types", "consumers", "shape", "dtype", "parameters", "bytes")
_SCORES = ("min", "max", "mean", "median", "std_dev")
_PRUNED = (
    *("nonzero_before", "nonzero_after", "pruned", "target_sparsity", "metric", "granularity", "rule"),
    *("dense_remainder", "backend", "refitted", "sparsity_before", "sparsity_after"),
    *(f"score_{name}" for name in _SCORES),
)
_INSPECTED = (
    *("zeros", "sparsity", "rows", "zero_rows", "columns", "zero_columns", "groups_2_4", "satisfying_2_4", "is_2_4"),
    *("depthwise", "optional", "reduction_axis", "reduction", "remainder_2_4", "patterns", "other_axes_2_4"),
)
_COMPARED = (
    *("kind", "name", "verdict", "op_types", "shape_before", "shape_after", "dtype_before", "dtype_after"),
    *("parameters", "zeros_before", "zeros_after", "sparsity_before", "sparsity_after", "newly_zero", "newly_nonzero"),
    *("changed", "max_abs", "equal"),
)
_COMPACTED = (
    *("name", "op_type", "channels_before", "channels_after", "parameters_before", "parameters_after"),
    *("bytes_before", "bytes_after", "macs_before", "macs_after", "open_sizes"),
)
_TIMED = ("microseconds_before", "microseconds_after")
_SCORE = ("quality", "drop", "low", "high", "cases")
_TRIED = (
    *("number", "allocation", "asked", "sparsity", "bytes", "macs", "passed"),
    *(f"{on}_{name}" for on in ("searched", "held_out") for name in _SCORE),
    "key",
)
_NUMBERS = ("NaN", "Infinity", "-Infinity")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What spreadsheets take for the start of a formula; the last four are the wide forms of the first."""


def render(report: AnyReport) -> str:
    """The report's tensors as CSV with a header, lines ending in CR LF; what is not known is an empty cell.

    Texts that a spreadsheet would take for a formula begin with an apostrophe.
    """
    keys = _keys(report)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(keys)
    for row in _rows(report):
        writer.writerow([_cell(row.get(key)) for key in keys])
    return out.getvalue()


def _keys(report: AnyReport) -> tuple[str, ...]:
    if isinstance(report, CompareReport):
        return _COMPARED
    if isinstance(report, CompactReport):
        return (*_COMPACTED, *_TIMED) if report.layers_timed else _COMPACTED
    if isinstance(report, SearchReport):
        return _TRIED
    return (*_COMMON, *(_PRUNED if isinstance(report, PruneReport) else _INSPECTED), "reason")


def _rows(report: AnyReport) -> list[Mapping[str, Any]]:
    if isinstance(report, CompareReport):
        return [_compared_row(tensor) for tensor in (*report.weights, *report.others)]
    if isinstance(report, CompactReport):
        return [plain_value(layer) for layer in report.layers]
    if isinstance(report, SearchReport):
        return [_trial_row(trial) for trial in report.trials]
    if isinstance(report, InspectReport):
        weights = [{"status": "weight", **_plain(weight)} for weight in report.weights]
    else:
        weights = [_pruned_row(weight) for weight in report.weights]
    return [*weights, *(_left_alone_row(tensor) for tensor in report.left_alone)]


def _pruned_row(weight: WeightReport) -> dict[str, Any]:
    plain = _plain(weight)
    scores = plain.pop("scores") or {}
    changed = "refitted" if weight.refitted else "unchanged"
    status = "pruned" if weight.nonzero_after != weight.nonzero_before else changed
    return {"status": status, **plain, **{f"score_{name}": scores.get(name) for name in _SCORES}}


def _trial_row(trial: TrialReport) -> dict[str, Any]:
    plain = plain_value(trial)
    scores = {on: plain.pop(on) or {} for on in ("searched", "held_out")}
    return {**plain, **{f"{on}_{name}": value for on, score in scores.items() for name, value in score.items()}}


def _compared_row(tensor: ComparedTensor) -> dict[str, Any]:
    shapes = {"shape_before": tensor.shape_before, "shape_after": tensor.shape_after}
    shown = {key: None if shape is None else text.shape(shape, most=len(shape)) for key, shape in shapes.items()}
    return {**plain_value(tensor), **shown}


def _left_alone_row(tensor: LeftAloneReport) -> dict[str, Any]:
    return {"status": "left alone", **_plain(tensor)}


def _plain(tensor: WeightReport | InspectedWeight | LeftAloneReport) -> dict[str, Any]:
    return {**plain_value(tensor), "shape": text.shape(tensor.shape, most=len(tensor.shape))}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float) or value in _NUMBERS:
        return str(value)
    if isinstance(value, list):
        value = "; ".join(value)
    return f"'{value}" if value.startswith(_FORMULA_STARTS) else value
