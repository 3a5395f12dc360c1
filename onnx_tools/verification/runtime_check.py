"""Loading and running a model before and after in onnxruntime, which is imported only here and only when asked for."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

from onnx_tools.report import Check, Outcome, OutputDrift
from onnx_tools.verification.drift import DriftMeter
from onnx_tools.verification.feeds import Feed, InputSpec, NoRandomInputs, one_line, random_feeds, read_data, sliced
from oxiprune_gpu.errors import InvalidOption

_NOT_INSTALLED = "onnxruntime is not installed (pip install 'oxiprune-gpu[run]')"
_FATAL = 4


def check_runtime(
    before: pathlib.Path, after: pathlib.Path, data: pathlib.Path | None, max_drift: float | None, seed: int
) -> tuple[list[Check], list[OutputDrift]]:
    """Make the checks "runtime" (does it load?) and "drift" (what does it give?).

    Raises `InvalidOption` if `data` does not fit the model or the model before cannot run on it.
    """
    try:
        old = _open(before)
    except ImportError as error:
        missing = getattr(error, "name", None) == "onnxruntime"
        reason = _NOT_INSTALLED if missing else f"onnxruntime cannot be imported: {one_line(error)}"
        return [Check("runtime", "warning", f"could not verify: {reason}"), _not_measured(max_drift, reason)], []
    except Exception as error:  # onnxruntime's errors share no base but Exception
        reason = f"could not verify: onnxruntime does not load the input: {one_line(error)}"
        return [
            Check("runtime", "warning", reason),
            _not_measured(max_drift, "onnxruntime does not load the input"),
        ], []
    try:
        new = _open(after)
    except Exception as error:
        reason = f"onnxruntime loads the input, but not the output: {one_line(error)}"
        return [
            Check("runtime", "failed", reason),
            _not_measured(max_drift, "onnxruntime does not load the output"),
        ], []
    check, drifts = _drift(old, new, data, max_drift, seed)
    return [Check("runtime", "passed", "onnxruntime loads both"), check], drifts


def _not_measured(max_drift: float | None, reason: str) -> Check:
    """A limit that was asked for and can't be held against anything is not kept."""
    return Check("drift", "skipped" if max_drift is None else "failed", f"not measured: {reason}")


def _unmeasured(max_drift: float | None) -> Outcome:
    return "warning" if max_drift is None else "failed"


def _open(path: pathlib.Path) -> Any:
    """A session on one CPU thread, so that equal models give equal bits, and silent."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _drift(
    old: Any, new: Any, data: pathlib.Path | None, max_drift: float | None, seed: int
) -> tuple[Check, list[OutputDrift]]:
    inputs = [InputSpec(item.name, item.type, tuple(item.shape)) for item in old.get_inputs()]
    try:
        feeds = _data_feeds(old, data, inputs) if data is not None else _running_feed(old, inputs, seed)
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
    detail = f"largest drift {measured}, output {result.output!r} ({source})"
    if max_drift is None:
        return Check("drift", "measured", f"{detail}; no limit given (--max-drift)")
    return Check(
        "drift", "failed" if worst.excess() > max_drift else "passed", f"{detail}; at most {max_drift:g} allowed"
    )
