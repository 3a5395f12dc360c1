"""Chromium without a window: what a page holds after its script ran, and what the browser complained about."""

from __future__ import annotations

import html
import pathlib
import re
import shutil
import subprocess
from dataclasses import dataclass

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DARK = "--blink-settings=preferredColorScheme=0"
"""A flag: the system prefers dark pages."""
BACKGROUND = "document.title = getComputedStyle(document.body).backgroundColor"
_EXCESS_WIDTH = """onload = () => {
  const page = frames[0].document.documentElement;
  document.title = page.scrollWidth - page.clientWidth;
}"""
_FLAGS = ("--headless=new", "--disable-gpu", "--no-sandbox", "--no-first-run", "--disable-dev-shm-usage")


@dataclass(frozen=True)
class Shown:
    """The page as HTML after its scripts ran; what the console of the browser said."""

    html: str
    console: list[str]


def browser() -> str:
    """The browser's name; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(_NAMES)} is installed")
    return found


def show(page: pathlib.Path, profile: pathlib.Path, *flags: str) -> Shown:
    """Open a page; `profile`: a folder of the browser's own."""
    command = [browser(), *_FLAGS, f"--user-data-dir={profile}", "--enable-logging=stderr", *flags, "--dump-dom"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, check=True, timeout=120)
    console = [line for line in done.stderr.decode(errors="replace").splitlines() if "CONSOLE" in line]
    return Shown(done.stdout.decode(), console)


def title(page: pathlib.Path, profile: pathlib.Path, *flags: str) -> str:
    """The title of a page after its scripts ran."""
    return re.findall("<title>(.*)</title>", show(page, profile, *flags).html)[0]


def excess_on_a_phone(page: pathlib.Path, profile: pathlib.Path) -> str:
    """By how many pixels a page is wider than a window of 360."""
    frame = page.with_name("frame.html")
    inner = html.escape(page.read_text(encoding="utf-8"))
    phone = f'<iframe width=360 height=800 style="border:0" srcdoc="{inner}"></iframe>'
    frame.write_text(f"{phone}<script>{_EXCESS_WIDTH}</script>", encoding="utf-8")
    return title(frame, profile)


def with_script(page: pathlib.Path, script: str) -> pathlib.Path:
    """The page, and a script at its end that its policy would not allow."""
    text = re.sub(r"<meta http-equiv=[^>]*>", "", page.read_text(encoding="utf-8"))
    page.write_text(f"{text}<script>{script}</script>", encoding="utf-8")
    return page


def without_scripts(page: pathlib.Path) -> pathlib.Path:
    """The page, whose policy allows no script at all."""
    page.write_text(re.sub('script-src [^"]*', "script-src 'none'", page.read_text(encoding="utf-8")))
    return page


def first_cells(html_text: str) -> list[str]:
    """The first cell of each row of the main table that is not hidden."""
    body = html_text.split('id="weights"')[1].split("<tbody>")[1].split("</tbody>", maxsplit=1)[0]
    return re.findall(r"<tr><td>(?:<span class=.share.*?</span>)?([^<]*)</td>", body)


def clicks(column: int, times: int = 1) -> str:
    """A script that clicks the head of a column of the main table."""
    return f"document.querySelectorAll('#weights th button')[{column}].click();" * times
