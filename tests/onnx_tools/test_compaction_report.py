"""The report of compaction: its figures, its schema, and what each format shows."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

import jsonschema
import pytest
from rich.console import Console

from onnx_tools import compact_report
from onnx_tools.compact_report import ChannelNote, CompactReport, LatencyReport, LayerReport, Stored
from onnx_tools.plain import keys_of
from onnx_tools.renderers import RENDERERS, html_renderer, json_renderer, markdown_renderer
from onnx_tools.renderers.table_renderer import print_report
from onnx_tools.report import Check, ConditionOutcome, FileReport, OutputDrift, VerificationReport, Versions

VALIDATOR = jsonschema.Draft202012Validator(json_renderer.report_schema())
OWN = [kind for kind in vars(compact_report).values() if getattr(kind, "__module__", "") == compact_report.__name__]
KINDS = [kind for kind in OWN if dataclasses.is_dataclass(kind)]

LAYERS = (
    LayerReport("conv", "Conv", 16, 8, 448, 224, 1792, 896, 15552, 7776),
    LayerReport("odd|name", "Custom<b>", None, None, 7, 7, 28, 28, None, None),
    LayerReport("up", "Conv", 8, 8, 100, 60, 400, 240, 100, 60, True),
)
TIMES = ((1234.5, 600.0), (7.0, None), (None, None))
TIMED = tuple(
    dataclasses.replace(layer, microseconds_before=before, microseconds_after=after)
    for layer, (before, after) in zip(LAYERS, TIMES, strict=True)
)
STAYING = (ChannelNote("LayerNormalization 'ln' normalises over it", ("conv", "a", "b", "c"), 4, 1),)
DROPPED = (ChannelNote("a bias stays behind at padding", ("conv",), 2, 2),)


def report(**changes: object) -> CompactReport:
    given = {
        "input": "in.onnx",
        "output": "out.onnx",
        "dry_run": False,
        "constants": "drop",
        "versions": Versions("0.1.0", "3.11", "2.0", "1.17", "1.20"),
        "channels": 24,
        "removed": 10,
        "layers": LAYERS,
        "stored": Stored(1000, 500, 4000, 2000),
        "staying": STAYING,
        "dropped": DROPPED,
        "open_inputs": ("axis 2 of 'x' (H)",),
        "files": (FileReport("model", "in.onnx", "out.onnx", 5000, 2500),),
        "latency": LatencyReport(2.0, 1.0, 0.5, 0.45, 0.6, 9, "random inputs, seed 0"),
        "verification": VerificationReport((Check("drift", "passed", "fine"),), (OutputDrift("y", 1e-7, 1e-6, 1.0),)),
        "warnings": ("mind this",),
        "conditions": (ConditionOutcome("macs_ratio>0.9", False, 0.5),),
    }
    return CompactReport(**(given | changes))


def shown(found: CompactReport, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_report(found, console)
    return console.file.getvalue()


BARE = {"latency": None, "verification": None, "conditions": (), "warnings": (), "open_inputs": (), "layers": ()}


@pytest.mark.parametrize("changes", [{}, BARE, {"layers": TIMED}, {"output": None, "dry_run": True, "files": ()}])
def test_reports_follow_the_schema(changes):
    VALIDATOR.validate(json.loads(json_renderer.render(report(**changes))))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not Stored])
def test_the_schema_has_every_field(kind):
    described = json_renderer.report_schema()["$defs"][kind.__name__]
    assert tuple(described["properties"]) == tuple(described["required"]) == keys_of(kind)
    assert described["additionalProperties"] is False


def test_totals():
    totals = report().totals
    assert (totals.macs_before, totals.macs_after, totals.unknown_macs) == (15652, 7836, 1)
    assert (totals.parameters_before, totals.parameters_after) == (1000, 500)
    assert (totals.bytes_before, totals.bytes_after) == (5000, 2500)


def test_the_table_shows_layers_reasons_and_sums():
    text = shown(report())
    for part in (
        "in.onnx -> out.onnx",
        "16 -> 8",
        "448 -> 224",
        "15,552 -> 7,776",
        "100 -> 60 a position",
        "LayerNormalization 'ln' normalises over it",
        "conv, a, b and 1 more",
        "10 of 24",
        "1,000 -> 500 (50.0%)",
        "0.5 times",
        "sizes left open count as 1: axis 2 of 'x' (H)",
        "Warning: mind this",
    ):
        assert part in text, part


@pytest.mark.parametrize("width", [20, 60, 80])
@pytest.mark.parametrize("layers", [LAYERS, TIMED], ids=["untimed", "timed"])
def test_the_table_fits_narrow_terminals(width, layers):
    assert max(map(len, shown(report(layers=layers), width).splitlines())) <= width


RENDERED = pytest.mark.parametrize("render", [shown, markdown_renderer.render, html_renderer.render])


@RENDERED
def test_times_of_layers_are_shown_with_what_they_are(render):
    words = " ".join(render(report(layers=TIMED)).replace("\u2192", "->").split())
    for part in ("1,234.5 -> 600.0", "7.0 -> -", "with ORT_ENABLE_BASIC"):
        assert part in words.replace("\\_", "_"), part


@RENDERED
def test_without_times_of_layers_there_is_no_column_for_them(render):
    assert "microseconds" not in render(report()).lower()


def test_csv_has_a_row_a_layer():
    rows = list(csv.DictReader(io.StringIO(RENDERERS["csv"].render(report()))))
    assert [row["name"] for row in rows] == ["conv", "odd|name", "up"]
    assert [row["macs_after"] for row in rows] == ["7776", "", "60"]


def test_csv_has_times_where_layers_were_timed():
    rows = list(csv.DictReader(io.StringIO(RENDERERS["csv"].render(report(layers=TIMED)))))
    shown = [(row["microseconds_before"], row["microseconds_after"]) for row in rows]
    assert shown == [("1234.5", "600.0"), ("7.0", ""), ("", "")]
    assert "microseconds" not in RENDERERS["csv"].render(report())


def test_markdown_escapes_names_and_shows_the_sums():
    text = markdown_renderer.render(report())
    assert "| odd\\|name | Custom&lt;b> |" in text
    assert "| MACs | 15,652 -> 7,836 (50.1%) |" in text
    assert "Channels that left a constant behind (1)" in text


def test_html_escapes_names_and_shows_cards():
    page = html_renderer.render(report())
    assert "Custom&lt;b&gt;" in page
    assert "Custom<b>" not in page
    assert "50.1%" in page
    assert "Channels that stay" in page


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"dry_run": True, "output": None}, "Dry run: nothing was written."),
        ({"removed": 0}, "Unchanged: no channel was removed."),
        ({"conditions": (ConditionOutcome("macs>1", True, 2.0),)}, "Refused by a condition: nothing was written."),
    ],
)
def test_what_a_reader_must_know_first(changes, state):
    found = report(**changes)
    assert all(state in text for text in (shown(found), markdown_renderer.render(found), html_renderer.render(found)))
