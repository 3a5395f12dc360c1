"""Loading and running a model before and after in onnxruntime, which is imported only here and only when asked for."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnx_tools.report import Check, Outcome, OutputDrift
from onnx_tools.verification.drift import DriftMeter
from onnx_tools.verification.feeds import Feed, InputSpec, NoRandomInputs, one_line, random_feeds, read_data, sliced
from oxiprune_gpu.errors import InvalidOption

NOT_INSTALLED = "onnxruntime is not installed (pip install 'oxiprune-gpu[run]')"
_FATAL = 4
_MOST_BYTES = 1 << 30
"""Of a model that is loaded to be compared."""

Shapes = Mapping[str, Sequence[int]]
"""Sizes of inputs that a model leaves open, by the name of the input."""


def check_runtime(
    before: pathlib.Path,
    after: pathlib.Path,
    data: pathlib.Path | None,
    max_drift: float | None,
    seed: int,
    shapes: Shapes | None = None,
) -> tuple[list[Check], list[OutputDrift]]:
    """Make the checks "runtime" (does it load?) and "drift" (what does it give?).

    `shapes`: of random inputs, where the model leaves them open.

    Raises `InvalidOption` if `data` does not fit the model or the model before cannot run on it.
    """
    try:
        old = open_session(before)
    except ImportError as error:
        missing = getattr(error, "name", None) == "onnxruntime"
        reason = NOT_INSTALLED if missing else f"onnxruntime cannot be imported: {one_line(error)}"
        return [Check("runtime", "warning", f"could not verify: {reason}"), _not_measured(max_drift, reason)], []
    except Exception as error:  # onnxruntime's errors share no base but Exception
        reason = f"could not verify: onnxruntime does not load the input: {one_line(error, before)}"
        return [
            Check("runtime", "warning", reason),
            _not_measured(max_drift, "onnxruntime does not load the input"),
        ], []
    try:
        new = open_session(after)
    except Exception as error:
        reason = f"onnxruntime loads the input, but not the output: {one_line(error, after)}"
        return [
            Check("runtime", "failed", reason),
            _not_measured(max_drift, "onnxruntime does not load the output"),
        ], []
    check, drifts = _drift(old, new, data, max_drift, seed, shapes)
    return [Check("runtime", "passed", "onnxruntime loads both"), check], drifts


def _not_measured(max_drift: float | None, reason: str) -> Check:
    """A limit that was asked for and can't be held against anything is not kept."""
    return Check("drift", "skipped" if max_drift is None else "failed", f"not measured: {reason}")


def _unmeasured(max_drift: float | None) -> Outcome:
    return "warning" if max_drift is None else "failed"


def open_session(path: pathlib.Path) -> Any:
    """A session with `session_options`."""
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), session_options(), providers=["CPUExecutionProvider"])


def session_options() -> Any:
    """Options of a session on one CPU thread, so that equal models give equal bits, and silent."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    return options


def _drift(
    old: Any, new: Any, data: pathlib.Path | None, max_drift: float | None, seed: int, shapes: Shapes | None
) -> tuple[Check, list[OutputDrift]]:
    try:
        feeds = feeds_for(old, data, seed, shapes)
    except NoRandomInputs as error:
        return Check("drift", _unmeasured(max_drift), f"could not run on random inputs: {error}"), []
    names = [output.name for output in old.get_outputs()]
    meters = [DriftMeter(name) for name in names]
    runs = 0
    for feed, expected in feeds:
        try:
            found = new.run(names, feed)
        except Exception as error:
            return Check("drift", "failed", f"the input runs, but not the output: {one_line(error)}"), []
        for meter, *values in zip(meters, expected, found, strict=True):
            meter.add(*values)
        runs += 1
    source = f"{data.name}, {runs} runs" if data is not None else f"random inputs, seed {seed}"
    return _judged(meters, source, max_drift), [meter.result() for meter in meters]


def feeds_for(
    session: Any, data: pathlib.Path | None, seed: int, shapes: Shapes | None = None
) -> Iterator[tuple[Feed, list[Any]]]:
    """Feeds that a model runs on, each with what it gives: of `data`, or random ones. Raises as `check_runtime`.

    Raises `NoRandomInputs` if it runs on no random ones.
    """
    given = shapes or {}
    inputs = [InputSpec(item.name, item.type, tuple(given.get(item.name, item.shape))) for item in session.get_inputs()]
    return _running_feed(session, inputs, seed) if data is None else _data_feeds(session, data, inputs)


def is_unmeasured(check: Check) -> bool:
    """Whether it is about outputs that could not be compared, rather than about what they give."""
    return check.name == "drift" and check.detail.startswith(("could not", "not measured"))


def too_large(model: pathlib.Path, files: Sequence[pathlib.Path]) -> Check | None:
    """The check "runtime", skipped, if two models of this size would be too much to hold in memory at once."""
    size = sum(file.stat().st_size for file in (model, *files))
    if size <= _MOST_BYTES:
        return None
    return Check("runtime", "skipped", f"the model has {size:,} bytes, and both would be in memory at once")


def _data_feeds(old: Any, data: pathlib.Path, inputs: list[InputSpec]) -> Iterator[tuple[Feed, list[Any]]]:
    """Each feed with what the model before gives."""
    arrays = read_data(data, inputs)

    def run() -> Iterator[tuple[Feed, list[Any]]]:
        for feed in sliced(arrays, inputs):
            try:
                yield feed, old.run(None, feed)
            except Exception as error:
                raise InvalidOption(f"{data}: the model cannot run on it: {one_line(error)}") from None

    return run()


def _running_feed(old: Any, inputs: list[InputSpec], seed: int) -> Iterator[tuple[Feed, list[Any]]]:
    """The first random feed that the model before runs on. Raises `NoRandomInputs` with the first reason if none."""
    first = ""
    try:
        for feed in random_feeds(inputs, seed):
            try:
                expected = old.run(None, feed)
            except Exception as error:
                first = first or one_line(error)
            else:
                return iter([(feed, expected)])
    except NoRandomInputs as error:
        first = first or str(error)
    raise NoRandomInputs(first)


def _judged(meters: list[DriftMeter], source: str, max_drift: float | None) -> Check:
    worst = max(meters, key=DriftMeter.excess, default=None)
    if worst is None:
        return Check("drift", "skipped" if max_drift is None else "passed", f"the model has no outputs ({source})")
    if all(meter.blank for meter in meters):
        reason = f"could not measure: all outputs are NaN or infinite, as before ({source})"
        return Check("drift", _unmeasured(max_drift), reason)
    result = worst.result()
    measured = "cannot be measured" if result.relative_l2 is None else f"{result.relative_l2:.3g} relative L2"
    uneven = f"; {result.note}" if result.note and math.isinf(worst.excess()) else ""
    detail = f"largest drift {measured}, output {result.output!r}{uneven} ({source})"
    if max_drift is None:
        return Check("drift", "measured", f"{detail}; no limit given (--max-drift)")
    return Check(
        "drift", "failed" if worst.excess() > max_drift else "passed", f"{detail}; at most {max_drift:g} allowed"
    )
