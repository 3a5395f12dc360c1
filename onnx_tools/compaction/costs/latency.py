"""How much faster a compacted model runs in onnxruntime: both models timed in turns, in one process, on one thread."""

from __future__ import annotations

import pathlib
import statistics
import time
from typing import Any

from onnx_tools.compact_report import LatencyReport
from onnx_tools.verification.feeds import Feed, NoRandomInputs, one_line
from onnx_tools.verification.runtime_check import NOT_INSTALLED, Shapes, feeds_for, open_session

_ROUNDS = 15
_ROUND_SECONDS = 0.02
"""What the runs of one model in one round take together, at least."""
_MOST_SECONDS = 20.0
"""For all rounds: fewer are made of a model that takes long, but never fewer than three."""


def measure_latency(
    before: pathlib.Path, after: pathlib.Path, data: pathlib.Path | None, seed: int, shapes: Shapes | None = None
) -> LatencyReport | str:
    """Time both models on the same input: the first feed of `data`, or random numbers; a text says why it can't be.

    After a warm-up each round times both, one after the other, in changing order, so that what slows the machine down
    for a while slows both. One round has as many runs as make the clock's grain no matter.
    """
    try:
        sessions = open_session(before), open_session(after)
        feed, _ = next(iter(feeds_for(sessions[0], data, seed, shapes)))
        slowest = max(_seconds(session, feed, 2) for session in sessions)
    except ImportError:
        return f"latency not measured: {NOT_INSTALLED}"
    except (NoRandomInputs, StopIteration) as error:
        return f"latency not measured: no input to run on: {one_line(error)}"
    except Exception as error:  # onnxruntime's errors share no base but Exception
        return f"latency not measured: {one_line(error, before, after)}"
    runs = max(1, int(_ROUND_SECONDS / max(slowest, 1e-9)))
    rounds = max(3, min(_ROUNDS, int(_MOST_SECONDS / (2 * runs * slowest))))
    return _report(
        _rounds(sessions, feed, runs, rounds), data.name if data is not None else f"random inputs, seed {seed}"
    )


def _rounds(sessions: tuple[Any, Any], feed: Feed, runs: int, rounds: int) -> list[tuple[float, float]]:
    """Seconds of a run of both models, round by round."""
    taken = []
    for number in range(rounds):
        first, second = sessions if number % 2 == 0 else reversed(sessions)
        pair = _seconds(first, feed, runs), _seconds(second, feed, runs)
        taken.append(pair if number % 2 == 0 else (pair[1], pair[0]))
    return taken


def _seconds(session: Any, feed: Feed, runs: int) -> float:
    start = time.perf_counter()
    for _ in range(runs):
        session.run(None, feed)
    return (time.perf_counter() - start) / runs


def _report(taken: list[tuple[float, float]], inputs: str) -> LatencyReport:
    before, after = (statistics.median(times) for times in zip(*taken, strict=True))
    low, ratio, high = statistics.quantiles((b / a for a, b in taken), n=4, method="inclusive")
    return LatencyReport(1000 * before, 1000 * after, ratio, low, high, len(taken), inputs)
