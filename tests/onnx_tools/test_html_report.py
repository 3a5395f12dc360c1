"""The HTML report: what stands in it, and what a browser makes of it."""

from __future__ import annotations

import base64
import html.parser
import pathlib
import struct
import zlib

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_tools.pictures import Histogram, MaskPicture, WeightPictures
from onnx_tools.renderers import drawings, html_renderer, text
from onnx_tools.report import InspectReport, PruneReport
from tests import chromium
from tests.command import refused, run
from tests.onnx_tools.test_renderers import NASTY, pruned, weight
from tests.onnx_tools.test_report import inspect_report, prune_report

VOID = {"meta", "img", "input", "link", "br", "hr"}


class Reader(html.parser.HTMLParser):
    """What is text in a page, what is loaded from elsewhere, which scripts there are, and whether tags fit."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.loaded: list[str] = []
        self.handlers: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        {"script": self.scripts}.get(self.open[-1] if self.open else "", self.texts).append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def picture(name: str = "w") -> WeightPictures:
    before, after = (Histogram(1.5, (*range(60), last), 10, 0) for last in (90, 0))
    return WeightPictures(name, before, after, MaskPicture(2, 3, 2, 3, bytes((0, 255, 128, 1, 254, 3)), True))


def named(name: str) -> PruneReport:
    alone = prune_report().left_alone
    return pruned(
        input=name, output=name, weights=(weight(name),), left_alone=alone, warnings=(name,), pictures=(picture(name),)
    )


def page_in(folder: pathlib.Path, report: PruneReport | InspectReport) -> pathlib.Path:
    page = folder / "report.html"
    page.write_text(html_renderer.render(report), encoding="utf-8")
    return page


@pytest.mark.parametrize("report", [prune_report(), inspect_report(), pruned(weights=()), inspect_report(weights=())])
def test_needs_nothing_from_elsewhere(report):
    page = Reader(html_renderer.render(report))
    assert len(page.scripts) == 1
    assert [address for address in page.loaded if not address.startswith("data:image/png")] == []
    assert "url(" not in html_renderer.render(report)
    assert "@import" not in html_renderer.render(report)


@pytest.mark.parametrize("name", NASTY)
def test_names_are_text(name):
    page = Reader(html_renderer.render(named(name)))
    assert len(page.scripts) == 1
    assert page.handlers == []
    assert all(char.isprintable() for text in page.texts for char in text if char != "\n")


def test_facts_stand_in_the_page():
    page = Reader(html_renderer.render(prune_report())).text
    expected = ("model.onnx", "pruned.onnx", "0.5000", "impossible shape", "mind", "bytes", "passed", "not finite")
    assert [fact for fact in expected if fact not in page] == []


def test_the_command_to_do_it_again_is_quoted():
    report = pruned(input="a b.onnx", output="$(x).onnx")
    assert "oxiprune prune 'a b.onnx' -o '$(x).onnx' --sparsity" in Reader(html_renderer.render(report)).text


def test_many_weights_have_a_bar_for_several():
    weights = [weight(f"w{number}") for number in range(1001)]
    bars = drawings.bars_of(weights)
    assert bars.together == 3
    assert len(bars.bars) == 334
    assert bars.bars[0].title == "w0 and 2 more: 0.0000 -> 0.5000"


def test_histogram_path():
    one, two = (Histogram(1.0, counts, 0, 0) for counts in ((0, 4), (1, 2)))
    assert drawings.histogram_path(one, 4) == "M0 100V100H1V0H2V100Z"
    assert drawings.histogram_path(two, 4) == "M0 100V75H1V50H2V100Z"
    assert drawings.histogram_path(Histogram(0.0, (0,), 3, 0), 0) == "M0 100V100H1V100Z"


def test_the_mask_is_a_png():
    data = base64.b64decode(drawings.mask_png(picture().mask).partition(",")[2])
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    pieces, at = {}, 8
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", data, at + 8 + size)[0] == zlib.crc32(kind + content)
        pieces[kind] = content
        at += 12 + size
    assert struct.unpack(">II", pieces[b"IHDR"][:8]) == (3, 2)
    assert zlib.decompress(pieces[b"IDAT"]) == bytes((0, 0, 255, 128, 0, 1, 254, 3))


@pytest.fixture
def big_file(tmp_path):
    """Two weights that are large enough to be pruned."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 64] x) => (float[N, 64] y) '
        "{ h = MatMul (x, first) y = MatMul (h, second) }"
    )
    random = np.random.default_rng(1)
    for name in ("second", "first"):
        values = random.standard_normal((64, 64)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    return path


def test_prune_writes_it(big_file, tmp_path):
    report = tmp_path / "{stem}.html"
    result = run("prune", big_file, "-o", tmp_path / "out.onnx", "-s", "0.5", "--report", report, "-q")
    assert result.exit_code == 0, result.output
    page = Reader((tmp_path / "model.html").read_text(encoding="utf-8"))
    assert "2,048 zeros" in page.text
    assert len(page.loaded) == 2
    assert "64 output channels down" in page.text


def test_a_dry_run_writes_it_and_changes_nothing(big_file, tmp_path):
    stored = big_file.read_bytes()
    result = run("prune", big_file, "--dry-run", "-s", "0.5", "--report", tmp_path / "dry.htm", "-q")
    assert result.exit_code == 0, result.output
    page = Reader((tmp_path / "dry.htm").read_text(encoding="utf-8"))
    assert "Dry run: nothing was written." in page.text
    assert len(page.loaded) == 2
    assert big_file.read_bytes() == stored


def test_inspect_writes_it(big_file, tmp_path):
    assert run("inspect", big_file, "--report", tmp_path / "look.html", "-q").exit_code == 0
    page = Reader((tmp_path / "look.html").read_text(encoding="utf-8"))
    assert "Weights of a model" in page.text
    assert len(page.loaded) == 2


def test_no_pictures_for_other_formats(big_file, tmp_path, monkeypatch):
    monkeypatch.setattr("onnx_tools.pictures.histogram", None)
    assert run("inspect", big_file, "--report", tmp_path / "look.json", "-q").exit_code == 0


def test_a_folder_that_does_not_exist_is_refused_before_the_work(big_file, tmp_path):
    result = run("prune", big_file, "-o", tmp_path / "out.onnx", "-s", "0.5", "--report", tmp_path / "no" / "r.html")
    refused(result, 2, "does not exist")
    assert not (tmp_path / "out.onnx").exists()


def names(*shown: str) -> tuple:
    counts = {"b": 2, "a": 6, "c": 4}
    return tuple(weight(name, nonzero_after=counts[name]) for name in shown)


def test_browser_shows_all_and_complains_of_nothing(tmp_path):
    page = page_in(tmp_path, pruned(weights=names("b", "a", "c"), pictures=(picture(),)))
    shown = chromium.show(page, tmp_path / "profile")
    assert shown.console == []
    assert chromium.first_cells(shown.html) == ["b", "a", "c"]
    assert '<p class="controls">' in shown.html
    assert "3 of 3" in shown.html


def test_browser_shows_a_comparison(big_file, tmp_path):
    assert run("prune", big_file, "-o", tmp_path / "out.onnx", "-s", "0.5", "-q").exit_code == 0
    report = tmp_path / "report.html"
    assert run("compare", big_file, tmp_path / "out.onnx", "--report", report, "-q").exit_code == 0
    shown = chromium.show(chromium.with_script(report, chromium.clicks(0)), tmp_path / "profile")
    assert shown.console == []
    assert chromium.first_cells(shown.html) == ["first", "second"]
    assert "more zeros" in shown.html


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (2_311_203, "2.31 MB"), (15 * 10**11, "1,500 GB")],
)
def test_sizes(count, shown):
    assert text.size(count) == shown


def test_browser_runs_no_script_of_a_name(tmp_path):
    report = named("<script>document.title='!'</script><img src=x onerror=\"document.title='!'\">")
    shown = chromium.show(page_in(tmp_path, report), tmp_path / "profile")
    assert "<title>!" not in shown.html
    assert shown.console == []


def test_browser_without_scripts(tmp_path):
    page = page_in(tmp_path, pruned(weights=names("b", "a", "c")))
    shown = chromium.show(chromium.without_scripts(page), tmp_path / "profile")
    assert len(shown.console) == 1  # that the script was refused
    assert chromium.first_cells(shown.html) == ["b", "a", "c"]
    assert '<p class="controls" hidden' in shown.html


@pytest.mark.parametrize(
    ("column", "clicks", "order"),
    [(0, 1, "abc"), (0, 2, "cba"), (0, 3, "bac"), (1, 1, "bca"), (1, 2, "acb")],
    ids=["name", "name back", "as it was", "most sparse", "least sparse"],
)
def test_browser_sorts(tmp_path, column, clicks, order):
    page = chromium.with_script(
        page_in(tmp_path, pruned(weights=names("b", "a", "c"))), chromium.clicks(column, clicks)
    )
    assert "".join(chromium.first_cells(chromium.show(page, tmp_path / "profile").html)) == order


def test_browser_filters(tmp_path):
    page = page_in(tmp_path, pruned(weights=tuple(map(weight, ("conv1.w", "conv2.w", "fc.w")))))
    script = (
        "const box = document.querySelector('input'); box.value = 'CONV 2.w'; box.dispatchEvent(new Event('input'))"
    )
    shown = chromium.show(chromium.with_script(page, script), tmp_path / "profile")
    assert "1 of 3" in shown.html
    assert chromium.first_cells(shown.html.replace('<tr hidden="">', "<tr class>")) == ["conv2.w"]


def test_browser_in_the_dark(tmp_path):
    page = chromium.with_script(page_in(tmp_path, pruned()), chromium.BACKGROUND)
    titles = [chromium.title(page, tmp_path / "profile", *flags) for flags in ((), (chromium.DARK,))]
    assert titles == ["rgb(245, 246, 248)", "rgb(14, 19, 23)"]


def test_browser_on_a_phone(tmp_path):
    """Nothing but the tables, which scroll, is wider than a window of 360 pixels."""
    page = page_in(tmp_path, named("conv_" + "layer.with.a.long.name/" * 30))
    assert chromium.excess_on_a_phone(page, tmp_path / "profile") == "0"


@pytest.mark.slow
def test_browser_with_five_thousand_weights(tmp_path):
    weights = tuple(weight(f"w{number}", nonzero_after=number % 8) for number in range(5000))
    page = page_in(tmp_path, pruned(weights=weights))
    assert page.stat().st_size < 5_000_000
    shown = chromium.show(chromium.with_script(page, chromium.clicks(1)), tmp_path / "profile")
    assert chromium.first_cells(shown.html)[:2] == ["w0", "w8"]
