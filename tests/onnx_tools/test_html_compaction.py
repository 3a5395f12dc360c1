"""The HTML report of a compaction, as a browser shows it."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest

from onnx_tools.compact_report import ChannelNote, CompactReport, LayerReport
from onnx_tools.renderers import html_renderer
from tests import chromium
from tests.command import run
from tests.onnx_tools.test_compact_command import network, stored
from tests.onnx_tools.test_compaction_report import LAYERS, report

LONG = "conv_" + "layer.with.a.long.name/" * 30


def page_in(folder: pathlib.Path, found: CompactReport) -> pathlib.Path:
    page = folder / "report.html"
    page.write_text(html_renderer.render(found), encoding="utf-8")
    return page


def layer(name: str, channels: int | None, macs: int | None) -> LayerReport:
    return dataclasses.replace(LAYERS[0], name=name, channels_after=channels, macs_after=macs)


UNSORTED = (layer("b", 9, 700), layer("a", None, None), layer("d", 10, 80), layer("c", 2, 9000))


@pytest.mark.parametrize(
    ("column", "clicks", "order"),
    [(0, 1, "abcd"), (2, 1, "dbca"), (2, 2, "acbd"), (5, 1, "cbda")],
    ids=["name", "most channels", "fewest", "most MACs"],
)
def test_layers_are_sorted_and_what_is_not_known_is_least(tmp_path, column, clicks, order):
    page = chromium.with_script(page_in(tmp_path, report(layers=UNSORTED)), chromium.clicks(column, clicks))
    shown = chromium.show(page, tmp_path / "profile")
    assert shown.console == []
    assert "".join(chromium.first_cells(shown.html)) == order


@pytest.mark.parametrize("command", [("compact",), ("prune", "--granularity", "channel", "-s", "0.5", "--compact")])
def test_commands_write_pages_that_a_browser_shows(tmp_path, command):
    masked, page = stored(tmp_path / "masked.onnx", network()), tmp_path / "report.html"
    result = run(*command, masked, "-o", tmp_path / "small.onnx", "--report", page, "-q")
    assert result.exit_code == 0, result.output
    shown = chromium.show(page, tmp_path / "profile")
    assert shown.console == []
    assert chromium.first_cells(shown.html) == ["c", "y"]
    assert "2 of 2" in shown.html


def test_without_scripts_all_is_there(tmp_path):
    page = chromium.without_scripts(page_in(tmp_path, report(layers=UNSORTED)))
    shown = chromium.show(page, tmp_path / "profile")
    assert len(shown.console) == 1  # that the script was refused
    assert chromium.first_cells(shown.html) == ["b", "a", "d", "c"]
    assert '<p class="controls" hidden' in shown.html


def test_names_are_no_programs(tmp_path):
    name = "<script>document.title='!'</script><img src=x onerror=\"document.title='!'\">"
    notes = (ChannelNote(name, (name,), 1, 1),)
    found = report(layers=(layer(name, 1, 1),), staying=notes, dropped=notes, input=name, open_inputs=(name,))
    page = page_in(tmp_path, found)
    assert chromium.show(page, tmp_path / "profile").console == []
    assert not chromium.title(page, tmp_path / "profile").startswith("!")


def test_in_the_dark(tmp_path):
    page = chromium.with_script(page_in(tmp_path, report()), chromium.BACKGROUND)
    titles = [chromium.title(page, tmp_path / "profile", *flags) for flags in ((), (chromium.DARK,))]
    assert titles == ["rgb(245, 246, 248)", "rgb(14, 19, 23)"]


def test_on_a_phone_only_the_tables_are_wider_than_the_window(tmp_path):
    notes = (ChannelNote(LONG, (LONG, LONG), 4, 1),)
    found = report(layers=(layer(LONG, 8, 9),), staying=notes, dropped=notes, input=LONG, warnings=(LONG,))
    assert chromium.excess_on_a_phone(page_in(tmp_path, found), tmp_path / "profile") == "0"
