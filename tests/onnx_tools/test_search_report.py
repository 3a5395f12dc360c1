"""The report of a search: its schema, and what each format shows."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

import jsonschema
import pytest
from rich.console import Console

from onnx_tools import search_report
from onnx_tools.plain import keys_of
from onnx_tools.renderers import RENDERERS, html_renderer, json_renderer, markdown_renderer
from onnx_tools.renderers.table_renderer import print_report
from onnx_tools.report import FileReport, Versions
from onnx_tools.search_report import Score, SearchReport, SearchSettings, TrialReport, WeightSparsity

VALIDATOR = jsonschema.Draft202012Validator(json_renderer.report_schema())
OWN = [kind for kind in vars(search_report).values() if getattr(kind, "__module__", "") == search_report.__name__]
KEY = "0" * 64

SETTINGS = SearchSettings(
    *(
        KEY,
        ("d.npz",),
        KEY,
        "top1",
        0.01,
        "bytes",
        ("uniform", "global"),
        "unstructured",
        "l1",
        "magnitude",
        ("<a>",),
        (),
    ),
    *(2048, False, False, True, 0.3, 0, 0.01, 100, True, None),
)
ORIGINAL, HELD_OUT = Score(0.98, 0.0, 0.0, 0.0, 1400), Score(0.99, 0.0, 0.0, 0.0, 600)
TRIALS = (
    TrialReport(1, KEY, "uniform", 0.5, 0.49999, 12345, None, Score(0.9, 0.08, 0.07, 0.09, 1400), None, False),
    TrialReport(2, KEY, "climb", None, 0.7251, 2345, 99, Score(0.975, 0.005, 0.001, 0.009, 1400), HELD_OUT, True),
)


def report(**changes: object) -> SearchReport:
    given = {
        "input": "in.onnx",
        "output": "out.onnx",
        "settings": SETTINGS,
        "versions": Versions("0.1.0", "3.11", "2.0", "1.17", "1.20"),
        "original": ORIGINAL,
        "original_held_out": HELD_OUT,
        "trials": TRIALS,
        "answer": 2,
        "confirmed": TRIALS[1].searched,
        "confirmed_held_out": HELD_OUT,
        "policy": '[[rule]]\nmatch = ["<b>&```"]\nsparsity = 0.5\n',
        "reproduce": "oxiprune prune in.onnx -o out.onnx --policy POLICY.toml --include '<a>'",
        "weights": (WeightSparsity("odd|<name>", 1000, 250),),
        "files": (FileReport("model", "in.onnx", "out.onnx", 5000, 2345, KEY, KEY),),
        "warnings": ("mind this",),
    }
    return SearchReport(**(given | changes))


NUMBER = {
    "original": Score(1.5, 0.0, None, None, None),
    "original_held_out": None,
    "confirmed_held_out": None,
    "policy": "",
    "weights": (),
    "warnings": (),
    "trials": (dataclasses.replace(TRIALS[1], searched=Score(float("-inf"), float("inf"), None, None, None)),),
}


def shown(found: SearchReport, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_report(found, console)
    return console.file.getvalue()


@pytest.mark.parametrize("changes", [{}, NUMBER])
def test_reports_follow_the_schema(changes):
    VALIDATOR.validate(json.loads(json_renderer.render(report(**changes))))


@pytest.mark.parametrize("kind", [kind for kind in OWN if dataclasses.is_dataclass(kind)])
def test_the_schema_has_every_field(kind):
    described = json_renderer.report_schema()["$defs"][kind.__name__]
    assert tuple(described["properties"]) == tuple(described["required"]) == keys_of(kind)
    assert described["additionalProperties"] is False


FACTS = ("in.onnx", "out.onnx", "top1", "0.7251", "0.0050 (0.0010 to 0.0090)", "2,345", "mind this", "the answer")


@pytest.mark.parametrize("render", [shown, markdown_renderer.render, html_renderer.render])
def test_every_format_tells_the_answer(render):
    text = render(report())
    assert [fact for fact in FACTS if fact not in text] == []
    assert render(report(**NUMBER))


@pytest.mark.parametrize("width", [20, 60, 80])
def test_the_table_fits_narrow_terminals(width):
    assert max(map(len, shown(report(), width).splitlines())) <= width


def test_the_table_shows_the_last_trials():
    many = tuple(dataclasses.replace(TRIALS[1], number=number) for number in range(1, 101))
    text = shown(report(trials=many, answer=100))
    assert "... and 60 before (use --report FILE for all)" in text
    assert text.count("within the bar") == 39


def test_csv_has_a_row_a_trial():
    rows = list(csv.DictReader(io.StringIO(RENDERERS["csv"].render(report()))))
    assert [(row["allocation"], row["passed"]) for row in rows] == [("uniform", "false"), ("climb", "true")]
    assert [(row["asked"], row["bytes"], row["macs"]) for row in rows] == [("0.5", "12345", ""), ("", "2345", "99")]
    assert [(row["searched_high"], row["held_out_cases"]) for row in rows] == [("0.09", ""), ("0.009", "600")]


def test_markdown_and_html_show_the_policy_and_escape_names():
    text = markdown_renderer.render(report())
    assert '\n    match = ["<b>&```"]\n' in text
    assert "odd\\|&lt;name>" in text
    page = html_renderer.render(report())
    assert "<name>" not in page
    assert "odd|&lt;name&gt;" in page
    assert "match = [&#34;&lt;b&gt;&amp;```&#34;]" in page
