"""The part of docs/results.md about searching, from docs/search.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmark_tables import markdown

DATA = Path("docs/search.json")
PLAIN = "uniform magnitude"
WORTH, BAR = 0.1, 0.01
"""How much more than uniform magnitude a search is to reach, and how much accuracy may drop."""

TEXT = """How much of the weights falls while accuracy drops by one point at most:

- **uniform magnitude**: one sparsity for all weights, bisected.
- **search**: `oxiprune search MODEL -o OUT --data D --eval top1 --max-drop 0.01 --held-out 0.5`, which tries ways to
  deal the sparsity out among weights, and climbs from the best; {most} trials at most.
- **search, repair**: with `--calibration DATA --repair --allocation uniform --allocation global:lamp --no-climb`;
  **95 % sure**: with `--confidence 0.95` too, so that the drop is within the bar for more than the cases at hand;
  **SparseGPT**: with `--metric sparsegpt` instead.

Half of the cases that score are searched with, the other half is held out, by seed 0. Those that calibrate are neither:
512 training images of the `digits_*`, elsewhere a seeded 20 % of the data. Made by `scripts/make-search-results`.

{verdict}

{summary}

Each answer, on the cases that were searched with and on those held out; drops are from the dense model on the same
cases, with 95 % intervals from pairs of answers. A search takes the luckiest of its trials, so the cases held out tend
to lose more than those it saw; `--confidence` asks for room for that. *trials*: models that were made and measured;
*seconds* on a machine with other work.

{details}
"""


def search_section() -> str:
    """Text and two tables."""
    models = json.loads(DATA.read_text(encoding="utf-8"))["models"]
    most = max(each["trials"] for ways in models.values() for each in ways.values())
    summary = markdown([summary_row(name, ways) for name, ways in models.items()])
    details = markdown([detail(name, way, each) for name, ways in models.items() for way, each in ways.items()])
    return TEXT.format(most=most, verdict=verdict(models), summary=summary, details=details)


def verdict(models: dict[str, Any]) -> str:
    """On how many models each way reaches enough more, and loses too much on the cases held out."""
    said = (
        f"Models where at least {100 * WORTH:.0f} points more falls than by {PLAIN}, and those that lose more than a\n"
        "point on the cases held out:"
    )
    return f"{said}\n\n{markdown([counts(models, way) for way in ways_of(models)])}"


def ways_of(models: dict[str, Any]) -> list[str]:
    """All ways, in order."""
    return list(dict.fromkeys(way for ways in models.values() for way in ways))


def counts(models: dict[str, Any], way: str) -> dict[str, str]:
    """How many models say what of a way."""
    tried = [ways for ways in models.values() if way in ways]
    lost = [ways[way]["held out"] for ways in tried]
    more = sum(gain(ways, way) >= WORTH for ways in tried)
    return {
        "way": way,
        f"{100 * WORTH:.0f} points more": "" if way == PLAIN else f"{more} of {len(tried)}",
        "over the bar on cases held out": str(sum(score["drop"] > BAR for score in lost)),
        "with the whole interval": str(sum(score["low"] > BAR for score in lost)),
    }


def gain(ways: dict[str, Any], way: str) -> float:
    """How much more than uniform magnitude falls."""
    return float(ways[way]["sparsity"]) - float(ways[PLAIN]["sparsity"])


def summary_row(name: str, ways: dict[str, Any]) -> dict[str, str]:
    """A model's sparsities, and the points between."""
    more = {way: f"{each['sparsity']:.1%} ({100 * gain(ways, way):+.1f})" for way, each in ways.items() if way != PLAIN}
    return {"model": name, PLAIN: f"{ways[PLAIN]['sparsity']:.1%}", **more}


def detail(name: str, way: str, found: dict[str, Any]) -> dict[str, str]:
    """One answer's cells."""
    return {
        "model": name,
        "way": way,
        "sparsity": f"{found['sparsity']:.1%}",
        "dealt out by": found["allocation"],
        "cases": f"{found['searched']['cases']:,}",
        "accuracy": f"{found['searched']['quality']:.3f}",
        "drop": drop(found["searched"]),
        "held out": f"{found['held out']['quality']:.3f}",
        "drop held out": drop(found["held out"]),
        "trials": str(found["trials"]),
        "seconds": f"{found['seconds']:.0f}",
    }


def drop(score: dict[str, Any]) -> str:
    """A drop and its interval."""
    return f"{score['drop']:.3f} ({score['low']:.3f} to {score['high']:.3f})"
