"""What becomes of the models of the corpus when a part of their channels leaves: size, work, speed, quality."""

from __future__ import annotations

import re
import statistics
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from benchmark_tables import markdown

from onnx_tools import ChannelConfig, CompactReport, NothingSelected, compact_file, prune_channels

RUNS = (("30%", ChannelConfig(0.3)), ("30% in eights", ChannelConfig(0.3, round_to=8)), ("50%", ChannelConfig(0.5)))
ROUNDS, ROUND_SECONDS = 15, 0.05
MOST_REASONS = 6

TEXT = """Whole channels leave every model of the corpus, those of the lowest L1 norm of what makes and reads them:
`oxiprune prune --granularity channel --sparsity S --compact`. Nothing is retrained. Cells hold the figures of
{runs} of the channels of each layer, as far as they may leave. "In eights" is
`--round-to 8`: a multiple of 8 channels stays, or all; other numbers can be slower in onnxruntime.

- **parameters**, **bytes**, **MACs**: what is left, of all stored elements, of the files, of the multiply-accumulates.
- **faster**: time of the original over that of the compacted model in onnxruntime on one thread, both run in turns on
  the first batch of the evaluation data; median of {rounds} rounds. CPUs compute float16 in float32.
- **masked - compacted**: the largest difference between outputs of the model with zeros in these channels and of
  the compacted one over the evaluation data, relative to the largest value of that output.
- **channels**: groups of channels that left at {last}, and all that layers make."""


class Recorder:
    """A session that remembers what it was fed first, and all that it gave."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.first: tuple[Any, Any] | None = None
        self.given: list[Any] = []

    def run(self, names: Any, feed: Any) -> Any:
        self.first = self.first or (names, {name: np.copy(value) for name, value in feed.items()})
        given = self._session.run(names, feed)
        self.given.append(given)
        return given

    def milliseconds(self, runs: int, first: tuple[Any, Any]) -> float:
        """Of one run on the input `first`, as the mean of some."""
        start = time.perf_counter()
        for _ in range(runs):
            self._session.run(*first)
        return 1000 * (time.perf_counter() - start) / runs


@dataclass
class Scored:
    """A model on the evaluation data."""

    value: float
    metric: str
    session: Recorder


@dataclass
class Compacted:
    """A model without some of its channels. `report` is None where none may leave; `faster`, `apart`: where it runs."""

    report: CompactReport | None
    score: Scored | None = None
    faster: float | None = None
    apart: float | None = None


@dataclass
class CompactionResult:
    """One model in every run; `staying`: why channels stay."""

    name: str
    before: Scored | None
    runs: list[Compacted]
    staying: list[str]


def measure_compaction(model: Path, scorer: ModuleType, folder: Path) -> CompactionResult:
    """All runs of one model; `folder` takes its copies."""
    before = scored(scorer, model.parent, model)
    runs = []
    for name, config in RUNS:
        place = folder / f"{model.parent.name}, {name}"
        place.mkdir()
        runs.append(compacted(model, config, scorer, place, before))
        print(f"{place.name}: {runs[-1].faster or 0:.2f} times as fast", flush=True)
    return CompactionResult(model.parent.name, before, runs, staying(compact_file(model, dry_run=True)))


def compacted(model: Path, config: ChannelConfig, scorer: ModuleType, folder: Path, before: Scored | None) -> Compacted:
    """Masks, removal, and both models on the evaluation data."""
    masked, out = folder / "masked.onnx", folder / "compacted.onnx"
    try:
        prune_channels(model, masked, config=config)
    except NothingSelected:
        return Compacted(None)
    result = Compacted(compact_file(masked, out))
    zeroed, result.score = (scored(scorer, model.parent, path) for path in (masked, out))
    if before is None or zeroed is None or result.score is None:
        return result
    result.apart = apart(zeroed.session.given, result.score.session.given)
    result.faster = faster(before.session, result.score.session)
    return result


def scored(scorer: ModuleType, folder: Path, model: Path) -> Scored | None:
    """The corpus' own score, with what the model gave on the way; None where onnxruntime refuses the model."""
    sessions: list[Recorder] = []
    open_session = scorer.session

    def recording(path: str) -> Recorder:
        sessions.append(Recorder(open_session(path)))
        return sessions[-1]

    scorer.session = recording
    try:
        found = scorer.score(str(folder), str(model))
    finally:
        scorer.session = open_session
    return Scored(float(found["value"]), found["metric"], sessions[0]) if sessions else None


def apart(some: Sequence[Sequence[Any]], others: Sequence[Sequence[Any]]) -> float:
    """The largest difference of an output over all runs, relative to its largest value."""
    return max(apart_in(*both) for both in zip(zip(*some, strict=True), zip(*others, strict=True), strict=True))


def apart_in(some: Sequence[Any], others: Sequence[Any]) -> float:
    """The same of one output; 0 for what is no array of floats."""
    if not isinstance(some[0], np.ndarray) or some[0].dtype.kind != "f":
        return 0.0
    gap = max(np.abs(a.astype(np.float64) - b).max(initial=0) for a, b in zip(some, others, strict=True))
    return float(gap / (max(np.abs(a).max(initial=0) for a in some) or 1.0))


def faster(one: Recorder, other: Recorder) -> float:
    """How many times as long `one` takes: the median over rounds, in each of which both run, in changing order."""
    assert one.first is not None
    first = one.first
    runs = max(1, int(1000 * ROUND_SECONDS / max(session.milliseconds(2, first) for session in (one, other))))
    ratios = []
    for number in range(ROUNDS):
        pair = {session: session.milliseconds(runs, first) for session in ((one, other), (other, one))[number % 2]}
        ratios.append(pair[one] / pair[other])
    return statistics.median(ratios)


def staying(report: CompactReport) -> list[str]:
    """Why channels stay, the names of nodes left out, so that one reason stands once: most channels first."""
    counts: Counter[str] = Counter()
    for note in report.staying:
        counts[re.sub(r"'[^']*'", "...", note.reason)] += note.channels
    return [f"{count} by *{reason}*" for reason, count in counts.most_common()]


def compaction_section(results: Iterable[CompactionResult]) -> str:
    """The table, and why channels stay."""
    known = list(results)
    text = TEXT.format(runs=" / ".join(name for name, _ in RUNS), rounds=ROUNDS, last=RUNS[-1][0])
    reasons = "\n".join(bullet(f"**{result.name}**: {reasons_of(result)}") for result in known if result.staying)
    table = markdown([row(result) for result in known])
    return f"{text}\n\n{table}\n\nChannels that stay, whatever is asked for, and what holds them:\n\n{reasons}"


def row(result: CompactionResult) -> dict[str, str]:
    """One model's cells."""
    totals = [None if run.report is None else run.report.totals for run in result.runs]
    score = result.before
    return {
        "model": result.name,
        "parameters": cells([t and t.parameters_after / t.parameters_before for t in totals], ".2f"),
        "bytes": cells([t and (t.bytes_after or 0) / (t.bytes_before or 1) for t in totals], ".2f"),
        "MACs": cells([t and t.macs_before and t.macs_after / t.macs_before for t in totals], ".2f"),
        "faster": cells([run.faster for run in result.runs], ".2f"),
        "metric": "-" if score is None else score.metric,
        "before": "-" if score is None else f"{score.value:.3f}",
        "after": cells([run.score and run.score.value for run in result.runs], ".3f"),
        "masked - compacted": cells([run.apart for run in result.runs], ".1e"),
        "channels": "none" if totals[-1] is None else f"{totals[-1].removed} of {totals[-1].channels}",
    }


def cells(values: Iterable[float | None], how: str) -> str:
    found = ["-" if value is None else format(value, how) for value in values]
    return " / ".join(found) if set(found) != {"-"} else "-"


def bullet(text: str) -> str:
    return textwrap.fill(text, 120, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)


def reasons_of(result: CompactionResult) -> str:
    shown = result.staying[:MOST_REASONS]
    more = len(result.staying) - len(shown)
    return "; ".join([*shown, *([f"{more} reasons more"] if more else [])])
