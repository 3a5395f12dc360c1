"""Chromium without a window: what a page holds after its script ran, and what the browser complained about."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
from dataclasses import dataclass

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
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
